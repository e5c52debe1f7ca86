"""The Live port: tails, fan-out and small values that may vanish at any time.

    live = open_live("redis://127.0.0.1:6379/0")
    live.extend("job/0199…", [(0, "starting"), (1, "done")])
    live.last("job/0199…", 100)                    # [(0, "starting"), (1, "done")]
    with live.subscribe("jobs") as subscription:
        live.publish("jobs", b"…")
        subscription.get(timeout=5.0)              # Message(channel="jobs", data=b"…")

From asyncio, `async for item in arrivals(live, "jobs")`. Nothing here is truth: after a restart of the
server, values and tails may be gone and messages lost; a subscriber sees a `Gap` where that happened.
Every call is bounded by a few seconds and raises `Unreachable` then; for a second after that, calls
raise it at once. `memory://` reaches the threads of one process only.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

#: Lines kept of one tail.
TAIL_LINES = 1_000
#: Seconds a tail is kept after its last line.
TAIL_SECONDS = 3_600.0
#: Messages that may wait for one subscriber.
WAITING = 1_000


@dataclass(frozen=True, slots=True)
class Message:
    """What was published on a channel."""

    channel: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages were lost at this place, because the subscriber was slow or the server away.

    `lost` counts them; None when nobody knows.
    """

    lost: int | None


Item = Message | Gap


class Live(ABC):
    """Names of tails, channels and keys are any text of 1 to 256 characters (else `BadName`)."""

    def append(self, tail: str, n: int, line: str) -> None:
        """Keep one line; see `extend`."""
        self.extend(tail, [(n, line)])

    @abstractmethod
    def extend(
        self,
        tail: str,
        lines: Iterable[tuple[int, str]],
        *,
        keep: int = TAIL_LINES,
        seconds: float = TAIL_SECONDS,
    ) -> None:
        """Keep numbered lines (0 <= n < 2**53), in one round trip.

        A number that is already there keeps its line. The `keep` highest numbers stay, until no
        line has come for `seconds`.
        """

    @abstractmethod
    def last(self, tail: str, count: int = TAIL_LINES) -> list[tuple[int, str]]:
        """Return the `count` lines with the highest numbers, in order of number."""

    @abstractmethod
    def publish(self, channel: str, data: bytes) -> None:
        """Hand the message to everyone who is subscribed now. Never waits for a subscriber."""

    @abstractmethod
    def subscribe(self, *channels: str, waiting: int = WAITING, wake: Callable[[], None] | None = None) -> Subscription:
        """Return a subscription that is in force: what is published from now on reaches it.

        While the server is away this raises `Unreachable`; a subscription made before outlives it.
        `waiting` bounds the messages that wait; `wake` is called from another thread, without
        arguments, whenever something came (such as `lambda: loop.call_soon_threadsafe(event.set)`).
        It must return at once and not raise.
        """

    @abstractmethod
    def set(self, key: str, value: bytes, *, seconds: float) -> None:
        """Keep a value for so long."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return the value, or None."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Forget the value or counter."""

    @abstractmethod
    def incr(self, key: str, *, seconds: float) -> int:
        """Add one to a counter and return it. It begins again `seconds` after its *first* count.

        Counters and values are apart: a counter cannot be read with `get`.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return when the server answers; raises `Unreachable` otherwise."""

    @abstractmethod
    def close(self) -> None:
        """End all subscriptions and let go of all connections; closing again is no error."""


class Subscription:
    """Items in the order they came, read by one thread.

    When more than `waiting` items wait, the oldest are dropped and a `Gap` takes their place: the
    publisher never waits. Iterating ends when the subscription is closed, by either side.
    """

    def __init__(
        self,
        channels: tuple[str, ...],
        waiting: int = WAITING,
        wake: Callable[[], None] | None = None,
        on_close: Callable[[Subscription], None] | None = None,
    ) -> None:
        self.channels = tuple(dict.fromkeys(channels))
        self._items: deque[Item] = deque()
        self._waiting = waiting
        # What was lost before the first item that waits.
        self._lost: int | None = 0
        self._wake = wake
        self._on_close = on_close
        self._changed = threading.Condition()
        self._closed = False

    def get(self, timeout: float | None = None) -> Item | None:
        """Return the next item; None when none came in `timeout` seconds, or on a closed end."""
        with self._changed:
            self._changed.wait_for(self._ready, timeout)
            return self._take()

    def drain(self) -> list[Item]:
        """Return all items that wait, at once."""
        with self._changed:
            return list(iter(self._take, None))

    @property
    def closed(self) -> bool:
        """Whether nothing will come any more (items may still wait)."""
        return self._closed

    def close(self) -> None:
        """End the subscription; a waiting `get` returns. Closing again is no error."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        if self._on_close is not None:
            self._on_close(self)
        self._tell()

    def offer(self, item: Item) -> None:
        """For adapters: a message came, or a gap where the server was away."""
        with self._changed:
            if self._closed:
                return
            if len(self._items) >= self._waiting:
                self._drop(self._items.popleft())
            self._items.append(item)
        self._tell()

    def __iter__(self) -> Iterator[Item]:
        while (item := self.get()) is not None:
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> bool:
        return bool(self._items) or self._lost != 0 or self._closed

    def _take(self) -> Item | None:
        if self._lost != 0:
            lost, self._lost = self._lost, 0
            return Gap(lost)
        return self._items.popleft() if self._items else None

    def _drop(self, item: Item) -> None:
        count = item.lost if isinstance(item, Gap) else 1
        self._lost = None if count is None or self._lost is None else self._lost + count

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._wake is not None:
            self._wake()


async def arrivals(live: Live, *channels: str, waiting: int = WAITING) -> AsyncGenerator[Item, None]:
    """Subscribe from asyncio: yield items as they come, and close when the generator is closed.

    The loop is woken from the adapter's thread and never blocked, but for the moment of subscribing.
    """
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    subscription = await asyncio.to_thread(live.subscribe, *channels, waiting=waiting, wake=lambda: _set(loop, came))
    try:
        while not subscription.closed:
            await came.wait()
            came.clear()
            for item in subscription.drain():
                yield item
    finally:
        subscription.close()


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # The loop may have ended while its generator was never closed.
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
