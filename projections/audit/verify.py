"""Verifying: that the archive is what was sealed, and that the log is what the rules allow.

Two walks over the same segments. One checks each segment by itself, in other processes, so that all cores are used.
The other follows it in this process and judges: every record in log order through `admit`, first those of the archive
and then what the log has behind it. It ends at the first segment that is not good, because nothing behind it can be
judged.

What is found is grave, and the audit fails for it, or it is only to be known: bad records, which anybody with a user
on the broker can write, and what a former holder of the seat said too late. Neither counts for anybody.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from multiprocessing import get_context
from typing import Literal

from msgspec import Struct

from bus.admission import AdmissionState, Admitted, Bad, Duplicate, Void, admit
from bus.archive.archiver import SEALED
from bus.archive.check import SegmentCheck, check_segment
from bus.archive.folder import Archive, BadArchive
from bus.archive.keys import PublicKey
from bus.archive.line import NO_LINE
from bus.checkpoint import log_id
from bus.errors import LogDiverged
from bus.ports import Record, Stream
from events.actors import HANDLERS
from events.archive import ArchiveSealed
from events.seat import SeatTaken
from projections.audit.walk import behind

#: Findings of a kind that are told one by one; the rest are counted.
TOLD = 100
#: Compressed bytes below which starting processes takes longer than it saves.
WORTH_PROCESSES = 4_000_000
#: Records between two words about progress.
TELL_EVERY = 20_000

Kind = Literal["broken", "missing", "forged", "lost", "late", "bad"]
#: The audit fails for these.
GRAVE: frozenset[Kind] = frozenset({"broken", "missing", "forged", "lost"})
#: Is told how many records were judged, and how many there are.
Tell = Callable[[int, int], None]


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is not as it should be: where, and what. `line` counts from 1."""

    kind: Kind
    what: str
    file: str = ""
    line: int | None = None
    offset: int | None = None

    @property
    def place(self) -> str:
        """`00000007.jsonl.zst, line 12, offset 3011`."""
        line = "" if self.line is None else f"line {self.line}"
        offset = "" if self.offset is None else f"offset {self.offset}"
        return ", ".join(part for part in (self.file, line, offset) if part)


class Verification(Struct, frozen=True, kw_only=True):
    """What came of an audit. `records` were judged, up to `next_offset`; `archived` of them are in the archive."""

    ok: bool
    log: str
    segments: int
    archived: int
    records: int
    next_offset: int
    admitted: int
    duplicate: int
    #: How many findings of each kind there are, and the first of them, the grave ones first, in log order.
    counts: dict[Kind, int]
    findings: list[Finding]
    seconds: float


class Range(Struct, frozen=True):
    """What is to be checked: from offset `start` on, below `end`; None: to the end.

    Segments that hold some of it are checked whole. What came before is judged too, because admission needs it, but
    what is found of it is not told.
    """

    start: int = 0
    end: int | None = None

    def has(self, offset: int) -> bool:
        return offset >= self.start and (self.end is None or offset < self.end)

    def overlaps(self, seal: ArchiveSealed) -> bool:
        return seal.next_offset > self.start and (self.end is None or seal.first_offset < self.end)


def verify(
    archive: Archive | None,
    key: PublicKey | None,
    stream: Stream | None = None,
    *,
    wanted: Range | None = None,
    tell: Tell = lambda _done, _total: None,
) -> Verification:
    """Checks an archive, a log, or both, one behind the other.

    An archive needs its `key`. Raises `bus.errors.Unreachable` when the log cannot be read, `BadArchive` when there is
    no archive where it should be.
    """
    return _Audit(archive, key, stream, wanted or Range(), tell).run()


class _Audit:
    """One audit."""

    def __init__(
        self, archive: Archive | None, key: PublicKey | None, stream: Stream | None, wanted: Range, tell: Tell
    ) -> None:
        self._archive, self._key, self._stream = archive, key, stream
        self._wanted = wanted
        self._tell = tell
        self._began = time.monotonic()
        self._found: list[tuple[int, Finding]] = []
        self._counts: dict[Kind, int] = {}
        self._judge = _Judge(self._note_record)
        self._archived = 0
        #: False when something before cannot be read: what follows cannot be judged.
        self._whole = True

    def run(self) -> Verification:
        numbers = [] if self._archive is None else self._archive.numbers()
        seals: list[ArchiveSealed] = []
        if self._archive is not None and self._key is not None:
            seals = self._check_archive(self._archive, self._key, numbers)
        if self._stream is not None and self._whole:
            self._check_log(self._stream)
        self._check_reach()
        self._check_gaps()
        self._check_facts(seals)
        return self._result(len(numbers))

    def _note(
        self,
        kind: Kind,
        what: str,
        *,
        offset: int | None = None,
        at: int = 0,
        file: str = "",
        line: int | None = None,
    ) -> None:
        """`at`: where in the log it belongs, when it has no offset of its own."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= TOLD:
            where = at if offset is None else offset
            self._found.append((where, Finding(kind=kind, what=what, file=file, line=line, offset=offset)))

    def _note_record(self, kind: Kind, what: str, offset: int) -> None:
        if self._wanted.has(offset):
            self._note(kind, what, offset=offset)

    # the archive

    def _check_archive(self, archive: Archive, key: PublicKey, numbers: list[int]) -> list[ArchiveSealed]:
        """Judges each segment when it was checked; the seals that can be read, in order."""
        chosen = [number for number in numbers if self._is_wanted(archive, number)]
        wanted, total = set(chosen), self._total(archive)
        seals: list[ArchiveSealed] = []
        before: ArchiveSealed | None = None
        expected = 1
        with _checking(archive, chosen, key) as checks:
            for number in numbers:
                check = next(checks) if number in wanted else None
                seal = self._seal_of(archive, number) if check is None else check.seal
                if number != expected:
                    self._missing(archive, expected, number - 1, before)
                    before = None
                self._check_segment(check, before)
                if seal is not None:
                    self._follows(archive, seal, before)
                    seals.append(seal)
                self._judge_segment(archive, number, total)
                before, expected = seal, number + 1
        return seals

    def _is_wanted(self, archive: Archive, number: int) -> bool:
        try:
            return self._wanted.overlaps(archive.seal(number))
        except BadArchive:
            return True

    def _total(self, archive: Archive) -> int:
        try:
            return max(archive.end(), 0 if self._stream is None else self._stream.next_offset())
        except BadArchive:
            return 0

    def _missing(self, archive: Archive, first: int, last: int, before: ArchiveSealed | None) -> None:
        self._whole = False
        which = f"segment {first} is" if first == last else f"segments {first} to {last} are"
        at = 0 if before is None else before.next_offset
        self._note("missing", f"{which} missing", at=at, file=archive.seal_file(first).name)

    def _check_segment(self, check: SegmentCheck | None, before: ArchiveSealed | None) -> None:
        at = self._judge.next_offset if before is None else before.next_offset
        for fault in () if check is None else check.faults:
            self._whole = False
            self._note("broken", fault.what, offset=fault.offset, at=at, file=fault.file, line=fault.line)

    def _judge_segment(self, archive: Archive, number: int, total: int) -> None:
        """Unless something is wrong up to here: what follows from that would only hide where it began."""
        if not self._whole:
            return
        try:
            for record in archive.records(number):
                if self._wanted.end is not None and record.offset >= self._wanted.end:
                    return
                self._judge(record)
                self._archived += 1
                if not self._archived % TELL_EVERY:
                    self._tell(self._archived, total)
        except BadArchive as error:
            # of a segment outside of the range, which was not checked
            self._whole = False
            self._note("broken", str(error), at=max(self._wanted.start, self._judge.next_offset))

    def _seal_of(self, archive: Archive, number: int) -> ArchiveSealed | None:
        try:
            return archive.seal(number)
        except BadArchive:
            return None

    def _follows(self, archive: Archive, seal: ArchiveSealed, before: ArchiveSealed | None) -> None:
        if before is None and not self._whole:
            return
        head = NO_LINE if before is None else before.head_after
        wrong = ""
        if before is not None and seal.log != before.log:
            wrong = f"it belongs to the log {seal.log}, the segment before to {before.log}"
        elif seal.head_before != head:
            wrong = "it does not follow the segment before: the chain is broken between them"
        elif before is not None and seal.first_offset < before.next_offset:
            wrong = f"it begins at offset {seal.first_offset}, but the segment before ends at {before.next_offset}"
        if wrong:
            self._whole = False
            self._note("broken", wrong, at=seal.first_offset, file=archive.seal_file(seal.segment).name)

    # the log behind it

    def _check_log(self, stream: Stream) -> None:
        archive = self._archive
        end = stream.next_offset() if self._wanted.end is None else min(self._wanted.end, stream.next_offset())
        try:
            for record in behind(stream, archive, self._judge.next_offset, end):
                self._judge(record)
                if not self._judge.records % TELL_EVERY:
                    self._tell(self._judge.records, end)
        except LogDiverged as error:
            self._note("broken", str(error), at=self._judge.next_offset)
        except BadArchive as error:
            self._note("broken", f"the log cannot be compared with the archive: {error}", at=self._judge.next_offset)
        self._tell(self._judge.records, end)

    # what can be said at the end

    def _check_reach(self) -> None:
        end = self._wanted.end
        if end is not None and self._whole and self._judge.next_offset < end:
            at = self._judge.next_offset
            self._note("missing", f"it ends at offset {at}, but should reach {end}", at=at)

    def _check_gaps(self) -> None:
        if self._wanted.start:
            # which of the gaps lie in the range is not known
            return
        for who, low, high in self._judge.state.gaps():
            count = f"number {low}" if low == high else f"numbers {low} to {high}"
            self._note("lost", f"of what {who} said, {count} never came into the log", at=self._judge.next_offset)

    def _check_facts(self, seals: list[ArchiveSealed]) -> None:
        """What the log says of seals of this key must be what lies in the folder, and the log the one they name."""
        if self._archive is None or self._key is None:
            return
        if seals and self._judge.log and seals[0].log != self._judge.log:
            what = f"it names the log {seals[0].log}, but the first record begins {self._judge.log}"
            self._note("broken", what, at=0, file=self._archive.seal_file(1).name)
        known = {seal.segment: seal for seal in seals}
        for offset, said in self._judge.sealed:
            if said.key_id != self._key.id:
                continue
            if said.segment not in known:
                what = f"segment {said.segment} is missing, offsets {said.first_offset} to {said.next_offset - 1}: "
                where = self._archive.seal_file(said.segment).name
                self._note("missing", f"{what}the log says that it was sealed", at=said.first_offset, file=where)
            elif known[said.segment] != said:
                what = f"it says of segment {said.segment} what its seal does not"
                self._note("forged", what, offset=offset)

    def _result(self, segments: int) -> Verification:
        ordered = sorted(self._found, key=lambda found: (found[1].kind not in GRAVE, found[0]))
        judge = self._judge
        return Verification(
            ok=not GRAVE & self._counts.keys(),
            log=judge.log,
            segments=segments,
            archived=self._archived,
            records=judge.records,
            next_offset=judge.next_offset,
            admitted=judge.admitted,
            duplicate=judge.duplicate,
            counts=self._counts,
            findings=[finding for _, finding in ordered],
            seconds=time.monotonic() - self._began,
        )


class _Judge:
    """Every record in log order, through `admit`."""

    def __init__(self, note: Callable[[Kind, str, int], None]) -> None:
        self._note = note
        self.state = AdmissionState()
        self.records = self.next_offset = self.admitted = self.duplicate = 0
        self.log = ""
        #: All seals that the log tells of, with the offsets at which it does.
        self.sealed: list[tuple[int, ArchiveSealed]] = []
        #: Of all who ever had the seat.
        self._tokens: set[str | None] = {None}

    def __call__(self, record: Record) -> None:
        if not self.records:
            self.log = log_id(record)
        if record.offset != self.next_offset:
            self._note("missing", f"the log goes on from offset {self.next_offset} to {record.offset}", record.offset)
        self.records += 1
        self.next_offset = record.next_offset
        verdict = admit(self.state, record)
        if isinstance(verdict, Admitted):
            self.admitted += 1
            self._remember(verdict, record.offset)
        elif isinstance(verdict, Duplicate):
            self.duplicate += 1
        elif isinstance(verdict, Bad):
            self._note("bad", verdict.reason, record.offset)
        else:
            self._void(verdict, record)
        if not self.records % TELL_EVERY:
            # nobody saves this state: what it would have to save must not pile up
            self.state.take_changes()

    def _remember(self, verdict: Admitted, offset: int) -> None:
        event = verdict.event
        if isinstance(event.data, SeatTaken):
            self._tokens.add(event.id)
        elif event.type == SEALED:
            self.sealed.append((offset, event.data))

    def _void(self, verdict: Void, record: Record) -> None:
        """Who had the seat may have said something on the way out; whoever never had it forged."""
        event = verdict.event
        token = event.data.previous if isinstance(event.data, SeatTaken) else event.seattoken or ""
        if record.user == HANDLERS and token in self._tokens:
            self._note("late", f"{event.type}: {verdict.reason}", record.offset)
        else:
            self._note("forged", f"{event.type}: {verdict.reason}", record.offset)


@contextmanager
def _checking(archive: Archive, numbers: list[int], key: PublicKey) -> Iterator[Iterator[SegmentCheck]]:
    """Checks segments, in order; in other processes, ahead of the caller, if there is enough to do."""
    work = (check_segment, repeat(str(archive.folder)), numbers, repeat(key.raw))
    if sum(_size(archive, number) for number in numbers) < WORTH_PROCESSES:
        yield map(*work)
        return
    spare = max(1, (os.cpu_count() or 1) - 1)
    with ProcessPoolExecutor(min(spare, len(numbers)), mp_context=get_context("spawn")) as pool:
        yield pool.map(*work)


def _size(archive: Archive, number: int) -> int:
    try:
        return archive.data_file(number).stat().st_size
    except OSError:
        return 0
