"""A stream on the broker."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from bus.ports import Reader, Record, Start, StreamName
from bus.rabbitmq import probe
from bus.rabbitmq.channel import Channel
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.names import STREAMS
from bus.rabbitmq.native import Native
from bus.rabbitmq.publisher import Publisher
from bus.rabbitmq.reader import StreamReader

T = TypeVar("T")

#: Deliveries that a reader may hold unread. Blobs come in chunks of 256 kB.
PREFETCH: dict[StreamName, int] = {"log": 500, "telemetry": 500, "blobs": 40}


class RabbitStream:
    """`bus.ports.Stream`."""

    def __init__(
        self, connection: Connection, publisher: Publisher[None], name: StreamName, native: Native | None = None
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        # a chunk of blobs could be very large: over AMQP they come one by one
        self._native = native if name != "blobs" else None
        self._queue = STREAMS[name]
        self._prefetch = PREFETCH[name]

    def read_from(self, start: Start) -> Reader:
        return StreamReader(self._connection, self._publisher, self._queue, start, self._prefetch, self._native)

    def first(self) -> Record | None:
        return self._ask(lambda channel: probe.first_record(channel, self._queue))

    def next_offset(self) -> int:
        return self._ask(lambda channel: probe.next_offset(channel, self._queue))

    def offset_at(self, time: datetime) -> int:
        return self._ask(lambda channel: probe.offset_at(channel, self._queue, time))

    def _ask(self, question: Callable[[Channel], Awaitable[T]]) -> T:
        return self._connection.wait(probe.ask(self._connection, question))
