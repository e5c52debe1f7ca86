"""`fleetbus log copy` from the embedded bus to a real broker."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from bus.admission import AdmissionState, Admitted, admit
from bus.checkpoint import log_id
from bus.clock import new_id
from bus.embedded import EmbeddedBus
from bus.ports import Bus, Message, Record, Seat
from bus.rabbitmq import RabbitBus
from bus.topology import declare
from events.codec import encode
from events.envelope import Event
from events.node import NodeConnected, SetMaintenance
from events.routing import blob_key, key_for
from tests.servers.management import Management

COPIED = 1_200


@pytest.fixture
def impersonator_url(amqp_vhost: str, rabbitmq_management: Management) -> Iterator[str]:
    """The virtual host of this test, as a user who may speak for others."""
    with user(amqp_vhost, rabbitmq_management, "impersonator") as url:
        yield url


@pytest.fixture
def plain_url(amqp_vhost: str, rabbitmq_management: Management) -> Iterator[str]:
    """The same as a user who may do everything else."""
    with user(amqp_vhost, rabbitmq_management, "") as url:
        yield url


@contextmanager
def user(vhost: str, management: Management, tags: str) -> Iterator[str]:
    at = urlsplit(vhost)
    name, password = f"copy-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    management.ask("PUT", f"users/{name}", {"password": password, "tags": tags})
    every = {"configure": ".*", "write": ".*", "read": ".*"}
    management.ask("PUT", f"permissions/{quote(at.path[1:], safe='')}/{name}", every)
    yield f"amqp://{name}:{password}@{at.hostname}:{at.port}{at.path}"
    management.ask("DELETE", f"users/{name}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A bus on which the portal, an agent and the handlers spoke, and somebody said garbage."""
    folder = tmp_path / "a folder" / "bus"
    with closing(EmbeddedBus(folder, "portal")) as portal, closing(EmbeddedBus(folder, "node.n1")) as agent:
        producer = new_id()
        for n in range(1, COPIED // 2):
            say(portal, "command.node.maintenance", "user:alice", SetMaintenance(node="n1", on=bool(n % 2)))
            connected = NodeConnected(node="n1", boot=producer, journal=producer)
            say(agent, "event.node.connected", "node:n1", connected, producer=producer, seq=n)
        portal.publish(Message(key="nobody.knows.this", body=b"\xff garbage")).result(30)
        for n in range(3):
            chunk = Message(key=blob_key("ab" * 32, n, 3), body=bytes([n]) * 100_000)
            agent.publish(chunk).result(30)
    return folder


def say(bus: Bus, type: str, actor: str, data: object, producer: str | None = None, seq: int | None = None) -> None:
    event = Event(
        id=new_id(),
        source="tests",
        type=type,
        subject="n1",
        time=datetime.now(UTC),
        actor=actor,
        data=data,
        producer=producer,
        seq=seq,
    )
    bus.publish(Message(key=key_for(type, actor), body=encode(event), id=event.id, type=type))


def copy(source: Path, target: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fleetbus", "log", "copy", f"sqlite://{quote(str(source))}", target, "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def everything(bus: Bus, name: str) -> list[Record]:
    stream = bus.stream("log" if name == "log" else "blobs")
    end, found = stream.next_offset(), list[Record]()
    with stream.read_from("first") as reader:
        while len(found) < end:
            records = reader.read(1_000, timeout=60.0)
            assert records, f"the {name} ends at {len(found)} of {end}"
            found += records
    return found


def test_a_copied_log_is_the_same_log_and_admits_the_same_events(source: Path, impersonator_url: str) -> None:
    done = copy(source, impersonator_url)
    assert done.returncode == 0, done.stderr
    with (
        closing(EmbeddedBus(source, "handlers")) as before,
        closing(RabbitBus(impersonator_url)) as after,
    ):
        for name in ("log", "blobs"):
            assert everything(after, name) == everything(before, name)
        records = everything(after, "log")
        first = before.stream("log").first()
    assert first is not None
    assert json.loads(done.stdout) == {"blobs": 3, "log": len(records)}
    assert log_id(records[0]) == log_id(first)
    state = AdmissionState()
    verdicts = [admit(state, record) for record in records]
    assert sum(isinstance(verdict, Admitted) for verdict in verdicts) == len(records) - 1


def test_a_copy_that_was_cut_off_goes_on_where_it_was(source: Path, impersonator_url: str) -> None:
    assert copy(source, impersonator_url).returncode == 0
    with closing(EmbeddedBus(source, "portal")) as portal:
        for _ in range(20):
            say(portal, "command.node.maintenance", "user:alice", SetMaintenance(node="n1", on=True))
    done = copy(source, impersonator_url)
    assert done.returncode == 0, done.stderr
    with closing(EmbeddedBus(source, "handlers")) as before, closing(RabbitBus(impersonator_url)) as after:
        assert everything(after, "log") == everything(before, "log")


def test_a_target_that_has_a_log_of_its_own_is_refused(source: Path, impersonator_url: str) -> None:
    declare(impersonator_url)
    with closing(RabbitBus(impersonator_url)) as other:
        other.publish(Message(key="event.log.created", body=b"{}")).result(30)
    done = copy(source, impersonator_url)
    assert done.returncode == 2
    assert "a log of its own" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_who_may_not_speak_for_others_is_told_what_is_missing(source: Path, plain_url: str) -> None:
    done = copy(source, plain_url)
    assert done.returncode == 3
    assert "impersonator" in done.stderr
    assert str(urlsplit(plain_url).password) not in done.stderr


def test_a_log_that_is_in_use_is_not_copied(source: Path, impersonator_url: str) -> None:
    with closing(EmbeddedBus(source, "handlers")) as handlers:
        seat, done = _copied_while_held(handlers, source, impersonator_url)
        seat.release()
    assert done.returncode == 3
    assert "stop `fleetbus up`" in done.stderr


def _copied_while_held(handlers: EmbeddedBus, source: Path, url: str) -> tuple[Seat, subprocess.CompletedProcess[str]]:
    """A machine that is too busy to renew the lease in time proves nothing: then once more."""
    for _ in range(5):
        seat = handlers.seat("fleet")
        assert seat.acquire(30.0)
        done = copy(source, url)
        if seat.held:
            return seat, done
    raise AssertionError("the seat was lost five times; the machine is too busy for this test")
