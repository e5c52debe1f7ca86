"""Reading single records of the log, at offsets that the event index names. Blocking: for threads of the pool."""

from collections.abc import Iterable

from bus.errors import Unreachable
from bus.ports import Bus, Reader, Record

#: A reader is opened anew when the next record wanted is more than this far ahead.
JUMP = 2_000
#: Seconds that one read waits.
READ_SECONDS = 5.0


class Log:
    """Records by offset."""

    def __init__(self, bus: Bus) -> None:
        self._stream = bus.stream("log")

    def fetch(self, offsets: Iterable[int]) -> dict[int, Record]:
        """The records at these offsets, without those that the log does not keep. Raises `Unreachable`."""
        found: dict[int, Record] = {}
        reader: Reader | None = None
        at = 0
        try:
            for offset in sorted(set(offsets)):
                if reader is None or offset - at > JUMP:
                    if reader is not None:
                        reader.close()
                    reader, at = self._stream.read_from(offset), offset
                at = self._read_to(reader, at, offset, found)
        finally:
            if reader is not None:
                reader.close()
        return found

    def _read_to(self, reader: Reader, at: int, offset: int, found: dict[int, Record]) -> int:
        """Reads on until `offset` was passed; returns where the reader is."""
        while at <= offset:
            records = reader.read(limit=offset - at + 1, timeout=READ_SECONDS)
            if not records:
                raise Unreachable(f"the log did not give offset {offset} within {READ_SECONDS:.0f} seconds")
            for record in records:
                at = record.next_offset
                if record.offset == offset:
                    found[offset] = record
        return at
