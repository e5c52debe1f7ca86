"""One walk along a stream, over the native protocol where there is one (`bus.rabbitmq.native`), else over AMQP 0.9.1.

What comes goes into a buffer whose size the broker's credit bounds: what the caller has not taken is not acknowledged,
and the broker sends no more. After a loss the walk goes on behind the last record that came, over either protocol.

Over the native protocol whole chunks wait in the buffer, and become records in the caller's thread.
"""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from pika.spec import Basic, BasicProperties

from bus.errors import BusError, Closed, Refused
from bus.ports import Record, Start
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.chunk import Chunk
from bus.rabbitmq.connection import PROVEN_AFTER, Connection, pause_after
from bus.rabbitmq.lane import AGAIN_AFTER, BREATH
from bus.rabbitmq.link import CREDIT, Link
from bus.rabbitmq.native import Native
from bus.rabbitmq.probe import next_offset, record_of
from bus.rabbitmq.publisher import Publisher

#: Seconds that a reader from "next" may hold back what its process publishes.
HOLD_AT_MOST = 5.0
#: Bytes of unread chunks after which nothing more is taken from the socket, until half of it is read.
MOST_BYTES = 8 * 2**20
#: Seconds after which who reads over AMQP looks whether the native protocol is there now.
LOOK_EVERY = 30.0
#: Its own source of chance.
CHANCE = random.SystemRandom()

log = structlog.get_logger("bus.rabbitmq")


class _Arrival(NamedTuple):
    """One record over AMQP."""

    record: Record
    source: Channel
    tag: int


class _Piece(NamedTuple):
    """One chunk over the native protocol, of which the records from `start` on are new."""

    chunk: Chunk
    start: int
    source: Link


class StreamReader:
    """`bus.ports.Reader`."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher[None],
        queue: str,
        start: Start,
        prefetch: int,
        native: Native | None = None,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._queue = queue
        self._prefetch = prefetch
        self._native = native
        self._arrived = threading.Condition()
        self._buffer: deque[_Arrival | _Piece] = deque()
        self._error: BusError | None = None
        # of the thread that reads: records of a chunk that were too many, and what was taken and is not told yet
        self._rest: list[Record] = []
        self._taken = self._taken_bytes = 0
        # of the I/O thread: the offset below which everything has come; None as long as "next" is not a number
        self._next: int | None = {"first": 0, "next": None}[start] if isinstance(start, str) else max(0, start)
        self._source: Channel | Link | None = None
        #: Of the chunks that were not told to be taken.
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._holding = self._next is None
        if self._holding:
            # what this process publishes after this call is to be seen
            publisher.hold()
        connection.track(self)
        connection.soon(self._start)

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        self._wait(timeout)
        records, self._rest = self._rest, []
        while len(records) < limit and self._buffer:
            item = self._buffer.popleft()
            if isinstance(item, _Arrival):
                records.append(item.record)
                self._acknowledge(item)
            else:
                records += item.chunk.records(item.start)
                self._give_credit(item)
        if len(records) > limit:
            records, self._rest = records[:limit], records[limit:]
        return records

    def _wait(self, timeout: float) -> None:
        """Until there is something to return, or nothing came in time."""
        with self._arrived:
            if not self._rest:
                self._arrived.wait_for(lambda: self._buffer or self._error, timeout)
            if isinstance(self._error, Closed) or (self._error and not self._buffer and not self._rest):
                raise self._error

    def _acknowledge(self, item: _Arrival) -> None:
        self._taken += 1
        if self._taken >= self._prefetch // 4:
            self._taken = 0
            self._connection.soon(lambda: item.source.ack(item.tag, multiple=True))

    def _give_credit(self, item: _Piece) -> None:
        self._taken += 1
        self._taken_bytes += len(item.chunk.data)
        if self._taken >= CREDIT // 4 or self._taken_bytes >= MOST_BYTES // 4:
            chunks, size = self._taken, self._taken_bytes
            self._taken = self._taken_bytes = 0
            self._connection.soon(lambda: self._were_taken(item.source, chunks, size))

    def close(self) -> None:
        self._connection.soon(self._stop)
        self.end(Closed("the reader is closed"))

    def end(self, error: BusError) -> None:
        with self._arrived:
            if not isinstance(self._error, Closed):
                self._error = error
            self._arrived.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # the I/O thread

    def _start(self) -> None:
        self._task = self._connection.spawn(self._live())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._let_go()

    async def _live(self) -> None:
        clock, failures = asyncio.get_running_loop().time, 0
        while True:
            began = clock()
            gone = await self._once()
            if gone.code:
                self._let_go()
            if gone.refused:
                self.end(Refused(gone.text))
                return
            failures = failures + 1 if clock() - began < PROVEN_AFTER else 0
            pause = AGAIN_AFTER if gone.code else BREATH
            await asyncio.sleep(pause if failures < 2 else max(pause, pause_after(failures, CHANCE.random())))

    async def _once(self) -> ChannelGone:
        """Reads over one link or channel, until it ends."""
        try:
            if self._next is None:
                self._next = await self._find_end()
                self._let_go()
            link = await self._link()
            return await (self._read_channel() if link is None else self._read_link(link))
        except ChannelGone as gone:
            return gone
        finally:
            self._source = None

    async def _link(self) -> Link | None:
        return None if self._native is None else await self._native.link(self._arrive_chunks)

    async def _read_link(self, link: Link) -> ChannelGone:
        try:
            self._source = link
            assert self._next is not None
            await link.subscribe(self._queue, self._next)
            gone = await link.gone()
            log.warning("the stream connection was lost", action="bus.link_lost", stream=self._queue, reason=gone.text)
            return gone
        finally:
            link.close()

    async def _read_channel(self) -> ChannelGone:
        """Until the channel ends, or the native protocol is there after all."""
        channel = await self._connection.channel()
        try:
            self._source = channel
            await self._consume(channel)
            link = await self._better(channel)
            if link is None:
                return await channel.gone()
        finally:
            channel.close()
        return await self._read_link(link)

    async def _better(self, channel: Channel) -> Link | None:
        """Waits until there is a link to be had, or `channel` has ended (None)."""
        gone = asyncio.ensure_future(channel.gone())
        try:
            while not gone.done():
                await asyncio.wait({gone}, timeout=None if self._native is None else LOOK_EVERY)
                if not gone.done() and (link := await self._link()) is not None:
                    return link
            return None
        finally:
            gone.cancel()

    async def _consume(self, channel: Channel) -> None:
        def arrive(method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            self._arrive(_Arrival(record_of(method, properties, body), channel, method.delivery_tag or 0))

        await channel.prefetch(self._prefetch)
        await channel.consume(self._queue, arrive, arguments={"x-stream-offset": self._next})

    async def _find_end(self) -> int:
        channel = await self._connection.channel()
        try:
            async with asyncio.timeout(HOLD_AT_MOST):
                return await next_offset(channel, self._queue)
        except TimeoutError:
            self._let_go()
            raise ChannelGone(0, "the stream does not answer") from None
        finally:
            channel.close()

    def _arrive(self, arrival: _Arrival) -> None:
        assert self._next is not None
        if arrival.source is not self._source:
            return
        if arrival.record.offset < self._next:
            # a chunk may come whole although the reader asked for its middle
            arrival.source.ack(arrival.tag)
            return
        self._next = arrival.record.next_offset
        self._hand_on((arrival,))

    def _arrive_chunks(self, link: Link, chunks: list[Chunk]) -> None:
        """What came at once is handed on at once: to wake whoever reads costs more than a chunk."""
        assert self._next is not None
        if link is not self._source:
            return
        pieces: list[_Arrival | _Piece] = []
        for chunk in chunks:
            if chunk.next_offset <= self._next:
                link.credit(1)
                continue
            pieces.append(_Piece(chunk, self._next, link))
            self._next = chunk.next_offset
            self._bytes += len(chunk.data)
        if self._bytes > MOST_BYTES:
            link.pause()
        if pieces:
            self._hand_on(pieces)

    def _hand_on(self, items: "Iterable[_Arrival | _Piece]") -> None:
        with self._arrived:
            self._buffer.extend(items)
            self._arrived.notify()

    def _were_taken(self, link: Link, chunks: int, size: int) -> None:
        """What was taken came over `link`, or a few of it over the one before: then it has a little more credit."""
        self._bytes -= size
        link.credit(chunks)
        if self._bytes < MOST_BYTES // 2 and isinstance(self._source, Link):
            self._source.resume()

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self._publisher.release()
