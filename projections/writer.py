"""One generation of views being written: batch by batch, each as if it happened at once.

    admit → read the documents concerned → fold in memory → write what changed → write the checkpoint

A document whose fold raises is set aside (`folding`): a marker in the collection `set_aside` says since which record
and why, and is written before the view, so that no crash can separate the two.

A process may be killed anywhere in between. The next one begins at the checkpoint and does the same again; documents
that were written already say so by their `_at` and are passed over. Two processes may write to one generation: they
write the same, and a document never goes back.

`fold` reads and `store` writes, so that one batch can be folded while the one before it is being written: what that one
has made of a document stands in memory until it is stored.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import structlog
from msgspec import Struct

from bus.admission import AdmissionState, Admitted, Bad, Changes, Duplicate, Head, Verdict, Void, admit
from bus.checkpoint import Checkpoint, after
from bus.clock import Clock
from bus.ports import Record
from projections import folding
from projections.admission_store import AdmissionStore, Pending, Saved, write_checkpoint
from projections.folding import Dispatch, Folded, Steps, Trouble, trouble_of
from projections.metrics import Metrics, Word
from projections.osis.documents import Document, Namespace
from projections.osis.errors import BadDocument
from projections.projection import AnyProjection, Entry
from projections.set_aside import SET_ASIDE, aside_since, write_markers
from projections.written import Written

WORDS: dict[type[Verdict], Word] = {Admitted: "admitted", Duplicate: "duplicate", Void: "void", Bad: "bad"}

log = structlog.get_logger("projections.writer")


class Overtaken(Exception):
    """Another process writes the same generation and is further. Nothing is lost: go on from its checkpoint."""


class Commit(Struct, frozen=True):
    """What is known of the log at a checkpoint."""

    head: Head
    changes: Changes
    checkpoint: Checkpoint


class Part(Struct, frozen=True):
    """One view in a batch: what is said of it, what there was before, and what becomes of it."""

    projection: AnyProjection
    steps: Steps
    stored: Mapping[str, Document]
    folded: Folded

    def new(self) -> set[str]:
        """The ids of documents that were not there."""
        return {key for document in self.folded.changed if (key := document["_id"]) not in self.stored}


class Batch(Struct):
    """What was folded and is to be stored."""

    entries: Sequence[Entry]
    commit: Commit | None
    troubles: list[Trouble]
    parts: list[Part] = []
    #: Storing it wrote markers; and, worse, because the storage refused a document.
    marked: bool = False
    refused: bool = False

    def after(self, view: str) -> dict[str, Document | None]:
        """The documents that it changes; None is none."""
        found: dict[str, Document | None] = {}
        for part in self.parts:
            if part.projection.name == view:
                found.update((document["_id"], document) for document in part.folded.changed)
                found.update(dict.fromkeys(part.folded.deleted))
        return found


class Writer:
    """Writes one generation. After any exception it is of no use any more: make a new one and `load`."""

    def __init__(
        self, namespace: Namespace, projections: Iterable[AnyProjection], clock: Clock, metrics: Metrics | None = None
    ) -> None:
        self.namespace = namespace
        self.metrics = metrics or Metrics()
        self.checkpoint: Checkpoint | None = None
        self.state = AdmissionState()
        self._dispatch = Dispatch(projections)
        self._views = {projection.name: projection.version for projection in self._dispatch.projections}
        self._clock = clock
        self._store = AdmissionStore(namespace)
        #: How many markers there are, unknown before the first batch.
        self._markers: int | None = None
        #: What was folded and is not stored yet: one batch, and the one on top of it.
        self._unsettled: list[Batch] = []
        #: What was written of a generation that begins here; None: anything may be there.
        self._written: Written | None = None

    def begin(self) -> None:
        """Nothing is there yet but what this writer, or one like it, makes of the same log from its first record."""
        self._written = Written()

    def load(self) -> Saved | None:
        """Goes on from what was written; what that was, or None when it is nothing yet."""
        found = self._store.load()
        if found is None:
            return None
        self.state, saved = found
        self.checkpoint = saved.checkpoint
        return saved

    def declare(self, *, indexes: bool) -> None:
        """Creates the collections. Without indexes writing is faster; they can be made when all is there. Those that
        grow at little cost are made at once all the same: they grow beside the folding.
        """
        for projection in self._dispatch.projections:
            later = () if indexes else _fields(projection)
            growing = projection.growing if self.namespace.grows_indexes else ()
            wanted = projection.indexes if indexes else growing
            by_itself = [(), *((index,) for index in wanted)]
            for together in by_itself if self.namespace.indexes_block else [wanted]:
                self.namespace.declare(projection.name, indexes=together, fields=later, ttl=projection.ttl)
            if indexes and projection.scan:
                self.namespace.declare(projection.name, scan=projection.scan, ttl=projection.ttl)

    def write(self, records: Sequence[Record], log_id: str) -> None:
        """One batch of the log with this id, whole. Raises `Overtaken`, and the errors of the storage."""
        began = self._clock.monotonic()
        # in live views others may write, too
        self._written = None
        batch = self.fold(records, log_id)
        self.store(batch)
        self.settle(batch)
        self.metrics.batch_seconds += self._clock.monotonic() - began

    def fold(self, records: Sequence[Record], log_id: str) -> Batch:
        """What becomes of the views by these records, on top of all batches before; the next to be stored."""
        return self.fold_entries([self.admit(record) for record in records], after(log_id, records[-1]))

    def fold_entries(self, entries: Sequence[Entry], checkpoint: Checkpoint | None = None) -> Batch:
        """The same of records that were admitted. Without a checkpoint none is written."""
        commit = None
        if checkpoint is not None:
            commit = Commit(self.state.head(), self.state.take_changes(), checkpoint)
        batch = self._fold(entries, commit)
        self._unsettled = [*self._unsettled, batch]
        return batch

    def store(self, batch: Batch) -> None:
        """Writes what was folded, in the order of `fold`. Another thread than that of `fold` may do it, one batch at a
        time. Raises `Overtaken`, and the errors of the storage.
        """
        self._set_aside(batch, batch.troubles)
        try:
            changed = {part.projection.name: part.folded.changed for part in batch.parts if part.folded.changed}
            self.namespace.put_all(changed, new={part.projection.name: part.new() for part in batch.parts})
        except BadDocument:
            for part in batch.parts:
                self._put(batch, part)
        for part in batch.parts:
            if part.folded.deleted:
                self.namespace.delete_many(part.projection.name, part.folded.deleted)
        if batch.commit is not None:
            self._commit(batch.commit)

    def settle(self, batch: Batch) -> Batch | None:
        """After `store`, in the thread of `fold`: what is in the storage is not kept in memory any more.

        Returns the batch that was folded on top of this one, if it had to be folded again, because the storage
        refused a document.
        """
        first, *rest = self._unsettled
        assert first is batch
        self._unsettled = []
        if batch.commit is not None:
            self.checkpoint = batch.commit.checkpoint
        if self._written is not None:
            for part in batch.parts:
                self._written.add(part.projection.name, (document["_id"] for document in part.folded.changed))
        if batch.marked:
            self._markers = None
        for verdict, records in Counter(type(entry.verdict) for entry in batch.entries).items():
            self.metrics.count(WORDS[verdict], records)
        self.metrics.batches += 1
        self.metrics.documents += sum(len(part.folded.changed) for part in batch.parts)
        self.metrics.left_alone += sum(part.folded.left_alone for part in batch.parts)
        self.metrics.set_aside = self._marked()
        assert len(rest) <= 1
        if rest and batch.refused:
            rest = [self._fold(rest[0].entries, rest[0].commit)]
        self._unsettled = rest
        return rest[0] if rest and batch.refused else None

    def stamp(self) -> None:
        """Says at the checkpoint that was loaded that the views there are those of these projections."""
        assert self.checkpoint is not None
        self._commit(Commit(self.state.head(), self.state.take_changes(), self.checkpoint))

    def _commit(self, commit: Commit) -> None:
        if not self._store.commit(commit.head, commit.changes, commit.checkpoint, self._views, self._clock.now()):
            raise Overtaken(
                f"another process is beyond offset {commit.checkpoint.next_offset} in {self.namespace.name}"
            )

    def admit(self, record: Record) -> Entry:
        """The next record with the verdict on it."""
        verdict = admit(self.state, record)
        return Entry(record, verdict, self.state.log_time)

    def _fold(self, entries: Sequence[Entry], commit: Commit | None) -> Batch:
        plan = self._dispatch.plan(entries)
        batch = Batch(entries, commit, troubles=plan.troubles)
        for projection in self._dispatch.projections:
            steps = plan.steps[projection.name]
            if steps:
                stored = self._read(projection, steps)
                folded = folding.fold(projection, steps, stored, self._aside(projection, steps))
                batch.parts.append(Part(projection, steps, stored, folded))
                batch.troubles.extend(folded.troubles)
        return batch

    def _read(self, projection: AnyProjection, steps: Steps) -> dict[str, Document]:
        """The documents concerned, as all batches before have left them."""
        found: dict[str, Document | None] = {}
        for batch in self._unsettled:
            after = batch.after(projection.name)
            found.update((key, after[key]) for key in after.keys() & steps.keys())
        missing: Iterable[str] = [key for key in steps if key not in found] if found else steps
        if self._written is not None:
            missing = self._written.among(projection.name, missing)
        stored = self.namespace.get_many(projection.name, missing) if missing else {}
        stored.update((key, document) for key, document in found.items() if document is not None)
        return stored

    def _marked(self) -> int:
        if self._markers is None:
            self._markers = self.namespace.count(SET_ASIDE)
        return self._markers

    def _aside(self, projection: AnyProjection, keys: Iterable[str]) -> dict[str, int]:
        """Those of the documents that are set aside, and from which offset on. They are read, not remembered: a fold
        that fails on everything must not fill the memory.
        """
        found = aside_since(self.namespace, projection.name, keys) if self._marked() else {}
        for batch in self._unsettled:
            for trouble in batch.troubles:
                if trouble.view == projection.name and trouble.key:
                    found.setdefault(trouble.key, trouble.offset)
        return found

    def mark(self, log_id: str, last: Entry | None) -> None:
        """Writes a checkpoint that nobody goes on from: of views that end at `last` for good."""
        checkpoint = Checkpoint(log=log_id) if last is None else after(log_id, last.record)
        head = Head(next_offset=checkpoint.next_offset, log_time=None if last is None else last.log_time)
        saved = Saved(
            checkpoint=checkpoint, head=head, pending=Pending(), views=self._views, written_at=self._clock.now()
        )
        write_checkpoint(self.namespace, saved)

    def _put(self, batch: Batch, part: Part) -> None:
        try:
            self.namespace.put_many(part.projection.name, part.folded.changed, new=part.new())
        except BadDocument:
            for document in part.folded.changed:
                self._put_alone(batch, part, document["_id"])

    def _put_alone(self, batch: Batch, part: Part, key: str) -> None:
        """One that no storage takes (too large) must not keep the others back: it stays as it was when it was taken
        last, wherever the batches begin and end.
        """
        projection, said = part.projection, part.steps[key]
        aside = {trouble.key: trouble.offset for trouble in part.folded.troubles} | aside_since(
            self.namespace, projection.name, [key]
        )
        for steps in range(1, len(said) + 1):
            folded = folding.fold(projection, {key: said[:steps]}, part.stored, aside)
            try:
                self.namespace.put_many(projection.name, folded.changed)
            except BadDocument as error:
                what, offset = said[steps - 1]
                self._set_aside(batch, [trouble_of(projection, key, offset, what, error)])
                batch.refused = True
                return

    def _set_aside(self, batch: Batch, troubles: Sequence[Trouble]) -> None:
        if not troubles:
            return
        for trouble in troubles:
            log.error(
                "a projection failed on an event; the document is set aside until a replay",
                action="projection.set_aside",
                view=trouble.view,
                key=trouble.key,
                event_id=trouble.event,
                offset=trouble.offset,
                error=trouble.error,
            )
        write_markers(self.namespace, troubles)
        batch.marked = True


def _fields(projection: AnyProjection) -> list[str]:
    """All fields that its indexes and lists name."""
    named = [field.removeprefix("-") for index in projection.indexes for field in index]
    return list(dict.fromkeys([*named, *projection.scan]))
