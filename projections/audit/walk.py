"""The whole log in order: what the archive has, then what the log has behind it."""

from collections.abc import Iterator

from bus.archive.folder import Archive
from bus.archive.stream import ArchivedStream
from bus.errors import Unreachable
from bus.ports import Record, Stream

#: Seconds to wait for a record that is there, and how often in a row it may not come.
PATIENCE, MAX_EMPTY = 1.0, 30


def walk(archive: Archive | None, stream: Stream | None) -> Iterator[tuple[Record, int | None]]:
    """Every record with the number of the segment that it is sealed in, None for those that are not sealed yet.

    Raises `BadArchive`, `LogDiverged`, `Unreachable`.
    """
    at = 0
    for number in [] if archive is None else archive.numbers():
        for record in archive.records(number) if archive is not None else ():
            yield record, number
            at = record.next_offset
    if stream is not None:
        for record in behind(stream, archive, at, stream.next_offset()):
            yield record, None


def behind(stream: Stream, archive: Archive | None, start: int, end: int) -> Iterator[Record]:
    """What the log has from `start` on, below `end`; compared with the archive where the two meet.

    Raises `BadArchive`, `LogDiverged`, `Unreachable`.
    """
    source = stream if archive is None else ArchivedStream(stream, archive)
    at, empty = start, 0
    # one back, so that the last archived record is compared with the stream's
    with source.read_from(max(0, start - 1)) as reader:
        while at < end:
            records = reader.read(1_000, PATIENCE)
            empty = 0 if records else empty + 1
            if empty >= MAX_EMPTY:
                raise Unreachable(f"the log ends at {end}, but nothing comes from {at} on")
            for record in records:
                if record.offset >= end:
                    return
                if record.offset >= start:
                    at = record.next_offset
                    yield record
