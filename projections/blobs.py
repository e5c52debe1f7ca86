"""The follower of blobs: chunks go from their stream into the storage, where the portal reads them.

A blob that is whole is left alone, so nobody can replace it by sending other bytes under its name; one whose bytes do
not fit its name is found out, and dropped, when it is read.
"""

import threading

import structlog

from bus.clock import Clock
from bus.ports import Bus, Record
from bus.progress import Progress
from events.routing import blob_chunk
from projections import retention
from projections.metrics import Metrics
from projections.osis.documents import Documents
from projections.position import Position, current_log, load_position, save_position

#: The largest chunk, in bytes, and the most chunks of one blob, that are taken.
MAX_CHUNK, MAX_TOTAL = 1_000_000, 400
#: Chunks of one batch, and seconds that a read waits for the first.
BATCH, READ = 100, 0.5
#: Seconds between two looks for blobs that nobody needs any more.
SWEEP_EVERY = 3_600.0

log = structlog.get_logger("projections.blobs")


class BlobFollower:
    """One thread calls `run`."""

    def __init__(
        self,
        bus: Bus,
        documents: Documents,
        clock: Clock,
        metrics: Metrics | None = None,
        place: Progress | None = None,
        keep_for: float | None = retention.BLOBS,
    ) -> None:
        self._bus = bus
        self._documents = documents
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._place = place or Progress("blobs", clock, "blobs")
        self._swept = clock.monotonic()
        #: Seconds after which a blob goes; None is never.
        self._keep_for = keep_for

    def run(self, stop: threading.Event) -> None:
        """Returns when `stop` is set. Raises the errors of bus and storage; call it again then, nothing is lost."""
        log_id = current_log(self._bus)
        start = load_position(self._bus, self._documents, "blobs")
        self._place.at(start)
        with self._bus.stream("blobs").read_from(start) as reader:
            while not stop.is_set():
                records = reader.read(BATCH, READ)
                for record in records:
                    self._keep(record)
                if records:
                    position = Position(log=log_id, next_offset=records[-1].next_offset, written_at=self._clock.now())
                    save_position(self._documents, "blobs", position)
                    self._place.at(position.next_offset)
                self._sweep()

    def _keep(self, record: Record) -> None:
        chunk = blob_chunk(record.key)
        if chunk is None or chunk[2] > MAX_TOTAL or len(record.body) > MAX_CHUNK:
            log.warning("no chunk of a blob", action="blobs.bad", key=record.key[:200], user=record.user)
            return
        sha256, n, total = chunk
        if not self._documents.blobs.has(sha256):
            self._documents.blobs.put_chunk(sha256, n, total, record.body)
            self._metrics.chunks += 1

    def _sweep(self) -> None:
        if self._clock.monotonic() - self._swept >= SWEEP_EVERY:
            self._swept = self._clock.monotonic()
            if self._keep_for is not None:
                self._documents.blobs.sweep(self._keep_for)
