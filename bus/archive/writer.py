"""Writing segments, so that a crash at any moment leaves whole ones only.

The open segment is a file that nobody reads and that the next start throws away: its records are still in the log. To
seal it: its bytes go to the disk, then it gets its name, then the seal gets its own. A segment is there when its seal
is. What the last seal says is where the next segment begins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from os import fsync
from pathlib import Path

import zstandard

from bus.archive.files import move_durably, sync_folder, write_durably
from bus.archive.folder import Archive, BadArchive, file_digest
from bus.archive.keys import PrivateKey
from bus.archive.line import NO_LINE, encode_line, line_hash
from bus.archive.merkle import Tree
from bus.archive.seal import BadSeal, check_signature, encode_seal, sign
from bus.checkpoint import log_id
from bus.ports import Record
from events.archive import ArchiveSealed

#: zstd's own default: higher ones cost more time than they save space.
LEVEL = 3
#: The ending of files that are not whole yet.
PARTIAL = ".partial"


class ArchiveWriter:
    """Appends records to the archive in a folder. One process at a time: see `held`."""

    def __init__(self, folder: Path, key: PrivateKey) -> None:
        """Goes on behind the last seal. Raises `BadArchive` when that is not there or not of this key, `OSError`."""
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.archive = Archive(folder)
        self._key = key
        self._clean_up()
        self.last = self._last()
        self._open: _Segment | None = None

    def _clean_up(self) -> None:
        """What a crash left: partial files, and data that got its name but no seal."""
        folder = self.archive.folder
        sealed = {self.archive.data_file(number).name for number in self.archive.numbers()}
        for path in folder.iterdir():
            if path.name.endswith(PARTIAL) or (path.name.endswith(".jsonl.zst") and path.name not in sealed):
                path.unlink()
        sync_folder(folder)

    def _last(self) -> ArchiveSealed | None:
        numbers = self.archive.numbers()
        if missing := set(range(1, len(numbers) + 1)) - set(numbers):
            raise BadArchive(f"the seal of segment {min(missing)} is missing in {self.archive.folder}")
        last = self.archive.last()
        if last is None:
            return None
        try:
            check_signature(last, self._key.public)
        except BadSeal as error:
            raise BadArchive(
                f"{self.archive.seal_file(last.segment)}: {error}; an archive goes on with the key that it began with"
            ) from None
        return last

    @property
    def next_offset(self) -> int:
        """Behind the last record that was appended, sealed or not."""
        if self._open is not None and self._open.count:
            return self._open.next_offset
        return 0 if self.last is None else self.last.next_offset

    @property
    def count(self) -> int:
        """Records of the open segment."""
        return 0 if self._open is None else self._open.count

    @property
    def size(self) -> int:
        """Bytes of the open segment's lines."""
        return 0 if self._open is None else self._open.size

    def append(self, record: Record) -> None:
        """Raises `ValueError` when it does not come behind the one before, `OSError`."""
        if record.offset < self.next_offset:
            raise ValueError(f"offset {record.offset} comes behind {self.next_offset - 1}")
        if self._open is None:
            self._open = self._begin(record)
        self._open.append(record)

    def _begin(self, record: Record) -> "_Segment":
        number = 1 if self.last is None else self.last.segment + 1
        head = NO_LINE if self.last is None else self.last.head_after
        log = log_id(record) if self.last is None else self.last.log
        path = self.archive.data_file(number)
        return _Segment(path.with_name(path.name + PARTIAL), log, number, record.offset, head)

    def seal(self, now: datetime) -> ArchiveSealed:
        """Closes the open segment, which has records. When it returns, segment and seal are on the disk.

        Raises `OSError`; the segment is thrown away then, as a crash would.
        """
        assert self._open is not None
        segment, self._open = self._open, None
        unsigned = segment.close(now)
        seal = sign(unsigned, self._key)
        move_durably(segment.path, self.archive.data_file(seal.segment))
        write_durably(self.archive.seal_file(seal.segment), encode_seal(seal))
        self.last = seal
        return seal

    def close(self) -> None:
        """Throws the open segment away."""
        if self._open is not None:
            self._open.throw_away()
            self._open = None


class _Segment:
    """The segment that is being written."""

    def __init__(self, path: Path, log: str, number: int, first_offset: int, head: str) -> None:
        self.path = path
        self.count = self.size = 0
        self.next_offset = first_offset
        self._log, self._number, self._first, self._before = log, number, first_offset, head
        self._head = head
        self._tree = Tree()
        self._file = path.open("xb")
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._frame = compressor.stream_writer(self._file, closefd=False)

    def append(self, record: Record) -> None:
        line = encode_line(record, self._head)
        leaf = line_hash(line)
        self._frame.write(line + b"\n")
        self._tree.add(leaf)
        self._head = leaf.hex()
        self.count += 1
        self.size += len(line) + 1
        self.next_offset = record.next_offset

    def close(self, now: datetime) -> ArchiveSealed:
        """Brings the bytes to the disk, and says what is to be signed."""
        with self._file:
            self._frame.flush(zstandard.FLUSH_FRAME)
            self._file.flush()
            fsync(self._file.fileno())
        return ArchiveSealed(
            log=self._log,
            segment=self._number,
            first_offset=self._first,
            next_offset=self.next_offset,
            count=self.count,
            head_before=self._before,
            head_after=self._head,
            root=self._tree.root().hex(),
            file=file_digest(self.path),
            sealed_at=now,
            key_id="",
            signature="",
        )

    def throw_away(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While it lasts, no other process archives into this folder. Raises `BadArchive` when one does, `OSError`."""
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    with (folder / "archiver.lock").open("ab") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise BadArchive(f"another archiver writes into {folder}") from None
        yield
