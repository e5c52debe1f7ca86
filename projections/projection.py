"""What a projection is: a value with a name, a version, and a pure fold of what the log says into documents.

The documents of a projection lie in the collection of its name. The one runner does all input and output around the
folds: it reads documents, skips what they reflect already (`_at`), sets `_id` and `_at`, and writes them.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from bus.admission import Verdict
from bus.ports import Record
from events.envelope import Event
from projections.osis.documents import Document, Ttl

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

#: One index: field paths, a leading "-" for descending; `_id` is added at the end by itself.
Index = tuple[str, ...]


class Entry(Struct, frozen=True):
    """One record of the log, the verdict on it, and the log time there; all three the same for every reader."""

    record: Record
    verdict: Verdict
    log_time: datetime | None

    @property
    def offset(self) -> int:
        return self.record.offset


class Projection(Struct, frozen=True, kw_only=True):
    """A fold of admitted events.

    `keys(event)` are the ids of the documents that the event may change; for each of them,
    `fold(document, event, offset)` gives the document after it: the same object when nothing changes, None when
    there is none. A fold never changes the document that it is given, and needs not set `_id` and `_at`.

    An event about many things may first be split into one for each; `keys` and `fold` then get the parts.
    Whoever changes what a fold makes of a log, or the indexes, raises `version`: the view is then rebuilt.
    """

    name: str
    version: int
    #: The types that it looks at.
    handles: frozenset[str]
    split: Callable[[Event], Iterable[Event]] | None = None
    keys: Callable[[Event], Iterable[str]]
    fold: Callable[[Document | None, Event, int], Document | None]
    #: `fold` over several events and their offsets, one after the other, at less cost: what `fold` would have come to,
    #: and the offset of the last event that changed it.
    fold_many: Callable[[Document | None, Sequence[tuple[Event, int]]], tuple[Document | None, int]] | None = None
    indexes: tuple[Index, ...] = ()
    #: Those of the indexes that grow in few places, over documents that stay as they are: a rebuild lets these grow as
    #: it writes, where the storage does so at little cost, and makes the others when all documents are there.
    growing: tuple[Index, ...] = ()
    #: Fields by which lists filter and sort in ways that no index serves (`osis.documents`). It needs no new `version`:
    #: what is missing is made when a runner starts.
    scan: tuple[str, ...] = ()
    ttl: Ttl | None = None


class EntryProjection(Struct, frozen=True, kw_only=True):
    """A fold of all records, whatever the verdict on them. The rules are those of `Projection`."""

    name: str
    version: int
    keys: Callable[[Entry], Iterable[str]]
    fold: Callable[[Document | None, Entry], Document | None]
    indexes: tuple[Index, ...] = ()
    #: Those of the indexes that grow in few places, over documents that stay as they are: a rebuild lets these grow as
    #: it writes, where the storage does so at little cost, and makes the others when all documents are there.
    growing: tuple[Index, ...] = ()
    #: Fields by which lists filter and sort in ways that no index serves (`osis.documents`). It needs no new `version`:
    #: what is missing is made when a runner starts.
    scan: tuple[str, ...] = ()
    ttl: Ttl | None = None


AnyProjection = Projection | EntryProjection


# several views say the time of one event, and a job its times again and again; a batch has some thousand of them
@lru_cache(maxsize=16_384)
def moment(time: datetime) -> str:
    """RFC 3339 in UTC, always with microseconds, so that texts sort as the moments do.

    What UTC cannot say (the first and last hours of the calendar, elsewhere) becomes the nearest that it can.
    """
    if time.tzinfo is not UTC:
        try:
            time = time.astimezone(UTC)
        except OverflowError:
            time = _FIRST if time.year == 1 else _LAST
    if time.microsecond:
        # four times as fast, but it leaves out microseconds that are none
        return _encoder.encode(time)[1:-1].decode()
    return time.isoformat("T", "microseconds").removesuffix("+00:00") + "Z"


def optional_moment(time: datetime | None) -> str | None:
    return None if time is None else moment(time)


def plain(value: Any) -> Any:
    """The value as it comes back from the storage: objects, lists, texts, numbers."""
    return _decoder.decode(_encoder.encode(value))
