"""What RabbitMQ's streams do that a log kept by a table would not: chunks, retention, slots that hold no record."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pika
import pytest
import rstream

from bus.errors import NotConfirmed, Refused
from bus.ports import Message, Record, Start
from bus.rabbitmq.names import STREAMS
from bus.rabbitmq.reader import StreamReader
from bus.users import ensure_user
from events.actors import HANDLERS
from tests.contract.bus_contract import PASSWORD, SOON, RabbitEngine, event, read_some
from tests.servers.management import Management
from tests.servers.rabbitmq import RabbitMQ


@pytest.fixture
def engine(rabbitmq_management: Management, amqp_vhost: str) -> Iterator[RabbitEngine]:
    made = RabbitEngine(rabbitmq_management, amqp_vhost)
    yield made
    made.close()


def test_next_offset_is_right_however_large_the_last_chunk_is(engine: RabbitEngine) -> None:
    """What many publish at once is written at once."""
    buses = [engine.bus(HANDLERS) for _ in range(4)]

    def publish(bus_number: int) -> None:
        for future in [buses[bus_number].publish(event(n)) for n in range(2_500)]:
            future.result(SOON)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(publish, range(4)))
    assert buses[0].stream("log").next_offset() == 10_001


# ---------------------------------------------------------------- retention


@pytest.fixture
def short(engine: RabbitEngine, monkeypatch: pytest.MonkeyPatch) -> str:
    """The blobs are in a stream of a few small segments, of which RabbitMQ has dropped the first."""
    name = "fleetbus.short"
    connection = pika.BlockingConnection(pika.URLParameters(engine.admin_url))
    channel = connection.channel()
    limits = {"x-max-length-bytes": 100_000, "x-stream-max-segment-size-bytes": 50_000}
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream", **limits})
    channel.queue_unbind("fleetbus.blobs", "fleetbus", "blob.#")
    channel.queue_bind(name, "fleetbus", "blob.#")
    connection.close()
    monkeypatch.setitem(STREAMS, "blobs", name)
    handlers = engine.bus(HANDLERS)
    for n in range(400):
        handlers.publish(Message(key=f"blob.{'0' * 64}.{n}.400", body=b"%d" % n + bytes(2_000))).result(SOON)
    return name


@pytest.mark.parametrize("start", [0, 1, "first"])
def test_a_reader_of_what_is_dropped_begins_with_the_oldest_that_is_kept(
    engine: RabbitEngine, short: str, start: Start
) -> None:
    stream = engine.admin().stream("blobs")
    first = stream.first()
    assert first is not None
    assert number(first) > 100
    with stream.read_from(start) as reader:
        records = read_some(reader, 400 - number(first))
    assert records[0] == first
    assert [number(record) for record in records] == list(range(number(first), 400))
    assert stream.next_offset() == records[-1].next_offset
    assert stream.offset_at(datetime.now(UTC) - timedelta(hours=1)) == first.offset


def test_a_new_segment_takes_an_offset_of_its_own(engine: RabbitEngine, short: str) -> None:
    """So a log of more than one segment has gaps, also when nobody tracks anything."""
    stream = engine.admin().stream("blobs")
    first = stream.first()
    assert first is not None
    with stream.read_from("first") as reader:
        records = read_some(reader, 400 - number(first))
    gaps = [after.offset - before.next_offset for before, after in itertools.pairwise(records)]
    assert set(gaps) == {0, 1}


def number(record: Record) -> int:
    return int(record.body.rstrip(b"\0"))


# ---------------------------------------------------------------- slots without a record


@pytest.fixture
def tracked(stream_url: str, rabbitmq_management: Management, engine: RabbitEngine) -> int:
    """The offset of the last record, behind which RabbitMQ has written what readers of its own protocol told it."""
    ensure_user(rabbitmq_management.url, engine.vhost, HANDLERS, PASSWORD)
    handlers = engine.bus(HANDLERS)
    for n in range(5):
        handlers.publish(event(n)).result(SOON)
    port = urlsplit(stream_url).port or 0

    async def store() -> None:
        consumer = rstream.Consumer(
            host="127.0.0.1", port=port, vhost=engine.vhost, username=HANDLERS, password=PASSWORD
        )
        await consumer.start()
        for n in range(3):
            await consumer.store_offset("fleetbus.log", f"reader-{n}", n)
            # one chunk for each
            assert await consumer.query_offset("fleetbus.log", f"reader-{n}") == n
        await consumer.close()

    asyncio.run(store())
    return handlers.stream("log").next_offset() - 1


def test_next_offset_does_not_mind_slots_without_a_record(engine: RabbitEngine, tracked: int) -> None:
    assert tracked == 5


def test_offsets_have_gaps_and_readers_step_over_them(engine: RabbitEngine, tracked: int) -> None:
    handlers = engine.bus(HANDLERS)
    end = handlers.stream("log").next_offset()
    with handlers.stream("log").read_from(end) as reader, handlers.stream("log").read_from("next") as other:
        handlers.publish(event(99)).result(SOON)
        (record,) = read_some(reader, 1)
        assert read_some(other, 1) == [record]
    assert record.offset > end
    assert handlers.stream("log").next_offset() == record.next_offset
    with handlers.stream("log").read_from("first") as reader:
        records: list[Record] = read_some(reader, 7)
    assert [each.offset for each in records] == [*range(6), record.offset]


# ---------------------------------------------------------------- limits of a broker


class Strict(RabbitMQ):
    """Takes messages of at most 100,000 bytes."""

    def write_configuration(self) -> None:
        super().write_configuration()
        with (self.directory / "rabbitmq.conf").open("a") as file:
            file.write("max_message_size = 100000\n")


@pytest.mark.slow
def test_a_message_that_is_too_large_for_the_broker_is_refused(
    private_server: Callable[[type[RabbitMQ]], RabbitMQ],
) -> None:
    broker = private_server(Strict)
    engine = RabbitEngine(broker.management, broker.url)
    bus = engine.bus(HANDLERS)
    futures = [bus.publish(Message(key="event.test.said", body=bytes(size))) for size in (10, 100_001, 10, 100_000)]
    errors = [future.exception(SOON) for future in futures]
    assert isinstance(errors[1], Refused)
    assert "100001" in str(errors[1])
    assert all(error is None or isinstance(error, NotConfirmed) for n, error in enumerate(errors) if n != 1)
    assert bus.publish(Message(key="event.test.said", body=bytes(100_000))).result(SOON) is None
    engine.close()


@pytest.mark.parametrize("prefetch", [1, 3, 50])
def test_a_reader_with_little_room_reads_everything(engine: RabbitEngine, prefetch: int) -> None:
    bus = engine.bus(HANDLERS)
    for future in [bus.publish(event(n)) for n in range(200)]:
        future.result(SOON)
    with StreamReader(bus._connection, bus._fleet, STREAMS["log"], 0, prefetch) as reader:
        assert len(read_some(reader, 201)) == 201
