"""One walk along a stream.

Deliveries go into a buffer that the broker's credit bounds: what the caller has not taken is not acknowledged, and the
broker sends no more. After a loss the walk goes on behind the last record that came.
"""

import asyncio
import threading
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self

from pika.spec import Basic, BasicProperties

from bus.errors import BusError, Closed, Refused
from bus.ports import Record, Start
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.lane import Lane
from bus.rabbitmq.probe import next_offset, record_of
from bus.rabbitmq.publisher import Publisher

#: Seconds that a reader from "next" may hold back what its process publishes.
HOLD_AT_MOST = 5.0


class _Arrival(NamedTuple):
    record: Record
    channel: Channel
    tag: int


class StreamReader:
    """`bus.ports.Reader`."""

    def __init__(
        self, connection: Connection, publisher: Publisher[None], queue: str, start: Start, prefetch: int
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._queue = queue
        self._prefetch = prefetch
        self._arrived = threading.Condition()
        self._buffer: deque[_Arrival] = deque()
        self._error: BusError | None = None
        #: Returned since the last acknowledgement.
        self._returned = 0
        # of the I/O thread alone: the offset below which everything has come; None as long as "next" is not a number
        self._next: int | None = {"first": 0, "next": None}[start] if isinstance(start, str) else max(0, start)
        self._holding = self._next is None
        if self._holding:
            # what this process publishes after this call is to be seen
            publisher.hold()
        connection.track(self)
        self._lane = Lane(connection, self._opened, self._lost)
        self._lane.start()

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        with self._arrived:
            self._arrived.wait_for(lambda: self._buffer or self._error, timeout)
            if isinstance(self._error, Closed) or (self._error and not self._buffer):
                raise self._error
            taken = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        self._acknowledge(taken)
        return [arrival.record for arrival in taken]

    def _acknowledge(self, taken: list[_Arrival]) -> None:
        self._returned += len(taken)
        if taken and self._returned >= self._prefetch // 4:
            self._returned = 0
            last = taken[-1]
            self._connection.soon(lambda: last.channel.ack(last.tag, multiple=True))

    def close(self) -> None:
        self._lane.stop()
        self._connection.soon(self._let_go)
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

    async def _opened(self, channel: Channel) -> None:
        if self._next is None:
            self._next = await self._find_end()
            self._let_go()

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
        if arrival.record.offset < self._next:
            # a chunk may come whole although the reader asked for its middle
            arrival.channel.ack(arrival.tag)
            return
        self._next = arrival.record.next_offset
        with self._arrived:
            self._buffer.append(arrival)
            self._arrived.notify()

    def _lost(self, gone: ChannelGone) -> bool:
        if gone.code:
            self._let_go()
        if gone.refused:
            self.end(Refused(gone.text))
        return not gone.refused

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self._publisher.release()
