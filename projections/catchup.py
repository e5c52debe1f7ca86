"""Reading the log from where a generation is to where the log ends."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType
from typing import Self

from msgspec import Struct

from bus.clock import Clock
from bus.errors import Unreachable
from bus.ports import Reader, Record, Stream
from projections.osis.rare_collections import rare_collections
from projections.writer import Batch, Writer

#: Records of one batch: at most, at first, and at least, though a storage is slow.
BATCH, FIRST_BATCH, SMALLEST_BATCH = 4_000, 1_000, 100
#: Bytes of one batch, not counting the last piece; and records of a piece.
MAX_BYTES, PIECE = 16_000_000, 500
#: Seconds that writing a batch may take before the next is made smaller, and below which it is made larger.
LONG, SHORT = 4.0, 1.0
#: Records from which on a process of its own writes: its start takes half a second.
LONG_LOG = 20_000
#: Seconds to wait for more records of a batch.
GATHER = 0.05
#: Seconds to wait for a record that is there, and how often in a row it may not come.
PATIENCE, MAX_EMPTY = 1.0, 60


class Progress(Struct, frozen=True):
    """Where a rebuild is: the next offset, where the log ended when last looked, and records per second so far."""

    next_offset: int
    end: int
    rate: float


#: Is told of the progress after each batch; says whether to go on.
Heed = Callable[[Progress], bool]


class Stretch:
    """The records between `start` and where the log ends now, batch by batch; or those before `until`, if given.

    The last batch may go beyond the end that was seen first, but never beyond `until`. A read that brings nothing is
    not the end: the engine may be away for a moment. Raises `Unreachable` when it stays so, because views that lack the
    rest of the log must not be taken for whole.
    """

    def __init__(self, stream: Stream, reader: Reader, start: int, until: int | None = None) -> None:
        self._stream = stream
        self._reader = reader
        self._start = start
        self._until = until
        self.end = stream.next_offset() if until is None else until
        #: Records of one batch, as long as they are not too large.
        self.size = FIRST_BATCH

    @property
    def records(self) -> int:
        """How many there are, about."""
        return self.end - self._start

    def __iter__(self) -> Iterator[list[Record]]:
        next_offset, empty = self._start, 0
        while next_offset < self.end:
            records = self._read(self.end - next_offset)
            if records:
                next_offset, empty = records[-1].next_offset, 0
                yield self._cut(records)
                continue
            empty += 1
            # a log that was cut meanwhile ends earlier than before
            self.end = min(self.end, self._stream.next_offset())
            if empty >= MAX_EMPTY:
                raise Unreachable(f"the log ends at {self.end}, but nothing comes from {next_offset} on")

    def _read(self, left: int) -> list[Record]:
        """One batch, read piece by piece: records may be large."""
        size = min(self.size, BATCH)
        records = piece = self._reader.read(min(PIECE, size), PATIENCE)
        room = MAX_BYTES - sum(len(record.body) for record in piece)
        while piece and room > 0 and len(records) < min(size, left):
            piece = self._reader.read(min(PIECE, size - len(records)), GATHER)
            room -= sum(len(record.body) for record in piece)
            records += piece
        return records

    def _cut(self, records: list[Record]) -> list[Record]:
        return records if self._until is None else [record for record in records if record.offset < self._until]


class CatchUp:
    """Brings one generation to the end of its log, as often as it is asked to.

    While one batch is being written, the next is read and folded. Batches are as large as fits into a second or two of
    writing, so a document that changes often is written seldom, and a slow storage is not asked for too much at once.
    """

    def __init__(self, stream: Stream, reader: Reader, writer: Writer, log_id: str, clock: Clock) -> None:
        self._stream = stream
        self._reader = reader
        self._writer = writer
        self._log_id = log_id
        self._clock = clock
        self._began = clock.monotonic()
        self.records = 0

    def run(self, heed: Heed, until: int | None = None) -> bool:
        """Writes everything that is in the log now, or what lies before `until`. False when `heed` said to stop.

        Raises `Overtaken`, and the errors of bus and storage.
        """
        stretch = Stretch(self._stream, self._reader, self._writer.state.next_offset, until)
        with rare_collections(), Behind(self._writer, self._clock, stretch.records) as behind:
            for records in filter(None, stretch):
                behind.write(self._writer.fold(records, self._log_id))
                self.records += len(records)
                stretch.size = behind.size
                if not heed(self._progress(stretch.end)):
                    return False
        return True

    def _progress(self, end: int) -> Progress:
        seconds = self._clock.monotonic() - self._began
        return Progress(self._writer.state.next_offset, end, self.records / seconds if seconds > 0 else 0.0)


class Behind:
    """Writes batches of so many records in a thread of its own, one at a time, in order; of a long log, where the
    storage has one, in a process of its own. Leaving it waits for the last.
    """

    def __init__(self, writer: Writer, clock: Clock, records: int) -> None:
        self._writer = writer
        self._apart = writer.namespace.apart() if records >= LONG_LOG else nullcontext()
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, "views-writer")
        self._under_way: tuple[Batch, Future[float]] | None = None
        #: Records that the next batch should have.
        self.size = FIRST_BATCH

    def write(self, batch: Batch) -> None:
        """Waits for the batch before. Raises what went wrong with it."""
        batch = self._wait() or batch
        self._under_way = batch, self._pool.submit(self._store, batch)

    def _store(self, batch: Batch) -> float:
        began = self._clock.monotonic()
        self._writer.store(batch)
        return self._clock.monotonic() - began

    def _wait(self) -> Batch | None:
        """The batch on top of the one that was waited for, if it had to be folded again."""
        if self._under_way is None:
            return None
        (batch, stored), self._under_way = self._under_way, None
        seconds = stored.result()
        self._writer.metrics.batch_seconds += seconds
        if seconds < SHORT:
            self.size = min(BATCH, self.size * 2)
        elif seconds > LONG:
            self.size = max(SMALLEST_BATCH, self.size // 2)
        return self._writer.settle(batch)

    def __enter__(self) -> Self:
        self._apart.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()
            self._apart.__exit__(kind, error, trace)
