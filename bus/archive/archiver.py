"""The archiver: follows the log, and seals it segment by segment.

Start (behind the last seal; the log must still have what comes next) → take records → when there are enough of them,
or the first has waited long enough: seal → tell whoever waits for it → say it in the log.

A crash loses nothing: what was not sealed is read again. The fact of the last seal may be missing then; a start looks
whether the log has it, and says it if not.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct

from bus.archive.folder import BadArchive
from bus.archive.keys import PrivateKey
from bus.archive.stream import ArchivedStream
from bus.archive.writer import ArchiveWriter, held
from bus.checkpoint import digest
from bus.clock import Clock
from bus.errors import LogDiverged
from bus.ports import Bus, Message, Reader, Record
from bus.progress import Progress
from events import codec
from events.actors import ARCHIVER
from events.archive import ArchiveSealed
from events.envelope import Event, derived_id
from events.routing import routing_key

SEALED = "event.archive.sealed"
ACTOR = "service:archiver"
#: Seconds that a read waits for the next record.
READ = 0.5
#: Records of one read.
BATCH = 1_000
#: Seconds within which the fact of a seal must be confirmed.
SAY_WITHIN = 30.0
#: Bytes of lines after which a segment is sealed whatever the limits say: readers hold no more at a time.
MAX_BYTES = 64 * 2**20

log = structlog.get_logger("bus.archiver")


class Limits(Struct, frozen=True, kw_only=True):
    """When a segment is sealed: it has so many records, or its first was read so many seconds ago."""

    records: int = 50_000
    seconds: float = 600.0


class Sealed(Struct, frozen=True, kw_only=True):
    """A segment is on the disk, with its seal: what it holds need not be kept elsewhere for the archive's sake.

    `digests` has `bus.checkpoint.digest` of each of its records, in log order. After a start the last segment is told
    again, because a crash may have come before whoever waits for it heard of it.
    """

    seal: ArchiveSealed
    digests: tuple[str, ...]


#: Is told of each segment, in the archiver's thread, before the seal is said in the log. Its errors end the archiver.
OnSealed = Callable[[Sealed], None]


class Archiver:
    """One process of the archiver; `run` returns when `stop` is set, and raises when this process must end."""

    def __init__(
        self,
        bus: Bus,
        folder: Path,
        key: PrivateKey,
        clock: Clock,
        *,
        limits: Limits | None = None,
        on_sealed: OnSealed | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._bus = bus
        self._folder = folder
        self._key = key
        self._clock = clock
        self._limits = limits or Limits()
        self._on_sealed = on_sealed
        self._progress = progress or Progress("archiver", clock)
        self._digests: list[str] = []
        #: Whether the open segment has more than our own facts: these alone are not worth another one.
        self._news = False
        self._began = 0.0
        #: Records that were read and are not sealed yet.
        self.unsealed = 0

    def run(self, stop: threading.Event) -> None:
        """Raises `BadArchive` when the folder cannot be gone on with or another archiver has it, `LogDiverged` when it
        is not this log's or the log does not have what comes next, other errors of the bus, and `OSError`.
        """
        with held(self._folder):
            writer = ArchiveWriter(self._folder, self._key)
            try:
                reader = self._open(writer, stop)
                if reader is not None:
                    with reader:
                        self._follow(writer, reader, stop)
            finally:
                writer.close()

    # start

    def _open(self, writer: ArchiveWriter, stop: threading.Event) -> Reader | None:
        """A reader behind the last seal. None when `stop` came before there was a log."""
        stream = ArchivedStream(self._bus.stream("log"), writer.archive)
        while (first := stream.first()) is None:
            if stop.wait(READ):
                return None
        last = writer.last
        if last is None and first.offset:
            raise LogDiverged(f"the log begins at offset {first.offset}; an archive begins with a log's first record")
        said = self._look_ahead(stream, last, stop)
        if last is None:
            return stream.read_from("first")
        self._tell_again(writer, last)
        if not said and not stop.is_set():
            self._say(last)
        log.info("archiving goes on", action="archiver.started", segment=last.segment + 1, offset=last.next_offset)
        return self._behind(stream, last)

    def _look_ahead(self, stream: ArchivedStream, last: ArchiveSealed | None, stop: threading.Event) -> bool:
        """Whether the log tells of the last seal. Raises `BadArchive` when it tells of one of ours behind it: then the
        folder was put back to an earlier day, and going on would make a second segment of that number.
        """
        at, end, said = 0 if last is None else last.next_offset, stream.next_offset(), False
        with stream.read_from(at) as reader:
            while at < end and not stop.is_set():
                for record in reader.read(BATCH, READ):
                    at = record.next_offset
                    seal = self._own_seal(record)
                    if seal is not None and (last is None or seal.segment > last.segment):
                        raise BadArchive(
                            f"the log tells at offset {record.offset} that segment {seal.segment} was sealed, but it "
                            f"is not in {self._folder}; put it back, or begin anew with another key and folder"
                        )
                    said = said or (seal is not None and seal == last)
        return said

    def _own_seal(self, record: Record) -> ArchiveSealed | None:
        """The seal that a record tells of, if it is one of this key."""
        if not _is_seal(record):
            return None
        try:
            seal: ArchiveSealed = codec.decode(record.body).data
        except codec.BadEvent:
            return None
        return seal if seal.key_id == self._key.public.id else None

    def _tell_again(self, writer: ArchiveWriter, last: ArchiveSealed) -> None:
        if self._on_sealed is not None:
            self._on_sealed(Sealed(seal=last, digests=tuple(map(digest, writer.archive.records(last.segment)))))

    def _behind(self, stream: ArchivedStream, last: ArchiveSealed) -> Reader:
        """Begins in the archive, so that the first record of the stream is compared with its last."""
        reader = stream.read_from(last.next_offset - 1)
        try:
            reader.read(limit=1)
        except BaseException:
            reader.close()
            raise
        return reader

    # follow

    def _follow(self, writer: ArchiveWriter, reader: Reader, stop: threading.Event) -> None:
        self._progress.at(writer.next_offset)
        while not stop.is_set():
            for record in reader.read(BATCH, READ):
                self._take(writer, record)
                self._progress.at(record.next_offset)
                if self._is_full(writer):
                    self._seal(writer)
            if self._is_old(writer):
                self._seal(writer)

    def _take(self, writer: ArchiveWriter, record: Record) -> None:
        if not writer.count:
            self._began, self._news = self._clock.monotonic(), False
        writer.append(record)
        self.unsealed = writer.count
        if self._on_sealed is not None:
            self._digests.append(digest(record))
        if not _is_seal(record):
            self._news = True

    def _is_full(self, writer: ArchiveWriter) -> bool:
        return writer.count >= self._limits.records or writer.size >= MAX_BYTES

    def _is_old(self, writer: ArchiveWriter) -> bool:
        return self._news and writer.count > 0 and self._clock.monotonic() - self._began >= self._limits.seconds

    def _seal(self, writer: ArchiveWriter) -> None:
        seal = writer.seal(self._clock.now())
        digests, self._digests = tuple(self._digests), []
        self.unsealed, self._news = 0, False
        if self._on_sealed is not None:
            self._on_sealed(Sealed(seal=seal, digests=digests))
        log.info("segment sealed", action="archiver.sealed", segment=seal.segment, offset=seal.next_offset)
        self._say(seal)

    def _say(self, seal: ArchiveSealed) -> None:
        event = sealed_fact(seal)
        message = Message(routing_key(event), codec.encode(event), event.id, event.type)
        # no segment follows one that was not said, so at most the last fact is missing after a crash
        self._bus.publish(message).result(SAY_WITHIN)


def _is_seal(record: Record) -> bool:
    return record.key == SEALED and record.user == ARCHIVER


def fact_id(seal: ArchiveSealed) -> str:
    """The id of the fact that tells of a seal: the same, however often it is said."""
    return derived_id(seal.log, "archive", seal.key_id, str(seal.segment))


def sealed_fact(seal: ArchiveSealed) -> Event:
    return Event(
        id=fact_id(seal),
        source="fleetbus/archiver",
        type=SEALED,
        subject="archive",
        time=seal.sealed_at,
        actor=ACTOR,
        data=seal,
    )
