"""What was confirmed under `fsync` and is not in the log any more comes back into it, out of the archive's queue.

A stream's last moments may be lost in a power cut; the quorum queue beside it has them on its disk. Each message of
the queue is compared with the log. What the log lacks is published again: the same body, id, key and user, so that
admission sees it as what it was; where it is in the log after all, it is a duplicate, and changes nothing. What the log
has is acknowledged, once it is old enough that the broker's system has written it to the disk by itself.

Whoever runs this must be allowed to speak for others on the broker (the tag `impersonator`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from msgspec import Struct
from pika.spec import Basic, BasicProperties

from bus.errors import BusError, NotConfirmed, Refused, Unreachable
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import PATIENCE, Connection
from bus.rabbitmq.names import ARCHIVE, EXCHANGE
from bus.rabbitmq.pen import Properties
from bus.rabbitmq.publisher import Publisher, appended
from bus.rabbitmq.stream import RabbitStream

#: Seconds after which Linux has written to the disk what a process wrote to a file (30 by default), with reserve.
SETTLED_AFTER = 120.0
#: Messages taken at a time, and seconds without another one after which there are no more.
BATCH, IDLE = 5_000, 2.0
#: How far back in time the log is looked through, before the oldest message of the queue: clocks, and slow confirms.
MARGIN = timedelta(minutes=10)
#: Seconds that one message may take to be confirmed.
CONFIRM_WITHIN = 60.0

#: Is told how many messages were looked at, and how many there were at the beginning.
Tell = Callable[[int, int], None]


class Recovered(Struct, frozen=True, kw_only=True):
    """`in_log`: messages that the log has; `appended`: those that it has again; `left`: too young to be let go."""

    in_log: int
    appended: int
    left: int


class _Taken(Struct, frozen=True):
    tag: int
    key: str
    body: bytes
    properties: BasicProperties

    @property
    def at(self) -> float:
        """Seconds since 1970, by the clock of who published it."""
        return float(self.properties.timestamp or 0)


def recover(url: str, tell: Tell = lambda _done, _all: None, *, settled_after: float = SETTLED_AFTER) -> Recovered:
    """Harmless when nothing was lost, and when it is run again.

    Raises `Refused` when there is no such queue or this user may not, `Unreachable`, `NotConfirmed`.
    """
    connection = Connection(url)
    publisher: Publisher[None] = Publisher(connection, EXCHANGE, appended)
    try:
        with closing(_Queue(connection)) as queue:
            return _Recovery(queue, RabbitStream(connection, publisher, "log"), publisher, settled_after).run(tell)
    finally:
        connection.close()
        publisher.close()


class _Recovery:
    def __init__(self, queue: "_Queue", log: RabbitStream, publisher: Publisher[None], settled_after: float) -> None:
        self._queue = queue
        self._log = log
        self._publisher = publisher
        self._settled_after = settled_after
        #: The bodies that the log has, from where the queue begins to where it was read last.
        self._known: set[bytes] = set()
        self._read_to: int | None = None

    def run(self, tell: Tell) -> Recovered:
        total = self._queue.open()
        in_log = appended_ = left = 0
        while taken := self._queue.take():
            self._learn(taken[0].at)
            lost = [one for one in taken if _digest(one.body) not in self._known]
            self._append(lost)
            young = time.time() - self._settled_after
            gone = {one.tag for one in lost}
            done = [one for one in taken if one.tag in gone or one.at <= young]
            self._queue.acknowledge(done)
            in_log, appended_ = in_log + len(taken) - len(lost), appended_ + len(lost)
            left += len(taken) - len(done)
            tell(in_log + appended_, max(total, in_log + appended_))
            if in_log + appended_ >= total:
                break
        return Recovered(in_log=in_log, appended=appended_, left=left)

    def _learn(self, oldest: float) -> None:
        """Reads the log to its end of now. What came into the queue before is in it, or lost."""
        if self._read_to is None:
            since = datetime.fromtimestamp(oldest, UTC) - MARGIN
            self._read_to = self._log.offset_at(since) if self._log.next_offset() else 0
        end = self._log.next_offset()
        if self._read_to >= end:
            return
        with self._log.read_from(self._read_to) as reader:
            while self._read_to < end:
                records = reader.read(timeout=PATIENCE)
                if not records:
                    raise Unreachable(f"the log ends at {end}, but nothing comes from {self._read_to} on")
                self._known.update(_digest(record.body) for record in records)
                self._read_to = records[-1].next_offset

    def _append(self, lost: list[_Taken]) -> None:
        """In the order in which they were confirmed. A new copy is in the queue by the time that the old one goes."""
        futures: deque[Future[None]] = deque()
        for one in lost:
            properties = Properties(
                content_type=one.properties.content_type,
                delivery_mode=one.properties.delivery_mode,
                message_id=one.properties.message_id,
                # the copy is as young as it is on its disk
                timestamp=int(time.time()),
                type=one.properties.type,
                user_id=one.properties.user_id,
            )
            futures.append(self._publisher.publish(one.key, one.body, properties))
            self._known.add(_digest(one.body))
        for future in futures:
            _confirmed(future)


def _confirmed(future: Future[None]) -> None:
    try:
        future.result(CONFIRM_WITHIN)
    except BusError as error:
        if "user_id" in str(error):
            raise Refused(
                f"the broker does not let this user speak for others: {error}; give it the tag impersonator: "
                "rabbitmqctl set_user_tags USER administrator impersonator"
            ) from None
        raise NotConfirmed(f"the recovery was cut off: {error}; run it again") from None


class _Queue:
    """The archive's queue, taken batch by batch. What is not acknowledged is in it again at the end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Channel | None = None
        self._taken: asyncio.Queue[_Taken] = asyncio.Queue()

    def open(self) -> int:
        """How many messages there are."""
        return self._connection.wait(self._open())

    async def _open(self) -> int:
        self._channel = channel = await self._connection.channel()
        try:
            count = await channel.count(ARCHIVE)
            await channel.prefetch(BATCH)
            await channel.consume(ARCHIVE, self._arrive)
        except ChannelGone as gone:
            if gone.missing:
                raise Refused(f"there is no queue {ARCHIVE!r}: durability was never `fsync` here") from None
            raise (Refused if gone.refused else Unreachable)(gone.text) from None
        return count

    def _arrive(self, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        self._taken.put_nowait(_Taken(method.delivery_tag or 0, method.routing_key or "", body, properties))

    def take(self) -> list[_Taken]:
        """The next ones, at most a batch; [] when there are no more, or all that may be out at a time are."""
        return self._connection.wait(self._take(), PATIENCE + IDLE)

    async def _take(self) -> list[_Taken]:
        taken: list[_Taken] = []
        while len(taken) < BATCH:
            try:
                async with asyncio.timeout(IDLE if not taken else 0.1):
                    taken.append(await self._taken.get())
            except TimeoutError:
                break
        return taken

    def acknowledge(self, taken: list[_Taken]) -> None:
        async def acknowledge() -> None:
            assert self._channel is not None
            for one in taken:
                self._channel.ack(one.tag)
            # a round trip: what was acknowledged is so when the process ends now
            await self._channel.prefetch(BATCH)

        try:
            self._connection.wait(acknowledge())
        except ChannelGone as gone:
            raise Unreachable(gone.text) from None

    def close(self) -> None:
        if (channel := self._channel) is not None:
            self._connection.soon(channel.close)


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
