"""Reading the log from where a generation is to where the log ends."""

from collections.abc import Callable

from msgspec import Struct

from bus.clock import Clock
from bus.ports import Reader, Record, Stream
from projections.writer import Writer

#: Records of one batch.
BATCH = 2_000
#: Seconds to wait for a record that should be there.
PATIENCE = 1.0


class Progress(Struct, frozen=True):
    """Where a rebuild is: the next offset, where the log ended when last looked, and records per second so far."""

    next_offset: int
    end: int
    rate: float


#: Is told of the progress after each batch; says whether to go on.
Heed = Callable[[Progress], bool]


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
        end = self._stream.next_offset() if until is None else until
        while self._writer.state.next_offset < end:
            records = self._cut(self._reader.read(BATCH, PATIENCE), until)
            if not records:
                # offsets need not be without gaps: the last may be less than the end
                return True
            self._writer.write(records, self._log_id)
            self.records += len(records)
            if not heed(self.progress(end)):
                return False
        return True

    def progress(self, end: int) -> Progress:
        seconds = self._clock.monotonic() - self._began
        return Progress(self._writer.state.next_offset, end, self.records / seconds if seconds > 0 else 0.0)

    @staticmethod
    def _cut(records: list[Record], until: int | None) -> list[Record]:
        return records if until is None else [record for record in records if record.offset < until]
