"""Archives in tests: made from stories, without a bus."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path

from bus.archive.folder import Archive
from bus.archive.keys import PrivateKey
from bus.archive.writer import ArchiveWriter
from bus.ports import Record

NOW = datetime(2100, 3, 1, 12, 0, tzinfo=UTC)


@cache
def key() -> PrivateKey:
    """The same for all tests of a process."""
    return PrivateKey.generate()


def write(folder: Path, records: Iterable[Record], per_segment: int, signer: PrivateKey | None = None) -> Archive:
    """Appends the records to the archive in the folder; the last segment may have fewer than the others."""
    writer = ArchiveWriter(folder, signer or key())
    rest = iter(records)
    while chunk := list(islice(rest, per_segment)):
        for record in chunk:
            writer.append(record)
        writer.seal(NOW)
    return writer.archive


def read(archive: Archive) -> list[Record]:
    return [record for number in archive.numbers() for record in archive.records(number)]
