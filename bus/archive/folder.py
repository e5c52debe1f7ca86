"""The folder of an archive, as readers see it.

    00000001.jsonl.zst   the lines of segment 1, as one zstd frame
    00000001.seal.json   its seal; a segment without a seal is not there

Reading here checks nothing but that it can be read: `bus.archive.check` and the audit do the rest.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import cast

import zstandard

from bus.archive.line import BadLine, decode_line
from bus.archive.seal import BadSeal, decode_seal
from bus.errors import BusError
from bus.ports import Record
from events.archive import ArchiveSealed

#: Bytes read at a time.
CHUNK = 1 << 20
_SEAL = re.compile(r"(\d{8,})\.seal\.json")


class BadArchive(BusError):
    """The archive cannot be read: a file is missing or broken."""


class Archive:
    """Sealed segments, by number from 1. Any number of processes may read while one archiver writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The highest number that is known to be there.
        self._known = 0

    def data_file(self, number: int) -> Path:
        return self.folder / f"{number:08}.jsonl.zst"

    def seal_file(self, number: int) -> Path:
        return self.folder / f"{number:08}.seal.json"

    def numbers(self) -> list[int]:
        """Of all seals that lie there, in order. Raises `BadArchive` when there is no such folder."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError as error:
            raise BadArchive(f"cannot read the archive in {self.folder}: {error.strerror}") from None
        return sorted(int(found[1]) for found in map(_SEAL.fullmatch, names) if found)

    def last(self) -> ArchiveSealed | None:
        """The seal of the last segment, without looking at all of them: they are there from 1 on without a gap."""
        # other threads look, too: what one has found must not be added to what another has
        known = self._known
        while self.seal_file(known + 1).exists():
            step = 1
            while self.seal_file(known + 2 * step).exists():
                step *= 2
            known += step
        self._known = known
        return self.seal(known) if known else None

    def end(self) -> int:
        """The offset of the first record that is not archived yet."""
        last = self.last()
        return 0 if last is None else last.next_offset

    def seal(self, number: int) -> ArchiveSealed:
        """Raises `BadArchive`."""
        path = self.seal_file(number)
        try:
            return decode_seal(path.read_bytes())
        except BadSeal as error:
            raise BadArchive(f"{path}: {error}") from None
        except OSError as error:
            raise BadArchive(f"cannot read {path}: {error.strerror}") from None

    def find(self, offset: int) -> int:
        """The number of the first segment that ends behind `offset`; 0 when none does."""
        last = self.last()
        if last is None or offset >= last.next_offset:
            return 0
        low, high = 1, last.segment
        while low < high:
            middle = (low + high) // 2
            if self.seal(middle).next_offset > offset:
                high = middle
            else:
                low = middle + 1
        return low

    def sealed_at(self, time: datetime) -> ArchiveSealed | None:
        """The first seal that was made at `time` or later, None when all are earlier."""
        last = self.last()
        if last is None or last.sealed_at < time:
            return None
        low, high = 1, last.segment
        while low < high:
            middle = (low + high) // 2
            if self.seal(middle).sealed_at >= time:
                high = middle
            else:
                low = middle + 1
        return self.seal(low)

    def lines(self, number: int) -> Iterator[bytes]:
        """The lines of a segment, without their newlines. Raises `BadArchive`."""
        path = self.data_file(number)
        try:
            with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as frame:
                # a frame's reader is all that a buffer needs of a raw stream
                for line in BufferedReader(cast("BufferedReader", frame), CHUNK):
                    if not line.endswith(b"\n"):
                        raise BadArchive(f"{path} ends in the middle of a line")
                    yield line[:-1]
        except zstandard.ZstdError as error:
            raise BadArchive(f"{path} cannot be decompressed: {error}") from None
        except OSError as error:
            raise BadArchive(f"cannot read {path}: {error.strerror}") from None

    def records(self, number: int) -> Iterator[Record]:
        """The records of a segment, all that its seal promises. Raises `BadArchive`."""
        place, at = 0, 0
        for place, line in enumerate(self.lines(number), 1):
            try:
                record = decode_line(line).record()
            except BadLine as error:
                raise BadArchive(f"{self.data_file(number)}, line {place}: {error}") from None
            at = record.next_offset
            yield record
        seal = self.seal(number)
        if (place, at) != (seal.count, seal.next_offset):
            raise BadArchive(f"{self.data_file(number)} ends after {place} of {seal.count} records")

    def record(self, offset: int) -> Record | None:
        """The first record at `offset` or behind it, None when the archive ends before. Raises `BadArchive`."""
        number = self.find(offset)
        if not number:
            return None
        return next((record for record in self.records(number) if record.offset >= offset), None)

    def digest(self, number: int) -> str:
        """Of the compressed file. Raises `BadArchive`."""
        path = self.data_file(number)
        try:
            return file_digest(path)
        except OSError as error:
            raise BadArchive(f"cannot read {path}: {error.strerror}") from None


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises `OSError`."""
    found = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
