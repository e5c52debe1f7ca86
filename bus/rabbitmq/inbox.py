"""A node's inbox: a classic durable queue with one exclusive consumer.

The agent declares nothing unless it may. A user who may declare a queue that it reads, and may publish on `fleetbus`,
could declare an exchange of that name and send through it whatever key it likes (`bus.users`); so the queue is made
when the node is invited.

Agents may not list bindings either. Those of an agent's own former processes are known from a file that holds every
key that may be bound; without one (`memory` None) only those of this process are. A stale binding is harmless: it lets
through what is addressed to this very node.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from bus.errors import BusError, Closed, InboxTaken, Refused, Unreachable
from bus.ports import Delivered
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import PATIENCE, Connection
from bus.rabbitmq.lane import Lane
from bus.rabbitmq.names import DELIVER, NO_TOPOLOGY, inbox_queue
from bus.rabbitmq.pen import acks
from bus.rabbitmq.probe import ask

log = structlog.get_logger("bus.rabbitmq")

#: Deliveries that may be unacknowledged.
PREFETCH = 100
#: Seconds between two looks whether deliveries wait that nobody gives us, and after how many the inbox opens anew.
LOOK_EVERY, DEAF_AFTER = 10.0, 30.0


class Memory:
    """The keys that may be bound, in a file if there is one. Written before a key is bound, and after one is not."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.keys: frozenset[str] = frozenset()
        if file is not None and file.exists():
            self.keys = frozenset(json.loads(file.read_text()))

    def keep(self, keys: frozenset[str]) -> None:
        self.keys = keys
        if self._file is not None:
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps(sorted(keys)))
            new.replace(self._file)


class RabbitInbox:
    """`bus.ports.Inbox`."""

    def __init__(self, connection: Connection, node: str, memory: Path | None) -> None:
        self._connection = connection
        self._node = node
        self._queue = inbox_queue(node)
        self._memory = Memory(memory)
        self._keys: frozenset[str] = frozenset()
        self._changed = threading.Condition()
        self._generation = 0
        self._buffer: deque[Delivered] = deque()
        self._error: BusError | None = None
        self._lane = Lane(connection, self._opened, self._lost)
        # of the I/O thread alone
        self._binding = asyncio.Lock()
        self._channel: Channel | None = None
        #: Our tags to the channel's, of what is not acknowledged. Ours are never used again.
        self._tags: dict[int, int] = {}
        self._last_tag = 0
        self._trouble = ""
        #: Since when there was nothing but this to say, and what it is.
        self._failing_since = 0.0
        self._failing: BusError | None = None

    @property
    def generation(self) -> int:
        return self._generation

    def open(self, keys: Sequence[str]) -> None:
        if isinstance(self._error, Closed):
            raise self._error
        self._keys, self._error = frozenset(keys), None
        before = self._generation
        self._connection.track(self)
        self._lane.stop()
        self._lane.start()
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._generation > before, PATIENCE)
        if self._generation == before:
            self._lane.stop()
            raise self._failure()

    def _failure(self) -> BusError:
        if not self._connection.connected:
            return self._connection.unreachable()
        return self._error or self._failing or Unreachable(self._trouble)

    def bind(self, keys: Sequence[str]) -> None:
        self._keys = frozenset(keys)
        self._connection.wait(ask(self._connection, self._bind_on))

    def read(self, limit: int = 100, timeout: float = 1.0) -> list[Delivered]:
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._error, timeout)
            if self._error:
                raise self._error
            return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]

    def ack(self, tags: Sequence[int]) -> None:
        self._connection.soon(lambda: self._ack(tags))

    def close(self) -> None:
        self._lane.stop()
        self.end(Closed("the inbox is closed"))

    def end(self, error: BusError) -> None:
        with self._changed:
            if not isinstance(self._error, Closed):
                self._error = error
            self._changed.notify_all()

    # the I/O thread

    async def _opened(self, channel: Channel) -> None:
        """Consumes first: a clone must not touch the bindings of the one whose inbox it is."""
        await self._make_queue()
        buffer: deque[Delivered] = deque()
        tags: dict[int, int] = {}

        def arrive(tag: int, key: str, body: bytes) -> None:
            self._last_tag += 1
            tags[self._last_tag] = tag
            with self._changed:
                buffer.append(Delivered(tag=self._last_tag, key=key, body=body))
                self._changed.notify()

        await channel.prefetch(PREFETCH)
        await channel.consume_plainly(self._queue, arrive, exclusive=True)
        await self._on_new_channel(self._bind_on)
        self._channel, self._tags, self._failing = channel, tags, None
        with self._changed:
            self._buffer = buffer
            self._generation += 1
            self._changed.notify_all()
        self._connection.spawn(self._look_after(channel, tags))

    async def _look_after(self, channel: Channel, tags: dict[int, int]) -> None:
        """A consumer that the broker has forgotten looks well from here: it only gets nothing although there is some.

        What waits while fewer are out than may be, and does not come, makes the inbox open itself anew.
        """
        clock = asyncio.get_running_loop().time
        came, since = -1, clock()
        while self._channel is channel:
            try:
                waiting = await self._count()
            except ChannelGone:
                waiting = 0
            if not waiting or len(tags) >= PREFETCH or came != self._last_tag:
                came, since = self._last_tag, clock()
            elif clock() - since > DEAF_AFTER:
                text = f"{waiting} deliveries wait in {self._queue}, and none came in {DEAF_AFTER:.0f} seconds"
                log.warning("the inbox is deaf; it is opened anew", action="inbox.deaf", reason=text)
                channel.lose(ChannelGone(0, text))
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _count(self) -> int:
        """Deliveries that wait in the queue and are with nobody."""
        channel = await self._connection.channel()
        try:
            return await channel.count(self._queue)
        finally:
            channel.close()

    async def _make_queue(self) -> None:
        """Unless it is there: only who may not declare it needs it to be there."""
        try:
            await self._on_new_channel(lambda channel: channel.queue_exists(self._queue))
        except ChannelGone as missing:
            if not missing.missing:
                raise
            try:
                await self._on_new_channel(lambda channel: channel.declare_queue(self._queue))
            except ChannelGone as gone:
                raise (missing if gone.refused else gone) from None

    async def _on_new_channel(self, work: Callable[[Channel], Awaitable[None]]) -> None:
        channel = await self._connection.channel()
        try:
            await work(channel)
        finally:
            channel.close()

    async def _bind_on(self, channel: Channel) -> None:
        async with self._binding:
            wanted, known = self._keys, self._memory.keys
            self._memory.keep(known | wanted)
            for key in sorted(wanted):
                await channel.bind(self._queue, DELIVER, key)
            for key in sorted(known - wanted):
                await channel.unbind(self._queue, DELIVER, key)
            self._memory.keep(wanted)

    def _ack(self, tags: Sequence[int]) -> None:
        known = [self._tags.pop(tag) for tag in tags if tag in self._tags]
        if known and self._channel is not None:
            # who is gone gets them again
            with suppress(ChannelGone):
                self._connection.write(self._channel, acks(self._channel.raw.channel_number, known))

    def _lost(self, gone: ChannelGone) -> bool:
        self._channel, self._tags = None, {}
        self._trouble = NO_TOPOLOGY if gone.missing else gone.text
        with self._changed:
            self._buffer = deque()
        if gone.refused:
            self.end(Refused(gone.text))
            return False
        return self._goes_on(self._what_fails(gone))

    def _what_fails(self, gone: ChannelGone) -> BusError | None:
        """What may pass by itself, but not for long.

        After a loss the broker takes us for another consumer until it misses our old heartbeats, and when it starts it
        does not find its queues at first.
        """
        if gone.taken:
            return InboxTaken(f"another agent consumes the inbox of {self._node!r}; are there two with one id?")
        if gone.missing and self._queue in gone.text:
            return Refused(f"there is no inbox for {self._node!r}, and {self._connection.user!r} may not make it")
        return None

    def _goes_on(self, failing: BusError | None) -> bool:
        if type(failing) is not type(self._failing):
            self._failing_since = time.monotonic()
        self._failing = failing
        if failing is None or time.monotonic() - self._failing_since < PATIENCE:
            return True
        self.end(failing)
        return False
