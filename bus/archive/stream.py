"""Archive first, then stream: the log as one stream, though the engine keeps only the end of it.

Where the two meet, the last archived record is read from the stream, too, if it is still there, and must be the same,
byte for byte. If it is not, or records between the two are in neither, readers stop with `LogDiverged`: the log was
cut, or it is another log.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from itertools import islice
from types import TracebackType
from typing import Literal, Self

from bus.archive.folder import Archive, BadArchive
from bus.errors import Closed, LogDiverged, Unreachable
from bus.ports import Bus, Inbox, Message, Reader, Record, Seat, Start, Stream, StreamName

#: How far the clocks of archiver and engine may lie apart.
CLOCKS = timedelta(minutes=1)


class ArchivedStream:
    """`bus.ports.Stream` over what an archive has of `stream`, and then `stream`. Also raises `BadArchive`."""

    def __init__(self, stream: Stream, archive: Archive, closed: threading.Event | None = None) -> None:
        self._stream = stream
        self._archive = archive
        self._closed = closed or threading.Event()
        #: The stream's first record that was found to be the archive's, and the archive's first.
        self._known: tuple[Record, Record] | None = None

    def read_from(self, start: Start) -> Reader:
        return ArchivedReader(self._stream, self._archive, 0 if start == "first" else start, self._closed)

    def first(self) -> Record | None:
        """Raises `LogDiverged` when the stream is not the archived one, or does not reach back to the archive's end."""
        first = self._stream.first()
        end = self._archive.end()
        if not end:
            return first
        if self._known is None or self._known[0] != first:
            self._known = self._compared(first, end)
        return self._known[1]

    def _compared(self, first: Record | None, end: int) -> tuple[Record, Record]:
        if first is None:
            raise LogDiverged(f"the log is empty, but {self._archive.folder} has an archive of it up to offset {end}")
        archived = self._archive.record(first.offset) if first.offset < end else None
        _check_seam(archived, first, end, self._archive)
        begin = self._archive.record(0)
        if begin is None:
            raise BadArchive(f"the archive in {self._archive.folder} has no records")
        return first, begin

    def next_offset(self) -> int:
        return self._stream.next_offset()

    def offset_at(self, time: datetime) -> int:
        found = self._stream.offset_at(time)
        seal = self._archive.sealed_at(time - CLOCKS)
        return found if seal is None else min(found, seal.first_offset)


class ArchivedReader:
    """`bus.ports.Reader`: segments, then the stream; and segments again for what the stream dropped meanwhile."""

    def __init__(self, stream: Stream, archive: Archive, start: int | Literal["next"], closed: threading.Event) -> None:
        self._stream = stream
        self._archive = archive
        self._bus_closed = closed
        #: The offset below which everything was returned; None as long as "next" is not a number.
        self._next: int | None = None if start == "next" else max(0, start)
        #: The last record that came out of the archive, as long as the stream was not compared with it.
        self._last: Record | None = None
        self._records = self._archived()
        self._live: Reader | None = stream.read_from("next") if start == "next" else None
        self._lock = threading.Lock()
        self._closed = False

    def _archived(self) -> Iterator[Record]:
        """What the archive has, also what is sealed meanwhile."""
        while self._next is not None and (number := self._archive.find(self._next)):
            for record in self._archive.records(number):
                if record.offset >= self._next:
                    self._next, self._last = record.next_offset, record
                    yield record

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        """Also raises `LogDiverged` and `BadArchive`."""
        self._check_open()
        if self._live is None:
            if records := list(islice(self._records, limit)):
                return records
            if not self._go_live(timeout):
                return []
        return self._read_live(limit, time.monotonic() + timeout)

    def _go_live(self, timeout: float) -> bool:
        """False when the engine is away."""
        assert self._next is not None
        try:
            self._check_end(self._next)
        except Unreachable:
            self._bus_closed.wait(timeout)
            return False
        live = self._stream.read_from(self._next if self._last is None else self._last.offset)
        with self._lock:
            self._live = live
            if self._closed:
                live.close()
        return True

    def _check_end(self, archived: int) -> None:
        if self._last is not None and (end := self._stream.next_offset()) < archived:
            raise LogDiverged(
                f"the log ends at offset {end}, but {self._archive.folder} has an archive of it up to {archived}"
            )

    def _read_live(self, limit: int, deadline: float) -> list[Record]:
        assert self._live is not None
        if self._last is not None:
            records = self._live.read(1, max(0.0, deadline - time.monotonic()))
            if not records or not self._pass_seam(records[0]):
                return self._without_jump(records)
        return self._without_jump(self._live.read(limit, max(0.0, deadline - time.monotonic())))

    def _pass_seam(self, first: Record) -> bool:
        """True when the stream's first record is the archive's last, and not to be returned again."""
        assert self._last is not None
        last, self._last = self._last, None
        again = first.offset <= last.offset
        _check_seam(last if again else None, first, last.next_offset, self._archive)
        return again

    def _without_jump(self, records: list[Record]) -> list[Record]:
        """A reader that is slower than the stream's retention misses records there; the archive has them by then."""
        for place, record in enumerate(records):
            if self._next is not None and record.offset > self._next and self._archive.end() > self._next:
                self._go_back()
                return records[:place]
            self._next = record.next_offset
        return records

    def _go_back(self) -> None:
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.close()
        self._records = self._archived()

    def _check_open(self) -> None:
        if self._closed or self._bus_closed.is_set():
            raise Closed("the reader is closed")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._live is not None:
                self._live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_seam(archived: Record | None, first: Record, end: int, archive: Archive) -> None:
    """`first` is the first that the stream gives; `archived` what the archive, which ends at `end`, has there."""
    if archived is not None and archived != first:
        raise LogDiverged(f"the record at offset {first.offset} is not the one that is archived in {archive.folder}")
    if first.offset > end:
        raise LogDiverged(
            f"the log begins at offset {first.offset}, the archive in {archive.folder} ends at {end}: "
            "what was between them is in neither"
        )


class ArchivedBus:
    """`bus.ports.Bus` whose log reaches back to its first record by an archive."""

    def __init__(self, bus: Bus, archive: Archive) -> None:
        self._bus = bus
        self._archive = archive
        self._closed = threading.Event()

    @property
    def user(self) -> str:
        return self._bus.user

    @property
    def connected(self) -> bool:
        return self._bus.connected

    def publish(self, message: Message) -> Future[None]:
        return self._bus.publish(message)

    def deliver(self, key: str, body: bytes, id: str = "") -> Future[bool]:
        return self._bus.deliver(key, body, id)

    def stream(self, name: StreamName) -> Stream:
        stream = self._bus.stream(name)
        return ArchivedStream(stream, self._archive, self._closed) if name == "log" else stream

    def seat(self, name: str) -> Seat:
        return self._bus.seat(name)

    def inbox(self, node: str) -> Inbox:
        return self._bus.inbox(node)

    def remove_inbox(self, node: str) -> None:
        self._bus.remove_inbox(node)

    def close(self) -> None:
        self._closed.set()
        self._bus.close()
