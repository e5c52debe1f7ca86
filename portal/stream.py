"""The stream of admitted events: from any position on, then live, for as long as the client likes."""

from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from falcon.asgi import SSEvent
from msgspec import Meta, Struct, field

from bus.patterns import matches
from events.codec import decode
from events.envelope import Event
from portal.feed import Entry
from portal.hub import Hub, Place, parse_position, position
from portal.log import Log
from portal.offload import Offload
from portal.queries import EventQuery, events, moment
from portal.sse import KEEP_ALIVE_SECONDS, Frames, KeepAlive
from portal.views import Views
from projections.osis.filters import And, Gte, Lt

#: Events read from the log at a time.
PAGE = 200
#: Seconds that the views may take to index what is older than the hub's memory.
INDEX_SECONDS = 30.0

fits_type = lru_cache(maxsize=4_096)(matches)


class StreamQuery(Struct, kw_only=True):
    """What to watch, and from where. The header `Last-Event-ID` goes before `from`."""

    type: Annotated[str, Meta(max_length=200, description="a type; * is one word of it, # any number")] = ""
    subject: Annotated[str, Meta(max_length=200)] = ""
    correlation: Annotated[str, Meta(max_length=36)] = ""
    start: Annotated[
        str, Meta(max_length=200, description="an offset, <log id>:<next offset>, `first`, a moment, or -4h")
    ] = field(default="", name="from")
    follow: Annotated[bool, Meta(description="false: end when everything that is there was sent")] = True


def fits(query: StreamQuery) -> Callable[[Event], bool]:
    """Whether an event is wanted."""

    def wanted(event: Event) -> bool:
        return (
            (not query.type or fits_type(query.type, event.type))
            and (not query.subject or event.subject == query.subject)
            and (not query.correlation or event.correlationid == query.correlation)
        )

    return wanted


class EventStream:
    """One for each request; the loop's thread uses it."""

    def __init__(self, query: StreamQuery, *, hub: Hub, views: Views, log: Log, offload: Offload) -> None:
        self._query = query
        self._wanted = fits(query)
        self._hub = hub
        self._views = views
        self._log = log
        self._offload = offload
        self._name = hub.state.log

    async def frames(self, start: int | None) -> AsyncGenerator[SSEvent | None, None]:
        """Everything that fits from `start` on (None: from now on), then what comes."""
        query = self._query
        with self._hub.watcher(self._wanted, (query.type, query.subject, query.correlation)) as watcher:
            # tells the client at once that it is connected, and where
            yield self._here(watcher.position if start is None else start)
            if start is not None:
                async for entry in self._past(start, watcher.position):
                    yield Frames(entry.frame(self._name))
            if not self._query.follow:
                return
            while True:
                if frames := await watcher.next(KEEP_ALIVE_SECONDS):
                    yield Frames(frames)
                else:
                    yield self._here(watcher.position)
                    if watcher.closed:
                        return

    def _here(self, next_offset: int) -> KeepAlive:
        return KeepAlive(position(self._name, next_offset))

    async def _past(self, start: int, end: int) -> AsyncGenerator[Entry, None]:
        """What is wanted of the records from `start` up to but not including `end`."""
        at = start
        while at < end:
            recent = self._hub.recent(at)
            if recent is None and not await self._views.reach(min(end, at + 1), INDEX_SECONDS):
                return
            entries, at = (recent, end) if recent is not None else await self._offload(self._indexed, at, end)
            for entry in entries:
                if entry.offset < end and self._wanted(entry.event):
                    yield entry

    def _indexed(self, start: int, end: int) -> tuple[list[Entry], int]:
        """Admitted records as the index of events knows them, and where it knows no more; blocking."""
        query = EventQuery(
            type=self._query.type, subject=self._query.subject, correlation=self._query.correlation, verdict="admitted"
        )
        # the index is written before the checkpoint: what it has beyond that is left for the next look, or came twice
        known = max(start, min(end, self._views.as_of().next_offset))
        where = And(Gte("offset", start), Lt("offset", known), events(query, datetime.now(UTC)))
        page = self._views.live().find("events", where, sort=["offset"], limit=PAGE, total=False)
        records = self._log.fetch(item["offset"] for item in page.items)
        entries = [
            Entry(offset, record.next_offset, decode(record.body), len(record.body))
            for offset, record in sorted(records.items())
        ]
        if page.next_cursor is None or not entries:
            return entries, known
        return entries, entries[-1].next_offset


def parse_start(text: str, now: datetime, offset_at: Callable[[datetime], int]) -> Place | int:
    """Where a stream begins: a position, or an offset of this log. Blocking. Raises `Problem` 400."""
    if text == "first":
        return 0
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    try:
        return parse_position(text)
    except ValueError:
        return offset_at(datetime.fromisoformat(moment(text, now, "from")).replace(tzinfo=UTC))
