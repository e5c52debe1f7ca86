"""Replay: the views made again from the log, beside the live ones.

    replay(bus, documents)                          all views; swapped when they have caught up
    replay(bus, documents, projections=["jobs"])    this one anew, the others copied from the live generation
    replay(bus, documents, until=time or offset)    the views of an earlier time, in a namespace of their own

The runner may go on meanwhile: it keeps the old generation up to date until it sees, within a second, that another is
live, and goes on there. Nothing outside of views is touched.

A copy of a collection that is being written is no snapshot, but every document says by `_at` which events it reflects,
so folding on from where the copy began makes it right: what a document has already is passed over.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from bus.checkpoint import Checkpoint, log_id, resume
from bus.clock import Clock, SystemClock
from bus.errors import LogDiverged
from bus.ports import Bus, Reader, Stream
from projections import generation
from projections.admission_store import META, Saved, read_checkpoint
from projections.catchup import Behind, CatchUp, Progress, Stretch
from projections.metrics import Metrics
from projections.osis.documents import Document, Documents, Namespace
from projections.osis.rare_collections import rare_collections
from projections.osis.ttl import expiry
from projections.projection import AnyProjection, Entry, moment
from projections.registry import PROJECTIONS, versions
from projections.set_aside import SET_ASIDE
from projections.writer import Writer

T = TypeVar("T")

#: Documents copied at a time.
COPY = 1_000

#: Is told (next offset, end of the log, records per second) after each batch.
Tell = Callable[[int, int, float], None]


class ReplayRefused(Exception):
    """The replay that was asked for cannot be done; the message says why, and what can."""


class ReplayReport(Struct, frozen=True, kw_only=True):
    """What a replay made. `records` were read in `seconds`; `live` says whether the views are the live ones now."""

    generation: str
    live: bool
    log: str
    next_offset: int
    log_time: datetime | None
    records: int
    seconds: float
    set_aside: int

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds if self.seconds > 0 else 0.0


def replay(
    bus: Bus,
    documents: Documents,
    *,
    until: datetime | int | None = None,
    projections: Collection[str] | None = None,
    progress: Tell | None = None,
    clock: Clock | None = None,
    views: tuple[AnyProjection, ...] = PROJECTIONS,
) -> ReplayReport:
    """Makes views again from the start of the log.

    `until`, a moment (with a zone) or an offset: the last record is the last one whose log time, or offset, is not
    later. `projections`: only the views with these names; `views`: all there are. Raises `ReplayRefused`,
    `projections.generation.Dropped` when this process slept for so long that its work was cleared away, and the errors
    of bus and storage.
    """
    run = _Replay(bus.stream("log"), documents, views, chosen(projections, views), progress, clock or SystemClock())
    if until is not None:
        return run.as_of(until)
    return run.everything() if run.chosen == views else run.some()


def chosen(names: Collection[str] | None, views: tuple[AnyProjection, ...] = PROJECTIONS) -> tuple[AnyProjection, ...]:
    """Those of the views that were named; None: all of them. Raises `ReplayRefused`."""
    if names is None:
        return views
    unknown = sorted(set(names) - versions(views).keys())
    if unknown or not names:
        wrong = f"there is no view {', '.join(unknown)}" if unknown else "no view was named"
        raise ReplayRefused(f"{wrong}; there are: {', '.join(versions(views))}")
    return tuple(projection for projection in views if projection.name in names)


class _Replay:
    """One replay; each method is one whole way to do it."""

    def __init__(
        self,
        stream: Stream,
        documents: Documents,
        views: tuple[AnyProjection, ...],
        chosen: tuple[AnyProjection, ...],
        tell: Tell | None,
        clock: Clock,
    ) -> None:
        self.chosen = chosen
        self._views = views
        self._stream = stream
        self._documents = documents
        self._tell = tell
        self._clock = clock
        self._began = clock.monotonic()
        self._metrics = Metrics()
        first = stream.first()
        if first is None:
            raise ReplayRefused("the log is empty: there is nothing to replay")
        self._log_id = log_id(first)

    def everything(self) -> ReplayReport:
        """From the first record to the last, then live."""
        writer = self._writer(self._begin("replay").name, self._views)
        writer.begin()
        writer.declare(indexes=False)
        with closing(self._stream.read_from("first")) as reader:
            return self._finish(writer, reader)

    def some(self) -> ReplayReport:
        """The chosen views up to where the live ones are, then a copy of the others, then all of them to the end."""
        source, saved = self._live()
        namespace = self._begin(f"replay of {', '.join(one.name for one in self.chosen)}")
        chosen = self._writer(namespace.name, self.chosen)
        chosen.begin()
        chosen.declare(indexes=False)
        with closing(self._stream.read_from("first")) as reader:
            self._catch_up(chosen, reader).run(self._heed, saved.checkpoint.next_offset)
        writer = self._writer(namespace.name, self._views)
        writer.load()
        writer.declare(indexes=False)
        self._copy(source, namespace)
        writer.stamp()
        with closing(self._resume(writer.checkpoint)) as reader:
            return self._finish(writer, reader)

    def as_of(self, until: datetime | int) -> ReplayReport:
        """The chosen views up to a moment or an offset; they stay as they are."""
        if isinstance(until, datetime) and until.tzinfo is None:
            raise ReplayRefused(f"{until.isoformat()} has no time zone; write {until.isoformat()}Z for UTC")
        until_text = str(until) if isinstance(until, int) else moment(until)
        namespace = generation.begin(
            self._documents, self._clock.now(), f"views until {until}", generation.AS_OF_PREFIX, until_text
        )
        try:
            self._fold_until(namespace, until)
        except BaseException:
            self._documents.drop_namespace(namespace.name)
            raise
        return self._report(namespace, live=False)

    def _fold_until(self, namespace: Namespace, until: datetime | int) -> None:
        # what is over by today was there then; what was over then is taken out at the end
        writer = self._writer(namespace.name, [replace(view, ttl=None) for view in self.chosen])
        writer.begin()
        writer.declare(indexes=False)
        last: Entry | None = None
        with closing(self._stream.read_from("first")) as reader:
            stretch = Stretch(self._stream, reader, 0)
            with rare_collections(), Behind(writer, self._clock, stretch.records) as behind:
                for entries in self._until(writer, stretch, until):
                    behind.write(writer.fold_entries(entries))
                    last, stretch.size = entries[-1], behind.size
                    self._heed(self._progress(last.record.next_offset, stretch.end))
        if last is not None and last.log_time is not None:
            self._forget(namespace, last.log_time)
        writer.declare(indexes=True)
        writer.mark(self._log_id, last)

    def _forget(self, namespace: Namespace, then: datetime) -> None:
        """Takes out what had outlived its time by then."""
        for view in self.chosen:
            over = (one["_id"] for one in namespace.iterate(view.name) if _is_over(view, one, then))
            for ids in _chunks(over):
                namespace.delete_many(view.name, ids)

    def _until(self, writer: Writer, stretch: Stretch, until: datetime | int) -> Iterator[list[Entry]]:
        """Batches of what is not later than `until`."""
        for records in stretch:
            entries = []
            for record in records:
                entry = writer.admit(record)
                if _is_later(entry, until):
                    break
                entries.append(entry)
            if entries:
                yield entries
            if len(entries) < len(records):
                return

    def _live(self) -> tuple[Namespace, Saved]:
        """The live generation, if its other views can be taken over as they are."""
        name = generation.live(self._documents)
        namespace = None if name is None else self._documents.namespace(name)
        saved = None if namespace is None else read_checkpoint(namespace)
        if namespace is None or saved is None:
            raise ReplayRefused("there are no live views to take the others from; replay all of them")
        others = {name: version for name, version in versions(self._views).items() if name not in versions(self.chosen)}
        if any(saved.views.get(name) != version for name, version in others.items()):
            raise ReplayRefused("the other live views were made by another version of fleetbus; replay all of them")
        try:
            resume(self._stream, saved.checkpoint).close()
        except LogDiverged as error:
            raise ReplayRefused(f"the live views are not of this log ({error}); replay all of them") from error
        return namespace, saved

    def _copy(self, source: Namespace, target: Namespace) -> None:
        names = {projection.name for projection in self.chosen}
        for projection in self._views:
            if projection.name not in names:
                for documents in _chunks(source.iterate(projection.name)):
                    target.put_many(projection.name, documents)
        markers = (one for one in source.iterate(SET_ASIDE) if one["view"] not in names)
        for documents in _chunks(markers):
            target.put_many(SET_ASIDE, documents)

    def _finish(self, writer: Writer, reader: Reader) -> ReplayReport:
        """To the end of the log; then the indexes, what came meanwhile, and the swap."""
        catch_up = self._catch_up(writer, reader)
        catch_up.run(self._heed)
        writer.declare(indexes=True)
        catch_up.run(self._heed)
        generation.swap(self._documents, writer.namespace.name)
        return self._report(writer.namespace, live=True)

    def _begin(self, why: str, prefix: str = generation.PREFIX) -> Namespace:
        return generation.begin(self._documents, self._clock.now(), why, prefix)

    def _writer(self, name: str, projections: Iterable[AnyProjection]) -> Writer:
        return Writer(self._documents.namespace(name), projections, self._clock, self._metrics)

    def _catch_up(self, writer: Writer, reader: Reader) -> CatchUp:
        return CatchUp(self._stream, reader, writer, self._log_id, self._clock)

    def _resume(self, checkpoint: Checkpoint | None) -> Reader:
        return self._stream.read_from("first") if checkpoint is None else resume(self._stream, checkpoint)

    def _heed(self, progress: Progress) -> bool:
        if self._tell is not None:
            self._tell(progress.next_offset, progress.end, progress.rate)
        return True

    def _progress(self, next_offset: int, end: int) -> Progress:
        seconds = self._clock.monotonic() - self._began
        return Progress(next_offset, end, self._metrics.records / seconds if seconds > 0 else 0.0)

    def _report(self, namespace: Namespace, *, live: bool) -> ReplayReport:
        saved = read_checkpoint(namespace)
        assert saved is not None
        return ReplayReport(
            generation=namespace.name,
            live=live,
            log=saved.checkpoint.log,
            next_offset=saved.checkpoint.next_offset,
            log_time=saved.head.log_time,
            records=self._metrics.records,
            seconds=self._clock.monotonic() - self._began,
            set_aside=namespace.count(SET_ASIDE),
        )


def _is_later(entry: Entry, until: datetime | int) -> bool:
    if isinstance(until, int):
        return entry.offset > until
    return entry.log_time is not None and entry.log_time > until


def _is_over(view: AnyProjection, document: Document, then: datetime) -> bool:
    end = expiry(view.ttl, document)
    return end is not None and end <= then.timestamp()


def _chunks(items: Iterable[T]) -> Iterator[Sequence[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, COPY)):
        yield chunk


def digests(namespace: Namespace) -> dict[str, str]:
    """The digest of each collection of a generation but `meta`. Two of the same log and the same code are equal."""
    names = [name for name in namespace.collections() if name != META]
    for name in names:
        # what is over goes at a time of the storage's choosing
        namespace.sweep(name)
    return {name: namespace.digest(name) for name in names if namespace.count(name)}
