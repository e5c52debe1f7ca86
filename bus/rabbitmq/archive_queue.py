"""The queue of the archive: what `fsync` promised is kept here until it is sealed in an archive.

The archiver holds what comes without acknowledging it, and remembers of each message nothing but its digest. When a
segment is sealed, what is in it is acknowledged. What the log lost in a power cut never appears in a segment, so it
stays in the queue, and `stranded` tells of it: `bus.recovery` appends it again.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256

import structlog
from pika.spec import Basic, BasicProperties

from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.lane import Lane
from bus.rabbitmq.names import ARCHIVE

#: Messages given out and not acknowledged; AMQP counts no further. More than one segment has.
PREFETCH = 65_535
#: Segments sealed with messages that came later, after which a message is in none: queue and log differ a little in
#: their order, by as much as publishers publish at once.
STRANDED_AFTER = 2
#: Segments whose records are known when they come out of the queue after their segment was sealed.
LATE = 2

log = structlog.get_logger("bus.archive_queue")


class ArchiveQueue:
    """Consumes the queue on a connection of its own as soon as there is one, and begins anew after each loss.

    While the broker has no such queue (durability is `stream`), it does nothing but look for it.
    """

    def __init__(self, url: str) -> None:
        self._connection = Connection(url)
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        #: Digest -> the deliveries with that body, by their tags, which grow.
        self._held: defaultdict[str, list[int]] = defaultdict(list)
        #: Digests of the last segments: what is in the queue may come after its segment was sealed.
        self._recent: list[frozenset[str]] = []
        #: The highest tag that each of the last segments let go.
        self._passed: list[int] = []
        self._lane = Lane(self._connection, self._opened, self._lost)
        self._lane.start()

    @property
    def held(self) -> int:
        """Messages that wait for their segment."""
        with self._lock:
            return sum(map(len, self._held.values()))

    @property
    def stranded(self) -> int:
        """Messages that should have been in a segment by now: the log does not have them."""
        with self._lock:
            if len(self._passed) < STRANDED_AFTER:
                return 0
            return sum(tag < min(self._passed) for tags in self._held.values() for tag in tags)

    def sealed(self, digests: Iterable[str]) -> None:
        """These records are in the archive, on its disk."""
        found = frozenset(digests)
        with self._lock:
            self._recent = [*self._recent[1 - LATE :], found]
            tags = [tag for one in found & self._held.keys() for tag in self._held.pop(one)]
            if tags:
                self._passed = [*self._passed[1 - STRANDED_AFTER :], max(tags)]
        self._acknowledge(tags)
        if stranded := self.stranded:
            log.error(
                "confirmed events are not in the log",
                action="archive.stranded",
                count=stranded,
                remedy="fleetbus log recover",
            )

    def close(self) -> None:
        """What was not acknowledged goes back into the queue."""
        self._lane.stop()
        self._connection.close()

    def _acknowledge(self, tags: list[int]) -> None:
        channel = self._channel

        def acknowledge() -> None:
            # tags mean nothing on another channel
            if channel is not None and channel is self._channel:
                for tag in tags:
                    channel.ack(tag)

        self._connection.soon(acknowledge)

    # the I/O thread

    async def _opened(self, channel: Channel) -> None:
        with self._lock:
            self._held.clear()
            self._passed.clear()
        self._channel = channel
        await channel.queue_exists(ARCHIVE)
        await channel.prefetch(PREFETCH)
        await channel.consume(ARCHIVE, self._arrive)

    def _arrive(self, method: Basic.Deliver, _properties: BasicProperties, body: bytes) -> None:
        tag, digest = method.delivery_tag or 0, sha256(body).hexdigest()
        with self._lock:
            late = any(digest in one for one in self._recent)
            if not late:
                self._held[digest].append(tag)
        if late and self._channel is not None:
            self._channel.ack(tag)

    def _lost(self, gone: ChannelGone) -> bool:
        if gone.code and not gone.missing:
            log.warning("the archive's queue cannot be consumed", action="archive.queue", reason=gone.text)
        return True
