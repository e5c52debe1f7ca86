"""Streams read over RabbitMQ's native protocol: the same records, as trustworthy, whatever happens on the way."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
import rstream

from bus.errors import BadUrl, NotConfirmed, Refused
from bus.ports import Bus, Message, Reader, Record
from bus.rabbitmq import RabbitBus
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.link import Link, Login
from bus.rabbitmq.native import address
from bus.rabbitmq.reader import StreamReader
from events.actors import ARCHIVER, HANDLERS, PORTAL, PROJECTIONS, agent_user
from tests.contract.bus_contract import PASSWORD, SOON, RabbitEngine, event, new_node, read_some
from tests.proxy import Proxy
from tests.servers.management import Management
from tests.unit.test_rabbitmq_chunk import PUBLISHED
from tests.waiting import wait_until


@pytest.fixture
def engine(rabbitmq_management: Management, amqp_vhost: str, stream_url: str) -> Iterator[RabbitEngine]:
    made = RabbitEngine(rabbitmq_management, amqp_vhost, stream_url)
    yield made
    made.close()


@pytest.fixture
def amqp(rabbitmq_management: Management, amqp_vhost: str, engine: RabbitEngine) -> Iterator[RabbitEngine]:
    """The same broker, whose streams are read over AMQP 0.9.1."""
    made = RabbitEngine(rabbitmq_management, amqp_vhost)
    yield made
    made.close()


class Network:
    """What lies between a process and the broker: one proxy for AMQP, one for the stream protocol."""

    def __init__(self, engine: RabbitEngine) -> None:
        self.bus = Proxy(engine.port)
        self.stream = Proxy(urlsplit(engine.stream_url).port or 0)
        self.stream_url = f"rabbitmq-stream://127.0.0.1:{self.stream.port}"
        self._url = engine.url(PROJECTIONS, self.bus.port)
        self._opened: list[RabbitBus] = []

    def behind(self) -> RabbitBus:
        self._opened.append(RabbitBus(self._url, stream_url=self.stream_url))
        return self._opened[-1]

    def close(self) -> None:
        for bus in self._opened:
            bus.close()
        self.bus.close()
        self.stream.close()


@pytest.fixture
def network(engine: RabbitEngine) -> Iterator[Network]:
    made = Network(engine)
    yield made
    made.close()


def publish(bus: Bus, *messages: Message) -> None:
    for future in [bus.publish(message) for message in messages]:
        future.result(SOON)


def send(bus: Bus, message: Message) -> None:
    def confirmed() -> bool:
        try:
            bus.publish(message).result(SOON)
        except NotConfirmed:
            return False
        return True

    wait_until(confirmed, deadline=60, what="a confirm")


def is_over(reader: Reader, kind: type[Link] | type[Channel]) -> bool:
    assert isinstance(reader, StreamReader)
    return isinstance(reader._source, kind)


def wait_for(reader: Reader, kind: type[Link] | type[Channel], within: float = SOON) -> None:
    wait_until(lambda: is_over(reader, kind), deadline=within, what=f"reading over a {kind.__name__}")


def all_of(bus: Bus) -> list[Record]:
    log = bus.stream("log")
    end, records = log.next_offset(), list[Record]()
    with log.read_from(0) as reader:
        while not records or records[-1].next_offset < end:
            records += reader.read(timeout=SOON)
    return records


# ---------------------------------------------------------------- trust


def test_both_protocols_give_the_same_records_whatever_a_publisher_claims_in_headers(
    engine: RabbitEngine, amqp: RabbitEngine
) -> None:
    claims = {"x-routing-key": "event.fake.key", "x-exchange": "other", "user-id": HANDLERS, "x-stream-offset": 7}
    connection = pika.BlockingConnection(pika.URLParameters(engine.url(PORTAL)))
    channel = connection.channel()
    channel.confirm_delivery()
    cases: list[tuple[str, bytes, dict[str, Any]]] = [
        ("event.a.b", b"plain", {"user_id": PORTAL, "message_id": "m", "type": "event.a.b", "delivery_mode": 2}),
        ("event.a.b", b"nobody", {}),
        ("event.a.b", b"", {"user_id": PORTAL}),
        ("event.a.b", b"claims", {"user_id": PORTAL, "headers": claims}),
        ("event.a.b", b"claims alone", {"headers": claims}),
        ("event.a.b", b"copies", {"user_id": PORTAL, "headers": {"CC": ["event.c.c"], "table": {"x": [1]}}}),
        ("event.a.b", b"all", {"user_id": PORTAL, "message_id": "m" * 255, "correlation_id": "c" * 255, "priority": 3,
                               "reply_to": "r", "app_id": "a", "expiration": "60000", "content_encoding": "gzip"}),
        ("event.a.b", b"\x00Ss\xc0\x15\r@\xa0\x08handlers", {"user_id": PORTAL, "type": "amqp-1.0"}),
        ("event.\u00e4\u2603", bytes(300_000), {"user_id": PORTAL, "message_id": "\u2603"}),
    ]  # fmt: skip
    for key, body, properties in cases:
        channel.basic_publish("fleetbus", key, body, pika.BasicProperties(**properties))
    connection.close()
    over_amqp, native = all_of(amqp.bus(PROJECTIONS)), all_of(engine.bus(PROJECTIONS))
    assert native == over_amqp
    assert {record.user for record in native} == {HANDLERS, PORTAL, None}
    assert {record.key for record in native} == {"event.log.created", "event.a.b", "event.\u00e4\u2603"}


def appends_directly(engine: RabbitEngine, user: str, message: bytes) -> bool:
    """Whether this user may write to the log's stream itself, where nobody verifies a `user-id`."""

    async def append() -> None:
        at = urlsplit(engine.stream_url)
        producer = rstream.Producer(
            host="127.0.0.1", port=at.port or 0, vhost=engine.vhost, username=user, password=PASSWORD
        )
        try:
            await producer.start()
            await asyncio.wait_for(producer.send_wait("fleetbus.log", message), SOON)
        finally:
            await producer.close()

    try:
        asyncio.run(append())
    except (rstream.exceptions.AccessRefused, rstream.exceptions.PublisherDoesNotExist):
        # the second is what rstream makes of the first when it tidies up
        return False
    return True


def test_who_may_not_declare_the_log_may_not_write_to_it_past_the_exchange(engine: RabbitEngine) -> None:
    """The stream protocol verifies no `user-id`. What is claimed with it would count as verified."""
    node = new_node()
    engine.invite(node)
    users = (PORTAL, PROJECTIONS, ARCHIVER, "service.billing", agent_user(node))
    for user in users:
        engine.url(user)
    assert [user for user in users if appends_directly(engine, user, PUBLISHED)] == []
    assert [record.key for record in all_of(engine.bus(PROJECTIONS))] == ["event.log.created"]


def test_what_rabbitmq_itself_cannot_read_is_a_record_of_nobody_and_stops_nobody(engine: RabbitEngine) -> None:
    """Over AMQP 0.9.1 the broker's conversion breaks down on it, for every reader, for ever."""
    handlers = engine.bus(HANDLERS)
    assert appends_directly(engine, HANDLERS, b"garbage")
    publish(handlers, event(1))
    with engine.bus(PROJECTIONS).stream("log").read_from(1) as reader:
        wait_for(reader, Link)
        garbage, last = read_some(reader, 2)
    assert garbage == Record(1, b"garbage", "", None)
    assert (last.offset, last.user) == (2, HANDLERS)


def test_a_stream_that_may_not_be_read_is_refused(engine: RabbitEngine) -> None:
    node = new_node()
    engine.invite(node)
    with (
        engine.bus(agent_user(node)).stream("log").read_from("first") as reader,
        pytest.raises(Refused, match=r"fleetbus\.log"),
    ):
        reader.read(timeout=SOON)


def test_a_stream_that_is_not_there_yet_is_waited_for(
    rabbitmq_management: Management, amqp_vhost: str, stream_url: str
) -> None:
    bus = RabbitBus(amqp_vhost, stream_url=stream_url)
    with bus.stream("log").read_from(0) as reader:
        assert reader.read(timeout=0.5) == []
        engine = RabbitEngine(rabbitmq_management, amqp_vhost, stream_url)
        assert read_some(reader, 1)[0].key == "event.log.created"
        engine.close()
    bus.close()


@pytest.mark.parametrize("url", [
    "rabbitmq-stream://user:secret@host:5552", "amqp://host", "rabbitmq-stream://", "rabbitmq-stream://host:port",
    "rabbitmq-stream://host/secret", "rabbitmq-stream://host?secret=1",
])  # fmt: skip
def test_a_bad_address_is_told_without_its_password(url: str) -> None:
    with pytest.raises(BadUrl, match="rabbitmq-stream://HOST:PORT") as caught:
        RabbitBus("amqp://user:secret@127.0.0.1:1/v", stream_url=url)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- another way when there is none


def opened(engine: RabbitEngine, stream_url: str, **login: str) -> None:
    """A link, greeted and closed again; raises `ChannelGone` when there is none."""
    broker = urlsplit(engine.url(PROJECTIONS))
    who = {"user": PROJECTIONS, "password": PASSWORD, "vhost": engine.vhost, "cluster": "", "name": "test", **login}

    async def open_and_close() -> None:
        assert broker.hostname
        (await Link.open(address(stream_url), Login(**who), lambda *_: None)).close()

    asyncio.run(open_and_close())


@pytest.mark.parametrize(("login", "reason"), [
    ({"cluster": "another@broker"}, "another@broker"),
    ({"password": "wrong"}, "user and password"),
    ({"vhost": "elsewhere"}, "virtual host"),
])  # fmt: skip
def test_a_broker_that_is_another_or_says_no_gives_no_link(
    engine: RabbitEngine, login: dict[str, str], reason: str
) -> None:
    opened(engine, engine.stream_url)
    with pytest.raises(ChannelGone, match=reason):
        opened(engine, engine.stream_url, **login)


def test_another_protocol_gives_no_link(engine: RabbitEngine) -> None:
    with pytest.raises(ChannelGone):
        opened(engine, f"rabbitmq-stream://127.0.0.1:{engine.port}")


def test_where_nobody_speaks_it_streams_are_read_over_amqp_until_somebody_does(
    engine: RabbitEngine, network: Network, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bus.rabbitmq.native.AGAIN_AFTER", 0.2)
    monkeypatch.setattr("bus.rabbitmq.reader.LOOK_EVERY", 0.3)
    writer = engine.bus(HANDLERS)
    network.stream.refuse()
    with network.behind().stream("log").read_from(1) as reader:
        publish(writer, *(event(n) for n in range(500)))
        records = read_some(reader, 500)
        assert is_over(reader, Channel)
        publish(writer, *(event(n) for n in range(500, 900)))
        network.stream.thaw()
        wait_for(reader, Link)
        publish(writer, *(event(n) for n in range(900, 1_000)))
        records += read_some(reader, 500)
    assert [record.offset for record in records] == list(range(1, 1_001))
    assert capsys.readouterr().out.count("bus.not_native") == 1


# ---------------------------------------------------------------- faults


def test_a_reader_goes_on_behind_what_it_returned_over_a_connection_that_keeps_breaking(
    engine: RabbitEngine, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the protocols take turns."""
    monkeypatch.setattr("bus.rabbitmq.native.AGAIN_AFTER", 0.1)
    monkeypatch.setattr("bus.rabbitmq.reader.LOOK_EVERY", 0.1)
    writer, stop, count = engine.bus(HANDLERS), threading.Event(), 0

    def write() -> None:
        nonlocal count
        while not stop.is_set():
            publish(writer, *(event(count + n) for n in range(100)))
            count += 100

    thread = threading.Thread(target=write)
    thread.start()
    records: list[Record] = []
    disturb = [network.stream.cut, network.bus.cut, network.stream.refuse, network.stream.thaw] * 2
    with network.behind().stream("log").read_from(1) as reader:
        for each in disturb:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                records += reader.read(limit=77, timeout=0.1)
            each()
        stop.set()
        thread.join()
        wait_for(reader, Link, 30)
        while len(records) < count:
            records += reader.read(timeout=SOON)
    assert [record.body for record in records] == [str(n).encode() for n in range(count)]


@pytest.mark.slow
def test_a_broker_that_hangs_is_noticed(
    engine: RabbitEngine, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.rabbitmq.link.SILENT_AFTER", 3.0)
    monkeypatch.setattr("bus.rabbitmq.native.AGAIN_AFTER", 0.1)
    writer = engine.bus(HANDLERS)
    with network.behind().stream("log").read_from(1) as reader:
        wait_for(reader, Link)
        network.stream.freeze()
        assert reader.read(timeout=0.1) == []
        send(writer, event(1))
        # over AMQP, as nobody answers
        assert read_some(reader, 1, within=40)[0].body == b"1"


def test_what_nobody_reads_waits_with_the_broker(engine: RabbitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.rabbitmq.reader.MOST_BYTES", 100_000)
    handlers = engine.bus(HANDLERS)
    with engine.bus(PROJECTIONS).stream("log").read_from(1) as reader:
        wait_for(reader, Link)
        messages = [Message("event.test.said", b"%6d" % n + bytes(20_000)) for n in range(400)]
        # what is published at once may be one chunk, and a chunk comes whole
        for first in range(0, 400, 20):
            publish(handlers, *messages[first : first + 20])
        assert isinstance(reader, StreamReader)
        waiting = reader._bytes
        records = read_some(reader, 400)
    assert [int(record.body[:6]) for record in records] == list(range(400))
    # less than a third, and that only if chunks are large
    assert waiting < 400 * 20_000 / 3


def test_readers_and_buses_that_are_closed_leave_no_connection(
    engine: RabbitEngine, rabbitmq_management: Management, tmp_path: Path
) -> None:
    def connections() -> int:
        found = rabbitmq_management.ask("GET", f"vhosts/{engine.vhost}/connections")
        return sum(
            one.get("protocol", "").startswith("stream") or "Stream" in str(one.get("protocol")) for one in found
        )

    bus = engine.bus(PROJECTIONS)
    readers = [bus.stream("log").read_from(0) for _ in range(3)]
    for reader in readers:
        wait_for(reader, Link)
    links = [reader._source for reader in readers if isinstance(reader, StreamReader)]
    readers[0].close()
    bus.close()
    for link in links:
        assert isinstance(link, Link)
        assert link._gone.done()
        assert link._transport is None or link._transport.is_closing()
    wait_until(lambda: connections() == 0, deadline=30, what="the end of the stream connections")
