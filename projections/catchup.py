"""Reading the log from where a generation is to where the log ends."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from bus.clock import Clock
from bus.errors import Unreachable
from bus.ports import Reader, Record, Stream
from projections.writer import Writer

#: Records of one batch.
BATCH = 2_000
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

    def __iter__(self) -> Iterator[list[Record]]:
        next_offset, empty = self._start, 0
        while next_offset < self.end:
            records = self._reader.read(BATCH, PATIENCE)
            if records:
                next_offset, empty = records[-1].next_offset, 0
                yield self._cut(records)
                continue
            empty += 1
            # a log that was cut meanwhile ends earlier than before
            self.end = min(self.end, self._stream.next_offset())
            if empty >= MAX_EMPTY:
                raise Unreachable(f"the log ends at {self.end}, but nothing comes from {next_offset} on")

    def _cut(self, records: list[Record]) -> list[Record]:
        return records if self._until is None else [record for record in records if record.offset < self._until]


class CatchUp:
    """Brings one generation to the end of its log, as often as it is asked to."""

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
        for records in filter(None, stretch):
            self._writer.write(records, self._log_id)
            self.records += len(records)
            if not heed(self._progress(stretch.end)):
                return False
        return True

    def _progress(self, end: int) -> Progress:
        seconds = self._clock.monotonic() - self._began
        return Progress(self._writer.state.next_offset, end, self.records / seconds if seconds > 0 else 0.0)
