"""What many watch: each event is looked at, written and kept once for all streams that ask for the same.

A watcher is a place in a feed. One that falls so far behind that its place is no longer kept is closed with the
position at which it can resume, and never holds up anybody else. All belongs to the loop's thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from events.codec import encode
from events.envelope import Event

#: What is kept for watchers that are behind: at most so many events, and so many bytes of them.
KEPT_EVENTS = 1_000
KEPT_BYTES = 32_000_000
#: Bytes after which a piece for watchers is long enough.
PIECE_BYTES = 64_000
#: Seconds between two wakes of all watchers, for each of them: a thousand are woken ten times a second at most, so
#: that a wake's cost is shared by the events that came meanwhile. And the longest pause.
PAUSE_PER_WATCHER = 0.000_1
LONGEST_PAUSE = 0.25


class Entry:
    """One admitted record, with its JSON made once for all watchers."""

    __slots__ = ("_json", "event", "next_offset", "offset", "size")

    def __init__(self, offset: int, next_offset: int, event: Event, size: int) -> None:
        self.offset = offset
        self.next_offset = next_offset
        self.event = event
        self.size = size
        self._json: bytes | None = None

    @property
    def json(self) -> bytes:
        """`{"offset": …, "event": …}` on one line."""
        if self._json is None:
            self._json = b'{"offset":%d,"event":%b}' % (self.offset, encode(self.event))
        return self._json

    def frame(self, log: str) -> bytes:
        """The entry as a server-sent event; its id is the position behind it."""
        return b"id: %b:%d\ndata: %b\n\n" % (log.encode(), self.next_offset, self.json)


class Watcher:
    """One stream of entries that fit. `closed` says why nothing more will come: `slow`, `stop`, or "" while open."""

    def __init__(self, feed: "Feed", place: int, position: int) -> None:
        self._feed = feed
        self._woken: asyncio.Future[None] | None = None
        #: How many entries of the feed are behind it.
        self.place = place
        #: Everything before it was looked at, and given out if it fits: where a later stream goes on.
        self.position = position
        self.closed = ""

    def close(self, why: str) -> None:
        self.closed = self.closed or why
        self.wake()

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def next(self, seconds: float) -> bytes:
        """What waits, as whole frames; b"" when nothing came in time, or it is closed. Moves `position`."""
        if not self.closed and self.place == self._feed.end:
            await self._sleep(seconds)
        if self.closed:
            return b""
        return self._feed.give(self)

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None


class Feed:
    """The entries that fit, for all watchers who want the same. `end` counts all that ever came."""

    def __init__(self, fits: Callable[[Event], bool], log: str, next_offset: int) -> None:
        self.log = log
        self.watchers: set[Watcher] = set()
        self.end = 0
        self._fits = fits
        self._looked = next_offset
        #: Frames with the position behind each, the oldest first; as many as `end` less what went.
        self._frames: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        #: Pieces made since the last entry came, by the place at which they begin.
        self._pieces: dict[int, tuple[bytes, int, int]] = {}

    def open(self) -> Watcher:
        """A watcher of what comes from now on."""
        watcher = Watcher(self, self.end, self._looked)
        self.watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        self.watchers.discard(watcher)

    def offer(self, entries: Iterable[Entry], next_offset: int) -> bool:
        """The next entries of the log. Whether any fits."""
        before = self.end
        for entry in entries:
            if entry.offset >= self._looked and self._fits(entry.event):
                self._keep(entry.frame(self.log), entry.next_offset)
        self._looked = max(self._looked, next_offset)
        if self.end == before:
            return False
        self._pieces.clear()
        return True

    def _keep(self, frame: bytes, next_offset: int) -> None:
        self._frames.append((frame, next_offset))
        self._bytes += len(frame)
        self.end += 1
        while len(self._frames) > KEPT_EVENTS or (self._bytes > KEPT_BYTES and len(self._frames) > 1):
            self._drop()

    def _drop(self) -> None:
        self._bytes -= len(self._frames.popleft()[0])

    @property
    def kept(self) -> int:
        """How many entries are kept: what some watcher has not been given yet."""
        return len(self._frames)

    def wake(self) -> int:
        """Wakes who waits, and closes who is too far behind; how many these are."""
        first = self.end - len(self._frames)
        slow = [watcher for watcher in self.watchers if watcher.place < first and not watcher.closed]
        for watcher in slow:
            watcher.close("slow")
            self.leave(watcher)
        last = min((watcher.place for watcher in self.watchers), default=self.end)
        while self.end - len(self._frames) < last:
            self._drop()
        for watcher in self.watchers:
            watcher.wake()
        return len(slow)

    def close(self, why: str) -> None:
        for watcher in self.watchers:
            watcher.close(why)

    def give(self, watcher: Watcher) -> bytes:
        """The next piece for a watcher; b"" when it has everything. Moves it."""
        first = self.end - len(self._frames)
        if watcher.place < first:
            watcher.close("slow")
            return b""
        if watcher.place == self.end:
            watcher.position = self._looked
            return b""
        piece = self._pieces.get(watcher.place)
        if piece is None:
            piece = self._pieces[watcher.place] = self._piece(watcher.place - first)
        data, count, watcher.position = piece
        watcher.place += count
        return data

    def _piece(self, start: int) -> tuple[bytes, int, int]:
        """Whole frames from there on, how many they are, and the position behind them."""
        frames, size, position = list[bytes](), 0, 0
        for n in range(start, len(self._frames)):
            frame, position = self._frames[n]
            frames.append(frame)
            size += len(frame)
            if size >= PIECE_BYTES:
                break
        return b"".join(frames), len(frames), position


class Rhythm:
    """When watchers are woken: at once after a rest, and then with pauses that grow with their number."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._next = float("-inf")
        self._planned = False

    def strike(self, watchers: int) -> None:
        """Something came for one of so many."""
        if self._planned or not watchers:
            return
        loop = asyncio.get_running_loop()
        wait = self._next - loop.time()
        if wait <= 0:
            self._do(watchers)
        else:
            self._planned = True
            loop.call_later(wait, self._do, watchers)

    def _do(self, watchers: int) -> None:
        self._planned = False
        self._next = asyncio.get_running_loop().time() + min(LONGEST_PAUSE, watchers * PAUSE_PER_WATCHER)
        self._wake()
