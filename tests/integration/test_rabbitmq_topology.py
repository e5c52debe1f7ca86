"""The topology on a real broker: declared once, again, and against what contradicts it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from bus import topology
from bus.errors import BadUrl, NotConfirmed, Refused, Unreachable
from bus.ports import Message, Record
from bus.rabbitmq import RabbitBus, publisher
from bus.users import ensure_user
from events.actors import HANDLERS
from tests.contract.bus_contract import PASSWORD, SOON
from tests.servers.management import Management


@pytest.fixture
def vhost(amqp_vhost: str) -> str:
    return urlsplit(amqp_vhost).path.removeprefix("/")


@pytest.fixture
def handlers_url(rabbitmq_management: Management, amqp_vhost: str, vhost: str) -> str:
    ensure_user(rabbitmq_management.url, vhost, HANDLERS, PASSWORD)
    at = urlsplit(amqp_vhost)
    return at._replace(netloc=f"{HANDLERS}:{PASSWORD}@{at.hostname}:{at.port}").geturl()


@pytest.fixture
def bus(handlers_url: str) -> Iterator[RabbitBus]:
    made = RabbitBus(handlers_url)
    yield made
    made.close()


def found(management: Management, what: str, vhost: str) -> Any:
    return management.ask("GET", f"{what}/{vhost}")


def bindings(management: Management, vhost: str) -> set[tuple[str, str, str]]:
    """(source, destination, key), without those that every queue has to the default exchange."""
    rows = found(management, "bindings", vhost)
    return {(row["source"], row["destination"], row["routing_key"]) for row in rows if row["source"]}


def test_the_rights_of_the_handlers_are_enough_to_declare_it_all(
    handlers_url: str, rabbitmq_management: Management, vhost: str
) -> None:
    topology.apply(handlers_url)
    assert bindings(rabbitmq_management, vhost) == {
        ("fleetbus", "fleetbus.log", "command.#"),
        ("fleetbus", "fleetbus.log", "event.#"),
        ("fleetbus.unrouted", "fleetbus.log", ""),
        ("fleetbus", "fleetbus.telemetry", "telemetry.#"),
        ("fleetbus", "fleetbus.blobs", "blob.#"),
    }
    queues = {row["name"]: (row["type"], row["durable"]) for row in found(rabbitmq_management, "queues", vhost)}
    assert queues == {
        "fleetbus.log": ("stream", True),
        "fleetbus.telemetry": ("stream", True),
        "fleetbus.blobs": ("stream", True),
        "seat.fleet": ("classic", True),
    }
    exchanges = {row["name"]: row for row in found(rabbitmq_management, "exchanges", vhost)}
    assert exchanges["fleetbus"]["arguments"] == {"alternate-exchange": "fleetbus.unrouted"}
    kinds = {name: row["type"] for name, row in exchanges.items() if name.startswith("fleetbus")}
    assert kinds == {"fleetbus": "topic", "fleetbus.deliver": "topic", "fleetbus.unrouted": "fanout"}


def test_the_log_has_no_retention(handlers_url: str, rabbitmq_management: Management, vhost: str) -> None:
    topology.apply(handlers_url)
    arguments = {row["name"]: row["arguments"] for row in found(rabbitmq_management, "queues", vhost)}
    assert arguments["fleetbus.log"] == arguments["fleetbus.blobs"] == {"x-queue-type": "stream"}
    assert {"x-max-age", "x-max-length-bytes"} < set(arguments["fleetbus.telemetry"])


def test_applying_it_again_changes_nothing_and_loses_nothing(handlers_url: str, bus: RabbitBus) -> None:
    topology.apply(handlers_url)
    log = bus.stream("log")
    first = log.first()
    bus.publish(Message(key="event.a.b", body=b"kept")).result(SOON)
    topology.apply(handlers_url)
    assert log.first() == first
    assert log.next_offset() == 2


def test_the_log_begins_once_however_many_begin_it(handlers_url: str, bus: RabbitBus) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(topology.apply, [handlers_url] * 4))
    assert bus.stream("log").next_offset() == 1
    first = bus.stream("log").first()
    assert first is not None
    assert (first.key, first.user) == ("event.log.created", HANDLERS)


@pytest.mark.parametrize(("what", "body"), [
    ("queues/{}/fleetbus.log", {"durable": True, "arguments": {"x-queue-type": "classic"}}),
    ("queues/{}/fleetbus.telemetry", {"durable": True, "arguments": {"x-queue-type": "stream", "x-max-age": "9D"}}),
    ("queues/{}/seat.fleet", {"durable": True, "arguments": {"x-queue-type": "quorum"}}),
    ("exchanges/{}/fleetbus", {"type": "fanout", "durable": True}),
])  # fmt: skip
def test_what_exists_with_other_properties_is_an_error_that_names_it(
    handlers_url: str, rabbitmq_management: Management, vhost: str, what: str, body: dict[str, Any]
) -> None:
    name = what.split("/")[2]
    rabbitmq_management.ask("PUT", what.format(vhost), body)
    with pytest.raises(Refused, match=f"other properties.* for (queue|exchange) '{name}'"):
        topology.apply(handlers_url)


def test_who_may_not_declare_is_told_so(rabbitmq_management: Management, amqp_vhost: str, vhost: str) -> None:
    ensure_user(rabbitmq_management.url, vhost, "portal", PASSWORD)
    at = urlsplit(amqp_vhost)
    url = at._replace(netloc=f"portal:{PASSWORD}@{at.hostname}:{at.port}").geturl()
    with pytest.raises(Refused, match=r"'fleetbus\.unrouted'.*ACCESS_REFUSED"):
        topology.apply(url)


def test_an_unreachable_broker_and_a_bad_url_are_told_apart() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 ") as caught:
        topology.apply("amqp://handlers:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(BadUrl):
        topology.apply("amqp://nowhere")


def test_who_comes_before_the_topology_waits_for_it(handlers_url: str, bus: RabbitBus) -> None:
    future = bus.publish(Message(key="event.a.b", body=b"early"))
    reader = bus.stream("log").read_from("first")
    assert reader.read(timeout=1.0) == []
    applying = threading.Thread(target=topology.apply, args=(handlers_url,))
    applying.start()
    records: list[Record] = []
    while len(records) < 2:
        records += reader.read(timeout=SOON)
    applying.join()
    assert future.result(SOON) is None
    assert b"early" in {record.body for record in records}


def test_a_missing_topology_is_the_reason_that_is_given(
    bus: RabbitBus, handlers_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 4.0)
    with pytest.raises(NotConfirmed, match="the topology is not there yet: start the handlers"):
        bus.publish(Message(key="event.a.b", body=b"")).result(SOON)
    monkeypatch.setattr("bus.rabbitmq.probe.PATIENCE", 3.0)
    with pytest.raises(Unreachable, match="the topology is not there yet"):
        bus.stream("log").first()
    with pytest.raises(Unreachable, match="the topology is not there yet"):
        bus.seat("fleet").acquire(3.0)
