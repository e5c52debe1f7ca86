"""Whether one segment is what its seal says; which line is the first that is not.

It needs nothing but the folder and the public key, so that segments can be checked by several processes at a time.
How segments follow each other, and what their records mean, is the audit's.
"""

from pathlib import Path

from msgspec import Struct

from bus.archive.folder import Archive, BadArchive
from bus.archive.keys import PublicKey
from bus.archive.line import BadLine, decode_line, line_hash
from bus.archive.merkle import Tree
from bus.archive.seal import BadSeal, check_signature, decode_seal
from events.archive import ArchiveSealed


class Fault(Struct, frozen=True, kw_only=True):
    """Something that is not as it was sealed: in which file, in which line (from 1), at which offset, and what."""

    file: str
    what: str
    line: int | None = None
    offset: int | None = None


class SegmentCheck(Struct, frozen=True, kw_only=True):
    """What came of one segment: its seal, if it can be read, and what is wrong, the first first."""

    segment: int
    seal: ArchiveSealed | None
    faults: list[Fault]


def check_segment(folder: str, number: int, public_key: bytes) -> SegmentCheck:
    """Reads all of a segment. Harmless for the archive; raises nothing that the archive's content could cause."""
    archive, faults = Archive(Path(folder)), list[Fault]()
    seal = _check_seal(archive, number, PublicKey(public_key), faults)
    if seal is not None:
        faults += _Lines(archive, seal).check()
    return SegmentCheck(segment=number, seal=seal, faults=faults)


def _check_seal(archive: Archive, number: int, key: PublicKey, faults: list[Fault]) -> ArchiveSealed | None:
    path = archive.seal_file(number)
    try:
        seal = decode_seal(path.read_bytes())
    except BadSeal as error:
        faults.append(Fault(file=path.name, what=str(error)))
        return None
    except OSError as error:
        faults.append(Fault(file=path.name, what=f"it cannot be read: {error.strerror}"))
        return None
    try:
        check_signature(seal, key)
    except BadSeal as error:
        faults.append(Fault(file=path.name, what=str(error)))
    if seal.segment != number:
        faults.append(Fault(file=path.name, what=f"it is the seal of segment {seal.segment}"))
    return seal


class _Lines:
    """One walk over the lines of a segment."""

    def __init__(self, archive: Archive, seal: ArchiveSealed) -> None:
        self._archive = archive
        self._seal = seal
        self._file = archive.data_file(seal.segment).name
        self._tree = Tree()
        self._head = seal.head_before
        self._at: int | None = None
        #: The offset that the last line has when nothing is wrong with it.
        self._due = seal.first_offset
        self._line = 0

    def check(self) -> list[Fault]:
        """The first fault there is, as a list of at most one."""
        try:
            fault = self._walk() or self._check_end()
            if fault is None and self._archive.digest(self._seal.segment) != self._seal.file:
                fault = self._fault("its bytes are not those that were sealed, though its records are")
        except BadArchive as error:
            fault = self._fault(f"behind this it cannot be read: {error}")
        return [] if fault is None else [fault]

    def _walk(self) -> Fault | None:
        lines = self._archive.lines(self._seal.segment)
        for content in lines:
            try:
                line = decode_line(content)
            except BadLine as error:
                self._line += 1
                return self._fault(str(error), offset=None)
            if line.previous != self._head:
                return self._broken_chain(line.offset, content, next(lines, None))
            self._line += 1
            self._due = self._seal.first_offset if self._at is None else self._at + 1
            if line.offset < self._due:
                return self._fault(f"offset {line.offset} comes out of order", offset=line.offset)
            self._at = line.offset
            leaf = line_hash(content)
            self._tree.add(leaf)
            self._head = leaf.hex()
        return None

    def _broken_chain(self, offset: int, content: bytes, following: bytes | None) -> Fault:
        """This line does not follow the one before: one of them was changed, or what was between them is gone."""
        before = self._at
        expected = self._seal.first_offset if before is None else before + 1
        if offset > expected:
            self._line += 1
            missing = f"offset {expected}" if offset == expected + 1 else f"offsets {expected} to {offset - 1}"
            return self._fault(f"{missing} was taken out before this record", offset=offset)
        if offset == self._due + 1 < expected and self._is_followed(content, following):
            return self._fault("this record was changed: the next one has the offset behind its own", offset=self._due)
        if offset < expected:
            self._line += 1
            return self._fault(f"offset {offset} comes out of order", offset=offset)
        if before is not None and self._is_followed(content, following):
            return self._fault("this record was changed: the next one names another hash for it", offset=before)
        self._line += 1
        return self._fault("this record was changed: it does not name the one before", offset=offset)

    def _is_followed(self, content: bytes, following: bytes | None) -> bool:
        """Whether what comes behind the line agrees with it; then the one before it was changed."""
        hashed = line_hash(content).hex()
        if following is None:
            return hashed == self._seal.head_after
        try:
            return decode_line(following).previous == hashed
        except BadLine:
            return False

    def _check_end(self) -> Fault | None:
        seal = self._seal
        if self._line != seal.count:
            return self._fault(f"it has {self._line} records; {seal.count} were sealed")
        if self._head != seal.head_after:
            return self._fault("this record was changed: the seal names another hash for it")
        if self._tree.root().hex() != seal.root:
            return self._fault("the Merkle root of its records is not the sealed one")
        if self._at is None or self._at + 1 != seal.next_offset:
            return self._fault(f"its last offset is not the one before {seal.next_offset}")
        return None

    def _fault(self, what: str, offset: int | None = -1) -> Fault:
        """At the line where the walk is."""
        return Fault(file=self._file, line=self._line, offset=self._at if offset == -1 else offset, what=what)
