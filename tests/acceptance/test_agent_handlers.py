"""Agents, handlers and the embedded bus, all real: commands in, ends out, while everything is killed now and then."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from msgspec import Struct

from bus.embedded import EmbeddedBus
from bus.ports import Message
from events.codec import encode
from events.envelope import Event
from events.job import CancelJob, SubmitJob, Target
from events.node import SetRoles
from events.routing import routing_key
from events.script import PublishScript
from tests import handlers_process
from tests.agents import AgentProcess, Player
from tests.freezing import freeze
from tests.jobscripts import MARK, MARK_AND_WAIT
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

#: Seconds for everything to come to rest on a busy machine.
PATIENCE = 180.0


class Fleet:
    """The handlers and the agent of n1 as processes; `look` reads the log as everybody does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.look = Player(folder / "bus")
        self.portal = EmbeddedBus(folder / "bus", "portal")
        self.handlers: list[subprocess.Popen[bytes]] = []
        self.agents: list[AgentProcess] = []
        self.start_handlers()
        self.start_agent()

    def start_handlers(self) -> None:
        url = f"sqlite://{self.folder / 'bus'}"
        self.handlers.append(handlers_process.start(url, self.folder / "snapshot", self.folder / "handlers.log"))

    def start_agent(self) -> None:
        self.agents.append(AgentProcess(self.look, self.folder / "data"))

    def kill_handlers(self) -> None:
        self.handlers[-1].kill()
        self.handlers[-1].wait(30)
        self.start_handlers()

    def kill_agent(self) -> None:
        self.agents[-1].kill()
        self.start_agent()

    def kill_worker(self) -> None:
        workers = psutil.Process(self.agents[-1].process.pid).children()
        if workers:
            random.choice(workers).kill()

    def command(self, type: str, subject: str, data: Struct) -> str:
        id = str(uuid4())
        event = Event(
            id=id,
            source="test",
            type=type,
            subject=subject,
            time=datetime.now(UTC),
            actor="user:alice",
            data=data,
            correlationid=id,
        )
        self.portal.publish(Message(key=routing_key(event), body=encode(event), id=id, type=type)).result(30)
        return id

    def publish(self, name: str, source: str) -> None:
        self.command("command.script.publish", name, PublishScript(name=name, source=source))
        self.wait_for("script.published")

    def submit(self, script: str, target: Target | None = None, **params: object) -> str:
        asked = SubmitJob(script=script, target=target or Target(node="n1"), params=params, start_within=600)
        return self.command("command.job.submit", script, asked)

    def wait_for(self, type: str) -> Event:
        return wait_until(lambda: self.look.facts(type), deadline=PATIENCE, what=f"event.{type}")[-1]

    def close(self) -> None:
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.kill()
        for process in self.handlers:
            if process.poll() is None:
                process.kill()
            process.wait(30)
        self.portal.close()
        self.look.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    fleet.wait_for("node.connected")
    yield fleet
    fleet.close()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    path = tmp_path / "marks"
    path.touch()
    return path


def test_500_jobs_end_in_exactly_one_state_and_none_runs_twice_whatever_is_killed(fleet: Fleet, marks: Path) -> None:
    fleet.publish("mark", MARK)
    jobs = [fleet.submit("mark", path=str(marks), text=f"job{n}") for n in range(500)]
    dice = random.Random(5)
    kills: list[Callable[[], None]] = [fleet.kill_worker, fleet.kill_agent, fleet.kill_worker, fleet.kill_handlers] * 3
    for kill in kills:
        time.sleep(dice.uniform(0.5, 2.0))
        kill()
    ends = fleet.look.all_finished(jobs, deadline=PATIENCE)
    ran = Counter(marks.read_text().split())
    assert max(ran.values()) == 1
    for n, job in enumerate(jobs):
        assert ends[job].data.outcome in ("succeeded", "failed")
        assert ends[job].data.outcome == "failed" or ran[f"job{n}"] == 1
    assert fleet.look.facts("job.expired") == fleet.look.facts("job.lost") == []
    assert fleet.look.gaps() == []
    assert fleet.look.bad() == []


def test_a_cancelled_job_ends_cancelled_although_the_agent_was_down(fleet: Fleet, marks: Path) -> None:
    fleet.publish("hold", MARK_AND_WAIT)
    freeze(fleet.agents[-1].process, fleet.folder / "bus")
    job = fleet.submit("hold", path=str(marks), text="ran", until="/nowhere")
    fleet.wait_for("job.queued")
    fleet.command("command.job.cancel", job, CancelJob(job=job))
    fleet.wait_for("job.cancel_requested")
    fleet.kill_agent()
    assert fleet.look.finished(job, deadline=PATIENCE).data.outcome == "cancelled"
    assert marks.read_text() == ""


def test_roles_given_by_command_are_bound_and_work(fleet: Fleet, marks: Path) -> None:
    fleet.publish("mark", MARK)
    fleet.command("command.node.roles", "n1", SetRoles(node="n1", roles=("storage.ssd",)))
    fleet.wait_for("node.roles_set")
    job = fleet.submit("mark", Target(role="storage"), path=str(marks), text="ran")
    assert fleet.look.finished(job, deadline=PATIENCE).data.outcome == "succeeded"


def test_an_agent_that_says_farewell_is_not_heard_again(fleet: Fleet) -> None:
    assert fleet.agents[-1].stop() == 0
    fleet.wait_for("node.disconnected")
    began = time.monotonic()
    # the seat says something at least every 30 seconds; whoever was heard of lately would be called online by then
    wait_until(lambda: time.monotonic() - began > 5, deadline=30, what="the handlers to look after presence")
    assert fleet.look.facts("node.online") == []
