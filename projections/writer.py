"""One generation of views being written: batch by batch, each as if it happened at once.

    admit → read the documents concerned → fold in memory → write what changed → write the checkpoint

A process may be killed anywhere in between. The next one begins at the checkpoint and does the same again; documents
that were written already say so by their `_at` and are passed over. Two processes may write to one generation: they
write the same, and a document never goes back.
"""

from collections.abc import Iterable, Sequence

import structlog

from bus.admission import AdmissionState, Admitted, Bad, Duplicate, Head, Verdict, Void, admit
from bus.checkpoint import Checkpoint, after
from bus.clock import Clock
from bus.ports import Record
from projections import folding
from projections.admission_store import AdmissionStore, Pending, Saved, write_checkpoint
from projections.folding import Dispatch, Folded, Trouble
from projections.metrics import Metrics, Word
from projections.osis.documents import Document, Namespace
from projections.osis.errors import BadDocument
from projections.projection import AnyProjection, Entry

SET_ASIDE = "set_aside"
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
        troubles = plan.troubles
        for projection in self._dispatch.projections:
            steps = plan.steps[projection.name]
            if steps:
                stored = self.namespace.get_many(projection.name, steps)
                folded = folding.fold(projection, steps, stored)
                self._put(projection, folded)
                troubles += folded.troubles
        if troubles:
            self._set_aside(troubles)

    def mark(self, log_id: str, last: Entry | None) -> None:
        """Writes a checkpoint that nobody goes on from: of views that end at `last` for good."""
        checkpoint = Checkpoint(log=log_id) if last is None else after(log_id, last.record)
        head = Head(next_offset=checkpoint.next_offset, log_time=None if last is None else last.log_time)
        saved = Saved(
            checkpoint=checkpoint, head=head, pending=Pending(), views=self._views, written_at=self._clock.now()
        )
        write_checkpoint(self.namespace, saved)

    def _put(self, projection: AnyProjection, folded: Folded) -> None:
        if folded.changed:
            try:
                self.namespace.put_many(projection.name, folded.changed)
            except BadDocument:
                self._put_each(projection, folded)
            self.metrics.documents += len(folded.changed)
        if folded.deleted:
            self.namespace.delete_many(projection.name, folded.deleted)

    def _put_each(self, projection: AnyProjection, folded: Folded) -> None:
        """One that no storage takes (too large) must not keep the others back."""
        for document in folded.changed:
            try:
                self.namespace.put_many(projection.name, [document])
            except BadDocument as error:
                folded.troubles.append(_refused(projection, document, error))

    def _set_aside(self, troubles: Sequence[Trouble]) -> None:
        self.metrics.set_aside += len(troubles)
        for trouble in troubles:
            log.error(
                "a projection failed on an event; its document goes on without it",
                action="projection.set_aside",
                view=trouble.view,
                key=trouble.key,
                offset=trouble.offset,
                error=trouble.error,
            )
        self.namespace.put_many(SET_ASIDE, [_marker(trouble) for trouble in troubles])


def _refused(projection: AnyProjection, document: Document, error: BadDocument) -> Trouble:
    return Trouble(
        view=projection.name, key=document["_id"], offset=document["_at"], event=None, error=f"BadDocument: {error}"
    )


def _marker(trouble: Trouble) -> Document:
    """One for each document, with its last trouble; one for each place in the log where there is no document."""
    place = trouble.key or f"offset-{trouble.offset}"
    return {
        "_id": f"{trouble.view}/{place}",
        "_at": trouble.offset,
        "view": trouble.view,
        "key": trouble.key or None,
        "event": trouble.event,
        "offset": trouble.offset,
        "error": trouble.error,
    }
