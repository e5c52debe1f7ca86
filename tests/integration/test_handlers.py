"""The handlers as processes on both engines: killed, frozen, replaced. Each command still gets one outcome."""

import json
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from bus.admission import AdmissionState, Admitted, Bad, Verdict, Void, admit
from bus.clock import new_id
from bus.ports import Bus, Message
from events.actors import HANDLERS, PORTAL, agent_user
from events.codec import encode
from events.delivery import RunJob, decode_delivery
from events.envelope import Event
from events.job import SubmitJob, Target
from events.node import NodeConnected
from events.routing import routing_key
from events.script import PublishScript, ScriptRetired
from tests import handlers_process, leases
from tests.contract.bus_contract import EmbeddedEngine, RabbitEngine, new_node
from tests.freezing import freeze
from tests.servers.management import Management
from tests.waiting import wait_until

#: Seconds; a new holder on RabbitMQ waits for the broker to miss two heartbeats of a frozen one.
PATIENCE = 60.0
ECHO = "descr = 'says its parameters'\n\ndef action(**params):\n    return params\n"


class Field:
    """A fleet on one engine, with an agent that is only an inbox, and processes of the handlers."""

    def __init__(self, engine: EmbeddedEngine | RabbitEngine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.url = engine.url(HANDLERS) if isinstance(engine, RabbitEngine) else f"sqlite://{folder / 'bus'}"
        self.portal = engine.bus(PORTAL)
        self.node = new_node()
        engine.invite(self.node)
        self.agent = engine.bus(agent_user(self.node))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.state = AdmissionState()
        self.found: list[Verdict] = []
        self.reader = self.portal.stream("log").read_from("first")

    def start(self, name: str = "a", *, lease: float = leases.LONG) -> subprocess.Popen[bytes]:
        process = handlers_process.start(self.url, self.folder / f"{name}.snapshot", self.log(name), lease=lease)
        self.processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        leases.let_leases_end(self.folder / "bus", process.pid)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str, words: str) -> bool:
        return self.log(name).exists() and words in self.log(name).read_text()

    def wait_for(self, name: str, words: str) -> None:
        wait_until(lambda: self.said(name, words), deadline=PATIENCE, what=f"{words!r} in the log of {name}")

    def say(self, bus: Bus, type: str, actor: str, data: Struct, **fields: Any) -> Event:
        event = Event(
            id=new_id(), source="test", type=type, subject="s", time=datetime.now(UTC), actor=actor, data=data, **fields
        )
        bus.publish(Message(routing_key(event), encode(event), event.id, event.type)).result(PATIENCE)
        return event

    def command(self, type: str, data: Struct) -> str:
        return self.say(self.portal, type, "user:alice", data).id

    def submit(self) -> str:
        return self.command("command.job.submit", SubmitJob(script="echo", target=Target(node=self.node)))

    def begin(self) -> None:
        """A script, and a node whose inbox is open."""
        self.inbox = self.agent.inbox(self.node)
        self.inbox.open([f"{self.node}.node"])
        boot = new_id()
        data = NodeConnected(node=self.node, boot=boot, journal=new_id())
        self.say(self.agent, "event.node.connected", f"node:{self.node}", data, producer=boot, seq=1)
        self.command("command.script.publish", PublishScript(name="echo", source=ECHO))

    def verdicts(self) -> list[Verdict]:
        """On everything that is in the log by now."""
        end = self.portal.stream("log").next_offset()
        while self.state.next_offset < end:
            self.found += [admit(self.state, record) for record in self.reader.read(timeout=1.0)]
        return self.found

    def outcomes(self) -> Counter[str]:
        """Admitted outcomes by command."""
        events = [verdict.event for verdict in self.verdicts() if isinstance(verdict, Admitted)]
        commands = {event.id for event in events if event.is_command}
        causes = [event.causationid for event in events if event.causationid is not None]
        return Counter(cause for cause in causes if cause in commands)

    def wait_for_outcomes(self, commands: list[str]) -> None:
        wait_until(lambda: set(commands) <= set(self.outcomes()), deadline=PATIENCE, what="an outcome for each command")

    def delivered(self, count: int) -> Counter[str]:
        """Jobs put into the inbox, until `count` different ones came."""
        jobs: Counter[str] = Counter()

        def enough() -> bool:
            found = self.inbox.read(timeout=0.2)
            for delivery in (decode_delivery(one.body) for one in found):
                if isinstance(delivery, RunJob):
                    jobs[delivery.job] += 1
            self.inbox.ack([one.tag for one in found])
            return len(jobs) >= count

        wait_until(enough, deadline=PATIENCE, what=f"{count} jobs in the inbox")
        return jobs

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()


ENGINES = ["embedded", pytest.param("rabbitmq", marks=pytest.mark.servers)]


@pytest.fixture(params=ENGINES)
def field(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Field]:
    engine: EmbeddedEngine | RabbitEngine
    if request.param == "embedded":
        engine = EmbeddedEngine(tmp_path / "bus")
    else:
        management: Management = request.getfixturevalue("rabbitmq_management")
        engine = RabbitEngine(management, request.getfixturevalue("amqp_vhost"))
    made = Field(engine, tmp_path)
    yield made
    made.close()
    engine.close()


def test_one_of_two_processes_decides_and_the_other_takes_over(field: Field) -> None:
    first = field.start("a")
    field.wait_for("a", "seat taken")
    field.start("b")
    field.wait_for("b", "standing by")
    field.begin()
    before = [field.submit() for _ in range(20)]
    field.wait_for_outcomes(before)
    assert not field.said("b", "seat taken")
    field.kill(first)
    after = [field.submit() for _ in range(20)]
    field.wait_for_outcomes(before + after)
    assert field.said("b", "seat taken")
    assert set(field.outcomes().values()) == {1}


def test_a_frozen_process_that_wakes_changes_nothing(field: Field) -> None:
    first = field.start("a", lease=leases.REAL)
    field.wait_for("a", "seat taken")
    field.begin()
    field.start("b")
    field.wait_for("b", "standing by")
    commands = [field.submit() for _ in range(300)]
    freeze(first, field.folder / "bus")
    field.wait_for("b", "seat taken")
    commands += [field.submit() for _ in range(50)]
    field.wait_for_outcomes(commands)
    first.send_signal(signal.SIGCONT)
    assert first.wait(PATIENCE) == 3, field.log("a").read_text()
    jobs = field.delivered(350)
    assert set(jobs) == set(commands)
    assert set(field.outcomes().values()) == {1}


def test_what_a_former_holder_still_says_is_void_for_every_reader(field: Field) -> None:
    first = field.start("a")
    field.wait_for("a", "seat taken")
    old = next(v.event for v in field.verdicts() if isinstance(v, Admitted) and v.event.type == "event.seat.taken")
    field.kill(first)
    field.start("b")
    field.wait_for("b", "seat taken")
    zombie = field.engine.bus(HANDLERS)
    late = field.say(
        zombie, "event.script.retired", "system:fleet", ScriptRetired(name="echo"), seattoken=old.id, causationid=old.id
    )
    field.begin()
    field.wait_for_outcomes([field.submit()])
    assert [verdict.event.id for verdict in field.verdicts() if isinstance(verdict, Void)] == [late.id]
    field.delivered(1)


def test_killed_again_and_again_in_the_middle_of_1000_commands_each_gets_its_job_once(field: Field) -> None:
    process = field.start("a")
    field.wait_for("a", "seat taken")
    field.begin()
    commands = []
    for n in range(1000):
        commands.append(field.submit())
        if n % 250 == 125:
            field.kill(process)
            process = field.start("a")
    field.wait_for_outcomes(commands)
    assert set(field.delivered(1000)) == set(commands)
    assert set(field.outcomes().values()) == {1}


def test_a_batch_of_1000_survives_a_kill_in_the_middle_of_its_deliveries(field: Field) -> None:
    process = field.start("a")
    field.wait_for("a", "seat taken")
    field.begin()
    jobs = [field.submit() for _ in range(999)]
    wait_until(lambda: len(field.inbox.read(timeout=0.05)) > 0, deadline=PATIENCE, what="a first delivery")
    field.kill(process)
    field.start("b")
    jobs.append(field.submit())
    field.wait_for_outcomes(jobs)
    field.inbox.close()
    field.begin()
    assert set(field.delivered(1000)) == set(jobs)


GARBAGE: list[tuple[str, Callable[[Event], bytes]]] = [
    ("command.job.submit", lambda event: b"not json"),
    ("command.job.submit", lambda event: b"\x00\xff" * 2_500_000),
    ("command.job.submit", lambda event: json.dumps({"specversion": "1.0"}).encode()),
    ("command.job.submit", lambda event: encode(event).replace(b'"script"', b'"scirpt"')),
    ("command.job.explode", lambda event: encode(event).replace(b"job.submit", b"job.explode")),
    ("command.job.cancel", encode),
    ("command.job.submit", lambda event: encode(event).replace(b"user:alice", b"node:n1")),
    ("something.else.altogether", lambda event: b"{}"),
]


def test_garbage_is_bad_with_a_reason_and_stops_nothing(field: Field) -> None:
    field.start("a")
    field.wait_for("a", "seat taken")
    field.begin()
    good = Event(
        id=new_id(),
        source="test",
        type="command.job.submit",
        subject="s",
        time=datetime.now(UTC),
        actor="user:alice",
        data=SubmitJob(script="echo", target=Target(node=field.node)),
    )
    # the exchange's alternate takes what nobody bound; whoever may write any key at all sends it
    anyone = field.engine.bus(PORTAL)
    sent = 0
    for key, body in GARBAGE:
        future = anyone.publish(Message(key, body(good), id=new_id()))
        sent += future.exception(PATIENCE) is None
    field.wait_for_outcomes([field.submit()])
    bad = [verdict.reason for verdict in field.verdicts() if isinstance(verdict, Bad)]
    assert len(bad) == sent >= 6
    assert all(bad)


def test_a_snapshot_spares_the_reading_and_a_cut_log_is_noticed(tmp_path: Path) -> None:
    field = Field(EmbeddedEngine(tmp_path / "bus"), tmp_path)
    process = field.start("a")
    field.wait_for("a", "seat taken")
    field.begin()
    field.wait_for_outcomes([field.submit() for _ in range(30)])
    process.terminate()
    assert process.wait(PATIENCE) == 0
    field.engine.close()
    with sqlite3.connect(tmp_path / "bus" / "bus.db") as db:
        db.execute("DELETE FROM log WHERE offset > (SELECT max(offset) FROM log) - 10")
    field.start("a")
    field.wait_for("a", "log diverged")
    wait_until(
        lambda: field.log("a").read_text().count("seat taken") == 2, deadline=PATIENCE, what="the seat taken again"
    )
    field.close()


def test_a_snapshot_is_taken_up(tmp_path: Path) -> None:
    field = Field(EmbeddedEngine(tmp_path / "bus"), tmp_path)
    process = field.start("a")
    field.wait_for("a", "seat taken")
    field.begin()
    jobs = [field.submit() for _ in range(5)]
    field.wait_for_outcomes(jobs)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    field.start("a")
    wait_until(
        lambda: field.log("a").read_text().count("seat taken") == 2, deadline=PATIENCE, what="the seat taken again"
    )
    field.wait_for_outcomes([*jobs, field.submit()])
    assert set(field.delivered(6)) >= set(jobs)
    assert "diverged" not in field.log("a").read_text()
    field.close()
    field.engine.close()
