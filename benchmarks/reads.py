"""The log read, decoded and admitted, in one process: fleetbus over the native stream protocol and over AMQP 0.9.1, as
handlers and projections read it; beside it what only reads the same records: bare rstream, which takes bytes out of
chunks and looks at nothing, and bare pika, which consumes the stream over AMQP 0.9.1.

Two logs: one written as fast as it goes, which lies in chunks of many records, as a rebuild finds it; and one of which
each record was confirmed before the next was written, so that each is a chunk of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from urllib.parse import quote, urlsplit

import pika
import rstream
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from benchmarks.measure import Goal, Run, Table, compare
from benchmarks.place import Place, Progress
from bus.admission import AdmissionState, Admitted, admit
from bus.management import Management
from bus.rabbitmq import RabbitBus
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.names import EXCHANGE, STREAMS
from bus.rabbitmq.pen import Properties
from bus.rabbitmq.publisher import Publisher, appended
from events.actors import PROJECTIONS
from events.envelope import CONTENT_TYPE
from tests.contract.bus_contract import PASSWORD, RabbitEngine
from tests.stories import Said, Story

RECORDS, QUICK = 50_000, 5_000
#: Of the log whose records were written one by one.
SINGLE = 10_000
NODES, SCRIPTS = 50, 5
#: Deliveries that bare pika may have unread, and after how many it acknowledges them together.
PREFETCH, BATCH = 2_000, 500
#: May speak for all others, so that the log is written over one connection, in order.
WRITER = "bench-writer"

FIGURE = "read"
UNITS = {FIGURE: "events/s"}
GOALS = (
    Goal(FIGURE, "bare rstream", ">= 0.6"),
    Goal(FIGURE, "bare pika", ">= 2.5"),
    Goal(FIGURE, "fleetbus over AMQP 0.9.1", "none: what the native protocol brings"),
)


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    many, single = place.sized(RECORDS, QUICK), place.sized(SINGLE, QUICK // 5)
    return [
        _table(f"Reading the log: {many:,} records in large chunks", place, many, 5_000, runs, progress),
        _table(f"Reading single records: {single:,}, each a chunk of its own", place, single, 1, runs, progress),
    ]


def _table(title: str, place: Place, count: int, window: int, runs: int, progress: Progress) -> Table:
    with place.engine() as engine:
        progress(f"{title}: writing the log")
        write_log(place, engine, count, window)
        return compare(title, contestants(place, engine, count), UNITS, GOALS, runs, progress)


def contestants(place: Place, engine: RabbitEngine, count: int) -> dict[str, Run]:
    url, stream_url = engine.url(PROJECTIONS), place.stream_url
    return {
        "fleetbus": lambda: _fleetbus(url, stream_url, count),
        "fleetbus over AMQP 0.9.1": lambda: _fleetbus(url, "", count),
        "bare rstream": lambda: asyncio.run(_rstream(url, stream_url, count)),
        "bare pika": lambda: _Consumer(url, count).run(),
    }


# ---------------------------------------------------------------- the records


def write_log(place: Place, engine: RabbitEngine, count: int, window: int) -> None:
    """The first `count` records of a fleet at work, at most `window` of them unconfirmed at a time."""
    with _writer(place, engine) as publisher:
        confirmed: deque[Future[None]] = deque()
        # the log has its first record from the beginning
        for said in _history(count)[1:]:
            confirmed.append(publisher.publish(said.key, said.body, _properties(said)))
            if len(confirmed) >= window:
                confirmed.popleft().result(30)
        for future in confirmed:
            future.result(30)


def _history(count: int) -> list[Said]:
    story = Story(name="reads")
    for n in range(SCRIPTS):
        story.script(f"script-{n}")
    for n in range(NODES):
        story.node(f"node-{n:02}", roles=("cpu",))
    n = 0
    while len(story.said) < count:
        job = story.job(f"script-{n % SCRIPTS}", node=f"node-{n % NODES:02}", params={"n": n})
        story.started(job)
        story.finished(job, result={"n": n})
        n += 1
    return story.said[:count]


def _properties(said: Said) -> Properties:
    """As `RabbitBus` sets them."""
    id, type = (said.event.id, said.event.type) if said.event else (None, None)
    return Properties(
        content_type=CONTENT_TYPE,
        message_id=id,
        timestamp=int(time.time()),
        type=type,
        user_id=said.user,
    )


@contextmanager
def _writer(place: Place, engine: RabbitEngine) -> Iterator[Publisher[None]]:
    """fleetbus' publisher, of a user who may speak for others: on a broker of its own each record has its own."""
    with Management(place.management_url) as management:
        management.put(f"users/{WRITER}", {"password": PASSWORD, "tags": "impersonator"})
        everything = {"configure": "", "write": ".*", "read": ""}
        management.put(f"permissions/{quote(engine.vhost, safe='')}/{WRITER}", everything)
        connection = Connection(engine.url(PROJECTIONS).replace(f"//{PROJECTIONS}:", f"//{WRITER}:"))
        publisher: Publisher[None] = Publisher(connection, EXCHANGE, appended)
        try:
            yield publisher
        finally:
            connection.close()
            publisher.close()
            management.delete(f"users/{WRITER}")


# ---------------------------------------------------------------- who reads


def _fleetbus(url: str, stream_url: str, count: int) -> Mapping[str, float]:
    with closing(RabbitBus(url, stream_url=stream_url)) as bus:
        # whoever reads is connected for a long time
        bus.stream("log").next_offset()
        state, seen, admitted = AdmissionState(), 0, 0
        began = time.perf_counter()
        with bus.stream("log").read_from(0) as reader:
            while seen < count:
                for record in reader.read():
                    seen += 1
                    admitted += isinstance(admit(state, record), Admitted)
        seconds = time.perf_counter() - began
    if admitted != count:
        raise AssertionError(f"{admitted} of {count} records were admitted")
    return {FIGURE: count / seconds}


async def _rstream(url: str, stream_url: str, count: int) -> Mapping[str, float]:
    who, at = urlsplit(url), urlsplit(stream_url)
    read, done = 0, asyncio.Event()

    def take(_message: bytes, _context: object) -> None:
        nonlocal read
        read += 1
        if read == count:
            done.set()

    consumer = rstream.Consumer(
        host=at.hostname or "",
        port=at.port or 0,
        vhost=who.path.removeprefix("/"),
        username=who.username or "",
        password=who.password or "",
    )
    await consumer.start()
    began = time.perf_counter()
    first = rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST, None)
    await consumer.subscribe(STREAMS["log"], take, offset_specification=first)
    await done.wait()
    seconds = time.perf_counter() - began
    await consumer.close()
    return {FIGURE: count / seconds}


class _Consumer:
    """The least that consumes a stream over AMQP 0.9.1: one connection, one channel, acknowledged in batches."""

    def __init__(self, url: str, count: int) -> None:
        self._count = count
        self._read = 0
        self._began = self._seconds = 0.0
        self._connection = SelectConnection(
            pika.URLParameters(url), on_open_callback=lambda connection: connection.channel(on_open_callback=self._open)
        )

    def run(self) -> Mapping[str, float]:
        self._connection.ioloop.start()
        return {FIGURE: self._count / self._seconds}

    def _open(self, channel: Channel) -> None:
        channel.basic_qos(prefetch_count=PREFETCH, callback=lambda _: self._consume(channel))

    def _consume(self, channel: Channel) -> None:
        self._began = time.perf_counter()
        channel.basic_consume(STREAMS["log"], self._take, arguments={"x-stream-offset": "first"})

    def _take(self, channel: Channel, method: Basic.Deliver, _properties: BasicProperties, _body: bytes) -> None:
        self._read += 1
        if self._read % BATCH == 0:
            channel.basic_ack(method.delivery_tag or 0, multiple=True)
        if self._read == self._count:
            self._seconds = time.perf_counter() - self._began
            self._connection.close()
            self._connection.ioloop.stop()
