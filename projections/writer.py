"""One generation of views being written: batch by batch, each as if it happened at once.

    admit → read the documents concerned → fold in memory → write what changed → write the checkpoint

A document whose fold raises is set aside (`folding`): a marker in the collection `set_aside` says since which record
and why, and is written before the view, so that no crash can separate the two.

A process may be killed anywhere in between. The next one begins at the checkpoint and does the same again; documents
that were written already say so by their `_at` and are passed over. Two processes may write to one generation: they
write the same, and a document never goes back.
"""

from collections.abc import Iterable, Mapping, Sequence

import structlog

from bus.admission import AdmissionState, Admitted, Bad, Duplicate, Head, Verdict, Void, admit
from bus.checkpoint import Checkpoint, after
from bus.clock import Clock
from bus.ports import Record
from projections import folding
from projections.admission_store import AdmissionStore, Pending, Saved, write_checkpoint
from projections.folding import Dispatch, Folded, Said, Steps, Trouble, trouble_of
from projections.metrics import Metrics, Word
from projections.osis.documents import Document, Namespace
from projections.osis.errors import BadDocument
from projections.projection import AnyProjection, Entry
from projections.set_aside import SET_ASIDE, aside_since, write_markers

WORDS: dict[type[Verdict], Word] = {Admitted: "admitted", Duplicate: "duplicate", Void: "void", Bad: "bad"}

log = structlog.get_logger("projections.writer")


class Overtaken(Exception):
    """Another process writes the same generation and is further. Nothing is lost: go on from its checkpoint."""


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

    def load(self) -> Saved | None:
        """Goes on from what was written; what that was, or None when it is nothing yet."""
        found = self._store.load()
        if found is None:
            return None
        self.state, saved = found
        self.checkpoint = saved.checkpoint
        return saved

    def declare(self, *, indexes: bool) -> None:
        """Creates the collections. Without indexes writing is faster; they can be made when all is there."""
        for projection in self._dispatch.projections:
            self.namespace.declare(projection.name, ttl=projection.ttl)
            # one at a time, so that no other writer of the storage waits for all of them
            for index in projection.indexes if indexes else ():
                self.namespace.declare(projection.name, indexes=[index], ttl=projection.ttl)
            if indexes and projection.scan:
                self.namespace.declare(projection.name, scan=projection.scan, ttl=projection.ttl)

    def write(self, records: Sequence[Record], log_id: str) -> None:
        """One batch of the log with this id, whole. Raises `Overtaken`, and the errors of the storage."""
        began = self._clock.monotonic()
        self.fold([self.admit(record) for record in records])
        self._commit(after(log_id, records[-1]))
        self.metrics.batches += 1
        self.metrics.batch_seconds += self._clock.monotonic() - began

    def stamp(self) -> None:
        """Says at the checkpoint that was loaded that the views there are those of these projections."""
        assert self.checkpoint is not None
        self._commit(self.checkpoint)

    def _commit(self, checkpoint: Checkpoint) -> None:
        if not self._store.commit(self.state, checkpoint, self._views, self._clock.now()):
            raise Overtaken(f"another process is beyond offset {checkpoint.next_offset} in {self.namespace.name}")
        self.checkpoint = checkpoint

    def admit(self, record: Record) -> Entry:
        """The next record with the verdict on it."""
        verdict = admit(self.state, record)
        return Entry(record, verdict, self.state.log_time)

    def fold(self, entries: Iterable[Entry]) -> None:
        """Folds the entries into the views and writes these, but no checkpoint."""
        entries = list(entries)
        for entry in entries:
            self.metrics.count(WORDS[type(entry.verdict)])
        plan = self._dispatch.plan(entries)
        self._set_aside(plan.troubles)
        for projection in self._dispatch.projections:
            steps = plan.steps[projection.name]
            if steps:
                self._fold(projection, steps)
        self.metrics.set_aside = self._marked()

    def _fold(self, projection: AnyProjection, steps: Steps) -> None:
        stored = self.namespace.get_many(projection.name, steps)
        folded = folding.fold(projection, steps, stored, self._aside(projection, steps))
        self._set_aside(folded.troubles)
        self.metrics.left_alone += folded.left_alone
        self._put(projection, folded, steps, stored)

    def _marked(self) -> int:
        if self._markers is None:
            self._markers = self.namespace.count(SET_ASIDE)
        return self._markers

    def _aside(self, projection: AnyProjection, keys: Iterable[str]) -> dict[str, int]:
        """Those of the documents that are set aside, and from which offset on. They are read, not remembered: a fold
        that fails on everything must not fill the memory.
        """
        if not self._marked():
            return {}
        return aside_since(self.namespace, projection.name, keys)

    def mark(self, log_id: str, last: Entry | None) -> None:
        """Writes a checkpoint that nobody goes on from: of views that end at `last` for good."""
        checkpoint = Checkpoint(log=log_id) if last is None else after(log_id, last.record)
        head = Head(next_offset=checkpoint.next_offset, log_time=None if last is None else last.log_time)
        saved = Saved(
            checkpoint=checkpoint, head=head, pending=Pending(), views=self._views, written_at=self._clock.now()
        )
        write_checkpoint(self.namespace, saved)

    def _put(self, projection: AnyProjection, folded: Folded, steps: Steps, stored: Mapping[str, Document]) -> None:
        if folded.changed:
            try:
                self.namespace.put_many(projection.name, folded.changed)
            except BadDocument:
                for document in folded.changed:
                    self._put_alone(projection, document, steps[document["_id"]], stored)
            self.metrics.documents += len(folded.changed)
        if folded.deleted:
            self.namespace.delete_many(projection.name, folded.deleted)

    def _put_alone(
        self, projection: AnyProjection, document: Document, said: Said, stored: Mapping[str, Document]
    ) -> None:
        """One that no storage takes (too large) must not keep the others back: it stays as it was when it was taken
        last, wherever the batches begin and end.
        """
        key = document["_id"]
        for steps in range(1, len(said) + 1):
            folded = folding.fold(projection, {key: said[:steps]}, stored, self._aside(projection, [key]))
            try:
                self.namespace.put_many(projection.name, folded.changed)
            except BadDocument as error:
                what, offset = said[steps - 1]
                self._set_aside([trouble_of(projection, key, offset, what, error)])
                return

    def _set_aside(self, troubles: Sequence[Trouble]) -> None:
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
        self._markers = None
