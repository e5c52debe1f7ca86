"""`fleetbus emulate` on a real broker: its agents are nodes like any other, and lose nothing when they lose touch."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bus.admission import AdmissionState, Admitted, Duplicate, admit
from bus.clock import new_id
from bus.ports import Bus, Message
from bus.rabbitmq.names import inbox_queue
from events.actors import HANDLERS, PORTAL, agent_user
from events.codec import encode
from events.envelope import Event
from events.job import BatchCreated, JobFinished, SubmitJob, Target
from events.routing import routing_key
from events.script import PublishScript
from tests import handlers_process
from tests.contract.bus_contract import RabbitEngine
from tests.servers.management import Management
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

AGENTS = 8
SOON = 60.0
EMPTY = "descr = 'does nothing'\n\ndef action():\n    pass\n"


class Log:
    """The admitted facts of the log, as far as it was read."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._reader = bus.stream("log").read_from("first")
        self._state = AdmissionState()
        self.facts: list[Event] = []
        self.repeated = 0

    def close(self) -> None:
        self._reader.close()

    def read(self) -> list[Event]:
        for record in self._reader.read(1000, 0.1):
            verdict = admit(self._state, record)
            self.repeated += isinstance(verdict, Duplicate)
            if isinstance(verdict, Admitted):
                self.facts.append(verdict.event)
        return self.facts

    def connected(self) -> set[str]:
        return {event.subject for event in self.read() if event.type == "event.node.connected"}

    def wait_for_connections(self, count: int) -> None:
        def found() -> bool:
            return sum(event.type == "event.node.connected" for event in self.read()) >= count

        wait_until(found, deadline=SOON, what=f"{count} connections")

    def wait_for_ends(self, count: int) -> None:
        wait_until(lambda: len(self.ends()) >= count, deadline=SOON, what=f"the ends of {count} jobs")

    def ends(self) -> list[str]:
        return [event.data.job for event in self.read() if isinstance(event.data, JobFinished)]

    def ask(self, type: str, data: PublishScript | SubmitJob) -> str:
        event = Event(
            id=new_id(), source="t", type=type, subject="s", time=datetime.now(UTC), actor="user:t", data=data
        )
        self._bus.publish(Message(routing_key(event), encode(event), event.id, type)).result(SOON)
        return event.id


@pytest.fixture
def prefix() -> str:
    """Users belong to the broker that all tests share."""
    return f"e{uuid.uuid4().hex[:8]}"


@pytest.fixture
def emulate(
    rabbitmq_management: Management, amqp_vhost: str, tmp_path: Path, prefix: str
) -> Iterator["subprocess.Popen[str]"]:
    """Agents that lose their connection every second or so, and the handlers that they need."""
    engine = RabbitEngine(rabbitmq_management, amqp_vhost)
    handlers = handlers_process.start(engine.url(HANDLERS), tmp_path / "snapshot", tmp_path / "handlers.log")
    env = {
        **os.environ,
        "FLEETBUS_BUS_URL": amqp_vhost,
        "FLEETBUS_MANAGEMENT_URL": rabbitmq_management.url,
    }
    options = ["--agents", str(AGENTS), "--role", "cpu", "--prefix", prefix, "--lose-every", "1", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fleetbus", "emulate", *options, "--json"], env=env, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SOON)
    handlers.terminate()
    handlers.wait(SOON)
    engine.close()


def test_jobs_on_agents_that_keep_losing_their_connection_end_once_each_and_nothing_is_left_behind(
    emulate: "subprocess.Popen[str]", rabbitmq_management: Management, amqp_vhost: str, prefix: str
) -> None:
    engine = RabbitEngine(rabbitmq_management, amqp_vhost)
    bus = engine.bus(PORTAL)
    log = Log(bus)
    nodes = {f"{prefix}-{n:05}" for n in range(1, AGENTS + 1)}
    wait_until(lambda: nodes <= log.connected(), deadline=SOON, what="all emulated agents to connect")
    log.ask("command.script.publish", PublishScript(name="empty", source=EMPTY))
    for batch in range(1, 6):
        log.ask("command.job.submit", SubmitJob(script="empty", target=Target(role="cpu", all=True)))
        log.wait_for_ends(batch * AGENTS)
        # between the batches some of them have lost their connection and come back
        log.wait_for_connections(AGENTS + 2 * batch)
    asked = [one.job for event in log.facts if isinstance(event.data, BatchCreated) for one in event.data.jobs]
    assert sorted(log.ends()) == sorted(asked)
    emulate.send_signal(signal.SIGINT)
    told, _ = emulate.communicate(timeout=SOON)
    assert emulate.returncode == 0
    last = json.loads(told.splitlines()[-1])
    assert (last["agents"], last["jobs"]) == (AGENTS, 5 * AGENTS)
    assert last["lost"] > 0
    users = {user["name"] for user in rabbitmq_management.ask("GET", "users")}
    queues = {queue["name"] for queue in rabbitmq_management.ask("GET", "queues")}
    assert not users & {agent_user(node) for node in nodes}
    assert not queues & {inbox_queue(node) for node in nodes}
    log.close()
    engine.close()


def test_without_a_broker_it_says_what_is_missing() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLEETBUS_")}
    command = [sys.executable, "-m", "fleetbus", "emulate", "--agents", "1"]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "FLEETBUS_BUS_URL" in done.stderr
    assert "Traceback" not in done.stderr
