"""What the tests of the agent share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leases
from tests.agents import QUEUES, AgentProcess, AgentThread, Player


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    """Who plays the handlers of node n1."""
    player = Player(tmp_path / "bus")
    yield player
    player.close()


@pytest.fixture
def start_agent(
    player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., AgentThread]]:
    """Starts the agent of n1 in this process; its data folder stays the same over several starts."""
    # a busy machine must not take its inbox away
    monkeypatch.setattr("bus.embedded.LEASE", leases.LONG)
    monkeypatch.setattr("nodeagent.wiring.DEFAULT_QUEUES", QUEUES)
    started: list[AgentThread] = []

    def start(data: str = "data", **more: Any) -> AgentThread:
        agent = AgentThread(player, tmp_path / data, **more)
        started.append(agent)
        return agent

    yield start
    for agent in started:
        agent.stop()


@pytest.fixture
def agent(player: Player, start_agent: Callable[..., AgentThread]) -> AgentThread:
    """The agent of n1, connected."""
    agent = start_agent()
    player.connected()
    return agent


@pytest.fixture
def start_process(player: Player, tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Starts the agent of n1 as a process that may be killed; its data folder stays the same over several starts."""
    started: list[AgentProcess] = []

    def start(**more: Any) -> AgentProcess:
        process = AgentProcess(player, tmp_path / "data", **more)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A file outside of everything, in which scripts leave a line when they really run."""
    path = tmp_path / "marks"
    path.touch()
    return path
