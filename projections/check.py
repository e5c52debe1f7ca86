"""Checking: the live views compared with what the log makes of them now, while both go on.

    rebuild into a namespace of its own, up to where the live views are
    → compare document by document, in order of ids, with a digest for each view and each side
    → drop the namespace

The live views may move on meanwhile. Two documents that differ are looked at again: the rebuilt views follow to the
checkpoint of the live ones, which promises everything before it, until both speak of the same place in the log. What
is in one of them only because its time to live has passed is no difference.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from functools import partial
from hashlib import sha256
from itertools import islice, takewhile
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bus.checkpoint import resume
from bus.clock import Clock, SystemClock
from bus.errors import LogDiverged
from bus.ports import Bus, Stream
from projections import generation
from projections.admission_store import Saved, read_checkpoint
from projections.catchup import CatchUp, Progress
from projections.metrics import Metrics
from projections.osis.documents import Document, Documents, Namespace
from projections.osis.ttl import expiry
from projections.projection import AnyProjection
from projections.registry import PROJECTIONS, versions
from projections.replay import ReplayRefused, Tell, chosen
from projections.set_aside import read_marker
from projections.writer import Writer

#: Seconds that a document may go on changing before it is left uncompared, and between two looks at it.
SETTLE, LOOK = 5.0, 0.05
#: Seconds by which the clock of the storage may differ from ours when it removes what has expired.
CLOCK_ERROR = 120.0
#: Documents compared at a time.
CHUNK = 500

#: What became of one pair of documents that differed at first sight.
Settled = Literal["equal", "different", "expired", "unsettled"]
#: What lies under one id in the live views, and in the rebuilt ones.
Pair = tuple[Document | None, Document | None]
#: A pair, and what became of it.
Verdict = tuple[Settled, Document | None, Document | None]


class Difference(Struct, frozen=True, kw_only=True):
    """One document that is not what the log makes of it. Without `field` it is there on one side only."""

    id: str
    #: The path of the first field that differs, in order of names; "" when the document is missing on one side.
    field: str
    live: Any
    rebuilt: Any
    #: Whether the live document is set aside, which would be the reason.
    set_aside: bool


class ViewCheck(Struct, kw_only=True):
    """One view. The digests are SHA-256 over the canonical JSON of the documents compared, in order of ids."""

    view: str
    documents: int = 0
    differences: int = 0
    #: Only on one side, because their time has passed on the other.
    expired: int = 0
    #: They changed all the time; nothing is said of them.
    unsettled: int = 0
    live_digest: str = ""
    rebuilt_digest: str = ""
    first: Difference | None = None

    @property
    def equal(self) -> bool:
        return not self.differences


class CheckReport(Struct, frozen=True, kw_only=True):
    """What was compared with what: the live views in `generation`, and the first `next_offset` records of the log."""

    generation: str
    log: str
    next_offset: int
    records: int
    seconds: float
    views: list[ViewCheck]

    @property
    def equal(self) -> bool:
        return all(view.equal for view in self.views)


def check(
    bus: Bus,
    documents: Documents,
    *,
    projections: Collection[str] | None = None,
    progress: Tell | None = None,
    clock: Clock | None = None,
    views: tuple[AnyProjection, ...] = PROJECTIONS,
    sleep: Callable[[float], None] = time.sleep,
) -> CheckReport:
    """Compares the live views, or those named, with the log. Writes nothing that stays.

    Raises `ReplayRefused` when there is nothing to compare, `projections.generation.Dropped` when the views were
    swapped meanwhile, and the errors of bus and storage.
    """
    run = _Check(bus.stream("log"), documents, chosen(projections, views), progress, clock or SystemClock(), sleep)
    try:
        return run.run()
    finally:
        documents.drop_namespace(run.shadow.name)


class _Check:
    def __init__(
        self,
        stream: Stream,
        documents: Documents,
        views: tuple[AnyProjection, ...],
        tell: Tell | None,
        clock: Clock,
        sleep: Callable[[float], None],
    ) -> None:
        self._stream = stream
        self._documents = documents
        self._views = views
        self._tell = tell or (lambda *_: None)
        self._clock = clock
        self._sleep = sleep
        self._began = clock.monotonic()
        self._metrics = Metrics()
        self._live, saved = self._look()
        self._log_id = saved.checkpoint.log
        self.shadow = generation.begin(documents, clock.now(), "check", generation.CHECK_PREFIX)
        # it is dropped as a whole, and must have what the live views no longer do
        lasting = [replace(view, ttl=None) for view in views]
        self._writer = Writer(self.shadow, lasting, clock, self._metrics)

    def _look(self) -> tuple[Namespace, Saved]:
        """The live views, if they can be compared with anything."""
        name = generation.live(self._documents)
        namespace = None if name is None else self._documents.namespace(name)
        saved = None if namespace is None else read_checkpoint(namespace)
        if namespace is None or saved is None:
            raise ReplayRefused("there are no live views to check")
        here = versions(self._views)
        if any(saved.views.get(view) != version for view, version in here.items()):
            raise ReplayRefused("the live views were made by another version of fleetbus; `fleetbus replay` them first")
        try:
            resume(self._stream, saved.checkpoint).close()
        except LogDiverged as error:
            raise ReplayRefused(f"the live views are not of this log: {error}") from error
        return namespace, saved

    def run(self) -> CheckReport:
        self._writer.begin()
        self._writer.declare(indexes=False)
        self._follow()
        total, done = sum(self._live.count(view.name) for view in self._views), 0
        found = []
        for view in self._views:
            one = self._compare(view, partial(self._tell_more, done, total))
            found.append(one)
            done += one.documents
        self._still_there()
        return CheckReport(
            generation=self._live.name,
            log=self._log_id,
            next_offset=self._writer.state.next_offset,
            records=self._metrics.records,
            seconds=self._clock.monotonic() - self._began,
            views=found,
        )

    def _follow(self) -> int:
        """Brings the rebuilt views to the checkpoint of the live ones; its next offset."""
        saved = read_checkpoint(self._live)
        if saved is None:
            raise generation.Dropped(f"{self._live.name} was dropped while it was checked; check again")
        until, checkpoint = saved.checkpoint.next_offset, self._writer.checkpoint
        if checkpoint is not None and checkpoint.next_offset >= until:
            return checkpoint.next_offset
        stream = self._stream
        with closing(stream.read_from("first") if checkpoint is None else resume(stream, checkpoint)) as reader:
            CatchUp(stream, reader, self._writer, self._log_id, self._clock).run(self._heed, until)
        return until

    def _heed(self, progress: Progress) -> bool:
        self._tell(progress.next_offset, progress.end, progress.rate)
        return True

    def _tell_more(self, before: int, total: int, more: int) -> None:
        self._tell(before + more, max(total, before + more), 0.0)

    def _still_there(self) -> None:
        if generation.live(self._documents) != self._live.name or not generation.exists(self.shadow):
            raise generation.Dropped("the live views were swapped for others while they were checked; check again")

    # one view

    def _compare(self, view: AnyProjection, tell: Callable[[int], None]) -> ViewCheck:
        found, digests = ViewCheck(view=view.name), (sha256(), sha256())
        last = max(_last_id(self._live, view.name), _last_id(self.shadow, view.name))
        pairs = _pairs(self._live.iterate(view.name), self.shadow.iterate(view.name))
        # ids of later documents are higher, mostly: without an end it would run after those that come meanwhile
        there_before = takewhile(lambda pair: _id_of(pair) <= last, pairs)
        while chunk := list(islice(there_before, CHUNK)):
            for kind, *both in self._settled(view, chunk):
                _count(found, kind)
                if kind in ("equal", "different"):
                    for digest, document in zip(digests, both, strict=True):
                        digest.update(b"" if document is None else _canonical(document))
                if kind == "different" and found.first is None:
                    self._still_there()
                    found.first = self._difference(view, *both)
            tell(found.documents)
        found.live_digest, found.rebuilt_digest = (digest.hexdigest() for digest in digests)
        return found

    def _settled(self, view: AnyProjection, chunk: list[Pair]) -> Iterator[Verdict]:
        """The pairs, in the same order, each with what is to be made of it."""
        odd = {_id_of(pair) for pair in chunk if not _same(*pair)}
        settled = self._settle(view, odd) if odd else {}
        for pair in chunk:
            yield settled.get(_id_of(pair)) or ("equal", *pair)

    def _settle(self, view: AnyProjection, odd: set[str]) -> dict[str, Verdict]:
        """Looks at these documents again and again, until both sides of each speak of the same place in the log."""
        found: dict[str, Verdict] = {}
        deadline = self._clock.monotonic() + SETTLE
        while odd:
            promised = self._follow()
            over = self._clock.monotonic() >= deadline
            # the live ones last: what they promised at that place is in them now
            rebuilt, live = self.shadow.get_many(view.name, odd), self._live.get_many(view.name, odd)
            for id in sorted(odd):
                pair = live.get(id), rebuilt.get(id)
                kind = self._kind(view, pair, promised, over=over)
                if kind is not None:
                    found[id] = (kind, *pair)
            odd = odd - found.keys()
            if odd:
                self._sleep(LOOK)
        return found

    def _kind(self, view: AnyProjection, pair: Pair, promised: int, *, over: bool) -> Settled | None:
        """None: look again."""
        live, rebuilt = pair
        if _same(live, rebuilt):
            return "equal"
        if live is None:
            return "expired" if self._is_over(view, rebuilt) else "different" if over else None
        if live["_at"] < promised:
            return "different"
        return "unsettled" if over else None

    def _is_over(self, view: AnyProjection, rebuilt: Document | None) -> bool:
        moment = None if rebuilt is None else expiry(view.ttl, rebuilt)
        return moment is not None and moment <= self._clock.now().timestamp() + CLOCK_ERROR

    def _difference(self, view: AnyProjection, live: Document | None, rebuilt: Document | None) -> Difference:
        field, here, there = ("", live, rebuilt) if live is None or rebuilt is None else first_field(live, rebuilt)
        id = _id_of((live, rebuilt))
        aside = read_marker(self._live, view.name, id) is not None
        return Difference(id=id, field=field, live=here, rebuilt=there, set_aside=aside)


def _count(found: ViewCheck, kind: Settled) -> None:
    found.documents += 1
    found.differences += kind == "different"
    found.expired += kind == "expired"
    found.unsettled += kind == "unsettled"


def _last_id(namespace: Namespace, view: str) -> str:
    found = namespace.find(view, sort=["-_id"], limit=1, total=False).items
    return str(found[0]["_id"]) if found else ""


def _pairs(live: Iterator[Document], rebuilt: Iterator[Document]) -> Iterator[tuple[Document | None, Document | None]]:
    """Documents with the same id side by side; both come in order of ids."""
    one, other = next(live, None), next(rebuilt, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one["_id"] < other["_id"]):
            yield one, None
            one = next(live, None)
        elif one is None or other["_id"] < one["_id"]:
            yield None, other
            other = next(rebuilt, None)
        else:
            yield one, other
            one, other = next(live, None), next(rebuilt, None)


def _id_of(pair: Pair) -> str:
    document = pair[0] or pair[1]
    assert document is not None
    return str(document["_id"])


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted") + b"\n"


def _same(live: Document | None, rebuilt: Document | None) -> bool:
    # as JSON, because to Python 1, 1.0 and True are equal
    return live == rebuilt and _canonical(live) == _canonical(rebuilt)


def first_field(live: Any, rebuilt: Any, path: str = "") -> tuple[str, Any, Any]:
    """The path of the first difference, in order of names, with both values there; what is missing is None."""
    if isinstance(live, dict) and isinstance(rebuilt, dict):
        names = sorted(live.keys() | rebuilt.keys())
        name = next(
            name
            for name in names
            if _canonical(live.get(name)) != _canonical(rebuilt.get(name)) or (name in live) != (name in rebuilt)
        )
        return first_field(live.get(name), rebuilt.get(name), f"{path}.{name}" if path else name)
    if isinstance(live, list) and isinstance(rebuilt, list):
        for place, (one, other) in enumerate(zip(live, rebuilt, strict=False)):
            if _canonical(one) != _canonical(other):
                return first_field(one, other, f"{path}[{place}]")
    return path, live, rebuilt
