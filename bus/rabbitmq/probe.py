"""Where a stream begins and ends, asked for over AMQP 0.9.1.

What the broker does not say is asked for with consumers. "There is nothing" has no message of its own, so it follows
from order: the broker's channel registers a consumer with the stream's writer before it opens a second one, and
opening one asks that writer and waits for it. When a second consumer and then one more round trip have been answered,
what the first was to get at once is here. (The count of messages that RabbitMQ 3.10 gives is up to 5 seconds old.)
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from msgspec import Struct
from pika.spec import Basic, BasicProperties

from bus.errors import Refused, Unreachable
from bus.ports import Record
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import PATIENCE, Connection
from bus.rabbitmq.lane import AGAIN_AFTER
from bus.rabbitmq.names import NO_TOPOLOGY

T = TypeVar("T")

#: More deliveries than one chunk has records, so that the last chunk comes whole.
WHOLE_CHUNK = 65_535


class Heard(Struct):
    """The first and the last record that came at once."""

    first: Record | None = None
    last: Record | None = None

    def hear(self, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        self.last = record_of(method, properties, body)
        self.first = self.first or self.last


def record_of(method: Basic.Deliver, properties: BasicProperties, body: bytes) -> Record:
    assert properties.headers is not None
    offset = properties.headers["x-stream-offset"]
    assert isinstance(offset, int)
    return Record(offset=int(offset), body=body, key=method.routing_key or "", user=properties.user_id)


async def listen(channel: Channel, queue: str, offset: str | datetime, prefetch: int) -> Heard:
    """What the stream delivers at once from `offset`; whole chunks as far as `prefetch` allows."""
    heard = Heard()
    await channel.prefetch(prefetch)
    await channel.consume(queue, heard.hear, arguments={"x-stream-offset": offset})
    await channel.consume(queue, lambda *_: None, arguments={"x-stream-offset": "next"})
    await channel.prefetch(prefetch)
    return heard


async def first_record(channel: Channel, queue: str) -> Record | None:
    return (await listen(channel, queue, "first", 1)).first


async def next_offset(channel: Channel, queue: str) -> int:
    last = (await listen(channel, queue, "last", WHOLE_CHUNK)).last
    return last.next_offset if last else 0


async def offset_at(channel: Channel, queue: str, time: datetime) -> int:
    """By the time at which the broker wrote a chunk, in its own clock; it takes whole seconds."""
    since = (await listen(channel, queue, time, 1)).first
    return since.offset if since else await next_offset(channel, queue)


async def ask(connection: Connection, question: Callable[[Channel], Awaitable[T]]) -> T:
    """The answer, on a channel of its own; asks again until there is one. Raises `Refused`, `Unreachable`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE
    while True:
        channel: Channel | None = None
        try:
            channel = await connection.channel()
            return await question(channel)
        except ChannelGone as gone:
            if gone.refused:
                raise Refused(gone.text) from None
            if clock() + 2 * AGAIN_AFTER > deadline:
                raise Unreachable(NO_TOPOLOGY if gone.missing else gone.text) from None
        finally:
            if channel is not None:
                channel.close()
        await asyncio.sleep(AGAIN_AFTER)
