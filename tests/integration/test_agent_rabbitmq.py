"""The agent on a real broker, with a user that has an agent's rights and no more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.clock import SystemClock
from bus.genesis import first_record
from bus.ports import Bus
from events.actors import HANDLERS, agent_user
from tests.agents import QUEUES, AgentThread, Player
from tests.contract.bus_contract import RabbitEngine, new_node
from tests.jobscripts import EMPTY, LARGE, MARK, MARK_AND_WAIT
from tests.proxy import Proxy
from tests.servers.management import Management
from tests.servers.rabbitmq import RabbitMQ
from tests.waiting import wait_until

#: Seconds within which a broker is up again, and everyone has come back.
UP_AGAIN = 120.0


@pytest.fixture
def engine(rabbitmq_management: Management, amqp_vhost: str) -> Iterator[RabbitEngine]:
    made = RabbitEngine(rabbitmq_management, amqp_vhost)
    yield made
    made.close()


@pytest.fixture
def proxy(engine: RabbitEngine) -> Iterator[Proxy]:
    """Between the agent and the broker; the handlers have their own way."""
    with Proxy(engine.port) as between:
        yield between


@pytest.fixture(autouse=True)
def few_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.wiring.DEFAULT_QUEUES", QUEUES)


def play(bus: Bus, folder: Path) -> Player:
    """The handlers of a node that nobody else knows."""
    bus.publish(first_record("test", SystemClock().now(), "0" * 8 + "-0000-4000-8000-" + "0" * 12)).result(30)
    return Player(folder, new_node(), bus)


@pytest.fixture
def player(engine: RabbitEngine, tmp_path: Path) -> Iterator[Player]:
    player = play(engine.bus(HANDLERS), tmp_path)
    yield player
    player.close()


@pytest.fixture
def agent(player: Player, engine: RabbitEngine, proxy: Proxy, tmp_path: Path) -> Iterator[AgentThread]:
    bus = engine.bus(agent_user(player.node), folder=tmp_path, port=proxy.port)
    agent = AgentThread(player, tmp_path / "data", bus=bus)
    yield agent
    proxy.thaw()
    agent.stop()


def seen(marks: Path) -> list[str]:
    return marks.read_text().split()


def test_a_job_goes_round_and_all_that_the_agent_says_is_admitted(player: Player, agent: AgentThread) -> None:
    player.connected()
    jobs = [player.run(EMPTY) for _ in range(20)] + [player.run(LARGE, {"size": 600_000})]
    player.all_finished(jobs)
    assert player.bad() == []
    assert player.gaps() == []
    assert wait_until(lambda: player.telemetry("heartbeat"), deadline=30, what="a heartbeat")


def test_roles_are_bound_and_unbound(player: Player, agent: AgentThread) -> None:
    player.connected()
    player.finished(player.run(EMPTY, via="cpu"))
    player.stand(10, roles=("storage",))
    delivery = player.run_job(EMPTY)
    wait_until(lambda: player.try_deliver(delivery, "storage"), deadline=30, what="the new role to be bound")
    player.finished(delivery.job)
    wait_until(lambda: not player.try_deliver(player.run_job(EMPTY), "cpu"), deadline=30, what="the old to be unbound")


def test_after_a_loss_of_the_connection_the_agent_connects_anew_and_nothing_is_twice(
    player: Player, agent: AgentThread, proxy: Proxy, marks: Path
) -> None:
    player.connected()
    deliveries = [player.run_job(MARK, {"path": str(marks), "text": f"job{n}"}) for n in range(60)]
    for n, delivery in enumerate(deliveries):
        player.deliver(delivery)
        if n in (15, 30, 45):
            proxy.cut()
    player.connected(2, deadline=60)
    for delivery in deliveries:  # the handlers' answer
        player.deliver(delivery)
    player.all_finished([delivery.job for delivery in deliveries], deadline=60)
    assert sorted(seen(marks)) == sorted(f"job{n}" for n in range(60))
    assert player.gaps() == []


def test_while_the_broker_is_away_jobs_run_on_and_their_facts_arrive_later(
    player: Player, agent: AgentThread, proxy: Proxy, marks: Path
) -> None:
    player.connected()
    gate = marks.with_name("gate")
    held = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "held", "until": str(gate)})
    wait_until(lambda: seen(marks), deadline=30, what="the job to run")
    waiting = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "waiting", "until": str(gate)})
    wait_until(lambda: agent.marks().get(waiting), deadline=30, what="the job to be accepted")
    proxy.refuse()
    gate.touch()
    wait_until(lambda: agent.marks().get(waiting) == "done", deadline=30, what="both jobs to end")
    assert player.facts("job.finished") == []
    proxy.thaw()
    player.all_finished([held, waiting], deadline=60)
    assert seen(marks) == ["held", "waiting"]


def test_an_agent_may_be_started_before_there_is_a_broker(
    player: Player, engine: RabbitEngine, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.refuse()
    bus = engine.bus(agent_user(player.node), folder=tmp_path, port=proxy.port)
    agent = AgentThread(player, tmp_path / "data", bus=bus)
    proxy.thaw()
    player.connected(deadline=60)
    player.finished(player.run(EMPTY))
    assert agent.stop() == 0


def test_an_agent_that_waits_for_the_broker_stops_when_told_to(
    player: Player, engine: RabbitEngine, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.refuse()
    bus = engine.bus(agent_user(player.node), folder=tmp_path, port=proxy.port)
    agent = AgentThread(player, tmp_path / "data", bus=bus)
    assert agent.stop() == 0


@pytest.mark.slow
def test_a_clone_is_refused(player: Player, agent: AgentThread, engine: RabbitEngine, tmp_path: Path) -> None:
    player.connected()
    clone = AgentThread(player, tmp_path / "clone", bus=engine.bus(agent_user(player.node), folder=tmp_path / "clone"))
    assert clone.wait() == 3
    player.finished(player.run(EMPTY))
    assert len({event.data.boot for event in player.facts("node.connected")}) == 1


def test_an_agent_with_the_credentials_of_another_node_is_refused(
    player: Player, engine: RabbitEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.invite(player.node)
    stranger = AgentThread(player, tmp_path / "data", bus=engine.bus(agent_user(new_node())))
    assert stranger.wait() == 3
    assert "may not be the node" in capsys.readouterr().out
    assert player.facts("node") == []


@pytest.mark.slow
@pytest.mark.chaos
def test_a_broker_that_stops_for_20_seconds_while_jobs_run_loses_and_repeats_nothing(
    private_rabbitmq: RabbitMQ, tmp_path: Path, marks: Path
) -> None:
    engine = RabbitEngine(private_rabbitmq.management, private_rabbitmq.url)
    player = play(engine.bus(HANDLERS), tmp_path)
    agent = AgentThread(player, tmp_path / "data", bus=engine.bus(agent_user(player.node), folder=tmp_path))
    player.connected(deadline=UP_AGAIN)
    slow = MARK.replace("with open", "import time; time.sleep(1.0)\n    with open")
    deliveries = [player.run_job(slow, {"path": str(marks), "text": f"job{n}"}, start_within=600) for n in range(40)]
    for delivery in deliveries:
        player.deliver(delivery)
    wait_until(lambda: len(agent.marks()) == 40, deadline=30, what="all jobs to be accepted")
    private_rabbitmq.stop()
    before = len(seen(marks))
    wait_until(lambda: len(seen(marks)) >= min(40, before + 10), deadline=60, what="jobs to run on")
    private_rabbitmq.start()
    player.connected(2, deadline=UP_AGAIN)
    player.all_finished([delivery.job for delivery in deliveries], deadline=UP_AGAIN)
    assert sorted(seen(marks)) == sorted(f"job{n}" for n in range(40))
    assert player.gaps() == []
    assert agent.stop() == 0
    player.close()
