"""What the event loop knows of the log's end: who waits for what, and who watches.

Everything here belongs to the loop's thread. The follower hands over batches with `take`.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec
from msgspec import Struct

from events.envelope import Event
from events.registry import SEAT_TYPES
from portal.feed import Entry, Feed, Rhythm, Watcher

#: Admitted events kept in memory for those who resume: at most so many, and so many bytes of JSON.
RECENT_EVENTS = 5_000
RECENT_BYTES = 32_000_000
#: Outcomes of commands kept in memory; older ones are in the views.
RECENT_OUTCOMES = 20_000


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
        #: What is watched, by what makes two streams the same.
        self._feeds: dict[Hashable, Feed] = {}
        self._rhythm = Rhythm(self._wake)
        self._stopping = False

    # what the follower says

    def begin(self, state: LogState) -> None:
        """The follower reads from `state.next_offset` on; what was known before is no more."""
        if self.state.log not in ("", state.log):
            for feed in self._feeds.values():
                feed.close("another log")
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
        news = [feed.offer(entries, state.next_offset) for feed in self._feeds.values()]
        if any(news):
            self._rhythm.strike(self.watchers)

    def _wake(self) -> None:
        for feed in self._feeds.values():
            self.slow_watchers += feed.wake()

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
        for feed in self._feeds.values():
            feed.close("stop")

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
    def watcher(self, fits: Callable[[Event], bool], same: Hashable = None) -> Iterator[Watcher]:
        """A stream of what fits from now on. Streams with equal `same` have an equal `fits`, and share their work."""
        key = object() if same is None else same
        feed = self._feeds.get(key)
        if feed is None or feed.log != self.state.log:
            feed = self._feeds[key] = Feed(fits, self.state.log, self.state.next_offset)
        watcher = feed.open()
        if self._stopping:
            watcher.close("stop")
        try:
            yield watcher
        finally:
            feed.leave(watcher)
            if not feed.watchers and self._feeds.get(key) is feed:
                del self._feeds[key]

    @property
    def watchers(self) -> int:
        return sum(len(feed.watchers) for feed in self._feeds.values())


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
