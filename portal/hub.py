"""What the event loop knows of the log's end: who waits for what, and who watches.

Everything here belongs to the loop's thread. The follower hands over batches with `take`; a slow watcher is closed
with the position at which it can resume, and never holds up anybody else.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec
from msgspec import Struct

from events.codec import encode
from events.envelope import Event
from events.registry import SEAT_TYPES

#: Admitted events kept in memory for those who resume: at most so many, and so many bytes of JSON.
RECENT_EVENTS = 5_000
RECENT_BYTES = 32_000_000
#: Outcomes of commands kept in memory; older ones are in the views.
RECENT_OUTCOMES = 20_000
#: Events that may wait for one watcher before it is closed.
WATCHER_QUEUE = 1_000


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


class LogState(Struct, frozen=True):
    """Where the follower is, and what admission says of the seat there. `log` is "" until the log was read."""

    log: str = ""
    next_offset: int = 0
    holder: str = ""
    token: str | None = None
    log_time: datetime | None = None
    #: What was not admitted since the follower began.
    bad: int = 0
    void: int = 0
    duplicate: int = 0
    #: Counts of agents that are missing for a while already: (user and producer, first, last), at most 100.
    gaps: tuple[tuple[str, int, int], ...] = ()


Key = tuple[str, str]


def keys_of(event: Event) -> Iterator[Key]:
    """What somebody may wait for in an event: the outcome of a command, something about a job."""
    if event.type in SEAT_TYPES and event.causationid:
        yield "outcome", event.causationid
    job = getattr(event.data, "job", None)
    if isinstance(job, str):
        yield "job", job
    for other in getattr(event.data, "jobs", ()):
        if isinstance(other, str) and other != job:
            yield "job", other


class Watch:
    """Entries about some keys, in log order, from the moment it was opened."""

    def __init__(self) -> None:
        self._entries: asyncio.Queue[Entry] = asyncio.Queue()

    def offer(self, entry: Entry) -> None:
        self._entries.put_nowait(entry)

    async def next(self, seconds: float) -> Entry | None:
        """The next entry, or None when none came in time."""
        try:
            return await asyncio.wait_for(self._entries.get(), max(0.0, seconds))
        except TimeoutError:
            return None


class Watcher:
    """One stream of entries that fit. `closed` says why nothing more will come: `slow`, `stop`, or "" while open."""

    def __init__(self, fits: Callable[[Event], bool], position: int, limit: int) -> None:
        self._fits = fits
        self._limit = limit
        self._entries: deque[Entry] = deque()
        self._came = asyncio.Event()
        #: Everything before it was looked at: where a later stream goes on.
        self.position = position
        self._looked = position
        self.closed = ""

    def offer(self, entries: Iterable[Entry], next_offset: int) -> None:
        if self.closed:
            return
        for entry in entries:
            if entry.offset >= self._looked and self._fits(entry.event):
                if len(self._entries) >= self._limit:
                    self.close("slow")
                    return
                self._entries.append(entry)
        self._looked = next_offset
        if self._entries:
            self._came.set()

    def close(self, why: str) -> None:
        self.closed = self.closed or why
        self._came.set()

    async def next(self, seconds: float) -> list[Entry]:
        """What waits; [] when nothing came in time, or it is closed. Moves `position`."""
        if not self._entries and not self.closed:
            try:
                await asyncio.wait_for(self._came.wait(), seconds)
            except TimeoutError:
                self.position = self._looked
                return []
        entries = list(self._entries)
        self._entries.clear()
        if not self.closed:
            self._came.clear()
        if entries:
            self.position = entries[-1].next_offset
        return entries


class Hub:
    """The loop's side of the follower."""

    def __init__(self) -> None:
        self.state = LogState()
        self.slow_watchers = 0
        self._recent: deque[Entry] = deque()
        self._recent_bytes = 0
        #: Every admitted event from this offset on is in memory; None until the follower began.
        self._recent_from: int | None = None
        self._outcomes: OrderedDict[str, Entry] = OrderedDict()
        self._waiting: dict[Key, set[Watch]] = {}
        self._watchers: set[Watcher] = set()
        self._stopping = False

    # what the follower says

    def begin(self, state: LogState) -> None:
        """The follower reads from `state.next_offset` on; what was known before is no more."""
        if self.state.log not in ("", state.log):
            for watcher in self._watchers:
                watcher.close("another log")
        self.state = state
        self._recent.clear()
        self._recent_bytes = 0
        self._recent_from = state.next_offset

    def take(self, entries: list[Entry], state: LogState) -> None:
        """The admitted entries of the next records, and the state after them."""
        self.state = state
        for entry in entries:
            self._remember(entry)
            for key in keys_of(entry.event):
                for watch in self._waiting.get(key, ()):
                    watch.offer(entry)
        for watcher in self._watchers:
            watcher.offer(entries, state.next_offset)
            self.slow_watchers += watcher.closed == "slow"
        self._watchers = {watcher for watcher in self._watchers if not watcher.closed}

    def _remember(self, entry: Entry) -> None:
        self._recent.append(entry)
        self._recent_bytes += entry.size
        while len(self._recent) > RECENT_EVENTS or self._recent_bytes > RECENT_BYTES:
            gone = self._recent.popleft()
            self._recent_bytes -= gone.size
            self._recent_from = gone.next_offset
        if entry.event.type in SEAT_TYPES and entry.event.causationid:
            self._outcomes.setdefault(entry.event.causationid, entry)
            if len(self._outcomes) > RECENT_OUTCOMES:
                self._outcomes.popitem(last=False)

    def stop(self) -> None:
        """The portal stops: every watcher ends with a position to resume at."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.close("stop")

    # what requests ask

    @contextmanager
    def watch(self, *keys: Key) -> Iterator[Watch]:
        """Entries about these keys from now on."""
        watch = Watch()
        for key in keys:
            self._waiting.setdefault(key, set()).add(watch)
        try:
            yield watch
        finally:
            for key in keys:
                self._waiting[key].discard(watch)
                if not self._waiting[key]:
                    del self._waiting[key]

    def outcome(self, command: str) -> Entry | None:
        """The outcome of a command, if it came lately."""
        return self._outcomes.get(command)

    def recent(self, start: int) -> list[Entry] | None:
        """All admitted entries from offset `start` on, or None when that is further back than what is in memory."""
        if self._recent_from is None or start < self._recent_from:
            return None
        return [entry for entry in self._recent if entry.offset >= start]

    @contextmanager
    def watcher(self, fits: Callable[[Event], bool], limit: int = WATCHER_QUEUE) -> Iterator[Watcher]:
        """A stream of what fits from now on."""
        watcher = Watcher(fits, self.state.next_offset, limit)
        if self._stopping:
            watcher.close("stop")
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    @property
    def watchers(self) -> int:
        return len(self._watchers)


def position(log: str, next_offset: int) -> str:
    """A place in a log as clients hold it: `<log id>:<next_offset>`."""
    return f"{log}:{next_offset}"


class Place(Struct, frozen=True):
    """A parsed position."""

    log: str
    next_offset: int


def parse_position(text: str) -> Place:
    """Reads `<log id>:<next_offset>`. Raises `ValueError` saying what would be right."""
    log, colon, number = text.strip().rpartition(":")
    try:
        offset = msgspec.convert(number, int, strict=False)
    except msgspec.ValidationError:
        offset = -1
    if not colon or not log or not 0 <= offset < 2**62:
        raise ValueError(f"{text[:80]!r} is no position; one looks like 0b3f….:1234, a log's id and the next offset")
    return Place(log, offset)
