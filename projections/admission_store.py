"""Where a generation of views is in the log, and what admission knows there: in its collection `meta`.

    checkpoint           the position, the head of the admission state, and what changed in it since `base`
    producer/<key>       what was heard of one agent start, as of `base`
    window/<base>        ids that were remembered up to `base`, in chunks

The checkpoint is one document, so a commit is one atomic write on every storage. Producers and ids are written behind
it: what changed stays in the checkpoint (`pending`) until it is worth a document of its own, and goes there before the
next checkpoint that leaves it out. So these documents never know more than the checkpoint, and together with `pending`
they know all of it, wherever a process was killed. All carry `_at`: of two writers the one that is further wins.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from bus.admission import ID_WINDOW, AdmissionState, Changes, Head, Producer, Seen
from bus.checkpoint import Checkpoint
from projections.osis.documents import Document, Documents, Namespace
from projections.osis.filters import Prefix
from projections.projection import plain

META = "meta"
#: The alias that means the namespace of the live views.
LIVE = "live"
#: Producers and ids that wait in the checkpoint's document before they are written behind it.
WRITE_BEHIND = 128
#: How often a reader looks again when the state changes while it is read.
ATTEMPTS = 20


class Pending(Struct, kw_only=True):
    """What changed in the admission state since `base`."""

    base: int = 0
    producers: dict[str, Producer | None] = {}
    seen: list[Seen] = []


class Saved(Struct, frozen=True, kw_only=True):
    """The document of the checkpoint. `views`: the versions of the projections that were folded up to there."""

    checkpoint: Checkpoint
    head: Head
    pending: Pending
    views: dict[str, int]
    written_at: datetime


class Chunk(Struct, frozen=True, kw_only=True):
    """Ids of one stretch of the log; `until` is the log time of the last of them."""

    seen: list[Seen]
    until: datetime | None


class AdmissionStore:
    """Reads and writes the admission state of one generation. One process uses it, from its one thread."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._saved: Saved | None = None
        self._pending = Pending()
        #: The chunks of ids that are stored, and the log time of the last id in each.
        self._chunks: dict[str, datetime | None] = {}

    def load(self) -> tuple[AdmissionState, Saved] | None:
        """The state and the checkpoint it belongs to, or None when there is none.

        Another process may write meanwhile; it is read again until both belong together. Raises `Unsettled` when
        they never do, and the errors of the storage.
        """
        for _ in range(ATTEMPTS):
            before = read_checkpoint(self._namespace)
            if before is None:
                return None
            producers, chunks = self._read_producers(), self._read_chunks()
            saved = read_checkpoint(self._namespace)
            # What lies behind a checkpoint is at least as new as its base, and never newer than the checkpoint.
            if saved is not None and saved.pending.base == before.pending.base:
                return self._restore(saved, producers, chunks), saved
        raise Unsettled(f"{self._namespace.name} changed {ATTEMPTS} times while it was read")

    def _read_producers(self) -> dict[str, Producer]:
        found = self._namespace.iterate(META, Prefix("_id", "producer/"))
        return {doc["_id"].partition("/")[2]: msgspec.convert(doc, Producer) for doc in found}

    def _read_chunks(self) -> dict[str, Chunk]:
        found = self._namespace.iterate(META, Prefix("_id", "window/"))
        return {doc["_id"]: msgspec.convert(doc, Chunk) for doc in found}

    def _restore(self, saved: Saved, producers: dict[str, Producer], chunks: Mapping[str, Chunk]) -> AdmissionState:
        self._saved, self._pending = saved, saved.pending
        self._chunks = {key: chunk.until for key, chunk in chunks.items()}
        for key, producer in saved.pending.producers.items():
            if producer is None:
                producers.pop(key, None)
            else:
                producers[key] = producer
        seen = [one for chunk in chunks.values() for one in chunk.seen] + saved.pending.seen
        return AdmissionState.restore(saved.head, producers, seen)

    def commit(
        self, head: Head, changes: Changes, checkpoint: Checkpoint, views: dict[str, int], now: datetime
    ) -> bool:
        """Everything before `checkpoint.next_offset` is done. `head` and `changes` are the state's there.

        False when another writer is further: nothing changed. After an error or False this object and the state are
        of no use any more; load them again.
        """
        if len(self._pending.seen) + len(self._pending.producers) >= WRITE_BEHIND:
            self._write_behind()
        self._pending.producers.update(changes.producers)
        self._pending.seen.extend(changes.seen)
        saved = Saved(checkpoint=checkpoint, head=head, pending=self._pending, views=views, written_at=now)
        stale = write_checkpoint(self._namespace, saved)
        self._saved = saved
        return not stale

    def _write_behind(self) -> None:
        """What the last checkpoint has pending goes into documents of its own."""
        saved = self._saved
        assert saved is not None
        pending, end, head = self._pending, saved.checkpoint.next_offset, saved.head
        known = {key: producer for key, producer in pending.producers.items() if producer is not None}
        documents = [_producer_document(key, producer) for key, producer in known.items()]
        fresh = [one for one in pending.seen if not _is_over(one.at, head.log_time)]
        if fresh:
            chunk = Chunk(seen=fresh, until=fresh[-1].at or head.began)
            key = f"window/{pending.base}"
            self._chunks[key] = chunk.until
            documents.append({"_id": key, "_at": end, **plain(chunk)})
        self._namespace.put_many(META, documents)
        over = [key for key, until in self._chunks.items() if _is_over(until, head.log_time)]
        forgotten = [f"producer/{key}" for key in pending.producers.keys() - known.keys()]
        if over or forgotten:
            self._namespace.delete_many(META, [*over, *forgotten], at=end)
            for key in over:
                del self._chunks[key]
        self._pending = Pending(base=end)


class Unsettled(Exception):
    """The saved state changed again and again while it was read; asking again is right."""


def _producer_document(key: str, producer: Producer) -> Document:
    return {"_id": f"producer/{key}", "_at": producer.offset, **plain(producer)}


def _is_over(at: datetime | None, log_time: datetime | None) -> bool:
    return at is not None and log_time is not None and at < log_time - ID_WINDOW


def read_checkpoint(namespace: Namespace) -> Saved | None:
    """The checkpoint of a generation, or None when nothing was written to it yet."""
    found = namespace.get(META, "checkpoint")
    return None if found is None else msgspec.convert(found, Saved)


def write_checkpoint(namespace: Namespace, saved: Saved) -> bool:
    """Writes it unless a later one is there. Whether it came too late."""
    document: dict[str, Any] = {"_id": "checkpoint", "_at": saved.checkpoint.next_offset, **plain(saved)}
    return namespace.put_many(META, [document]) > 0


def load_admission(documents: Documents) -> tuple[AdmissionState, Checkpoint] | None:
    """What the live views know of the log, for a reader that goes on from there; None when there are no live views.

    Raises `Unsettled` when they move on too fast to be read just now, and the errors of the storage.
    """
    name = documents.pointed(LIVE)
    found = None if name is None else AdmissionStore(documents.namespace(name)).load()
    return None if found is None else (found[0], found[1].checkpoint)
