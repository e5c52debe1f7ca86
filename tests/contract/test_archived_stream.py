"""The contract of a log of which the stream keeps only the end, and an archive the rest: that of every stream."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from bus.archive.folder import Archive, BadArchive
from bus.archive.stream import ArchivedBus, ArchivedStream
from bus.archive.writer import ArchiveWriter
from bus.checkpoint import Checkpoint, digest, log_id, resume
from bus.embedded import EmbeddedBus
from bus.errors import LogDiverged
from bus.ports import Bus, Message, Record, Stream, StreamName
from bus.wiring import open_bus
from events.actors import HANDLERS
from tests.archives import key
from tests.contract import test_bus as contract
from tests.contract.bus_contract import SOON, event, read_some

#: Records of a segment: few, so that every walk goes over many of them.
FEW, SOME = 7, 50


def cut(folder: Path, before: int) -> None:
    """As a retention does: what lies before the offset is gone from the stream."""
    with closing(sqlite3.connect(folder / "bus.db", timeout=15)) as db, db:
        db.execute("DELETE FROM log WHERE offset < ?", (before,))


def archive_all(bus: Bus, folder: Path, count: int = FEW) -> Archive:
    """What the log has, in whole segments."""
    writer = ArchiveWriter(folder, key())
    log = bus.stream("log")
    left = (log.next_offset() - writer.next_offset) // count * count
    if left:
        with log.read_from(writer.next_offset) as reader:
            rest = iter(read_some(reader, left)[:left])
            while chunk := list(islice(rest, count)):
                for record in chunk:
                    writer.append(record)
                writer.seal(datetime.now(UTC))
    return writer.archive


class CuttingBus(EmbeddedBus):
    """Archives and cuts the log whenever somebody asks for it: nobody finds more of it in the stream than must be."""

    def __init__(self, folder: Path, user: str, lock: threading.Lock) -> None:
        super().__init__(folder, user)
        self._lock = lock
        self._at = folder
        self.archive = Archive(folder / "archive")

    def log(self) -> Stream:
        with self._lock, closing(EmbeddedBus(self._at, HANDLERS)) as bus:
            archive_all(bus, self.archive.folder, SOME)
            cut(self._at, min(self.archive.end(), bus.stream("log").next_offset() - 1))
        return super().stream("log")


class CutBus(ArchivedBus):
    def __init__(self, bus: CuttingBus) -> None:
        super().__init__(bus, bus.archive)
        self._cutting = bus

    def stream(self, name: StreamName) -> Stream:
        if name == "log":
            return ArchivedStream(self._cutting.log(), self._cutting.archive, self._closed)
        return super().stream(name)


class CutEngine:
    """The embedded engine with a retention of almost nothing, and an archive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._opened: list[Bus] = []

    def bus(self, user: str, folder: Path | None = None) -> Bus:
        self._opened.append(CutBus(CuttingBus(self._folder, user, self._lock)))
        return self._opened[-1]

    def invite(self, node: str) -> None: ...

    def close(self) -> None:
        for bus in self._opened:
            bus.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[CutEngine]:
    made = CutEngine(tmp_path / "bus")
    yield made
    made.close()


@pytest.fixture
def handlers(engine: CutEngine) -> Bus:
    return engine.bus(HANDLERS)


# the sentences that hold for every stream, here

for _name in (
    "test_a_record_keeps_body_key_and_user_of_its_message",
    "test_the_key_decides_on_the_stream_and_what_none_is_bound_to_goes_to_the_log",
    "test_messages_of_one_process_are_appended_in_the_order_of_their_calls",
    "test_any_thread_may_publish_and_each_keeps_its_order",
    "test_a_future_says_none_when_the_message_is_appended",
    "test_offsets_grow_and_next_offset_is_what_is_read_next",
    "test_a_reader_begins_at_the_offset_it_was_given_also_amid_what_was_appended_at_once",
    "test_a_reader_beyond_the_end_waits_for_its_offset",
    "test_a_reader_from_next_sees_what_this_process_publishes_after_it_and_nothing_before",
    "test_every_record_comes_once_while_it_is_published_and_read_at_the_same_time",
    "test_read_gives_at_most_its_limit_and_leaves_the_rest",
    "test_read_waits_for_the_first_record_and_answers_with_nothing_when_none_comes",
    "test_a_reader_that_was_left_alone_has_missed_nothing",
    "test_a_closed_reader_says_so_also_to_a_thread_that_waits",
    "test_first_is_the_oldest_record_and_nothing_in_an_empty_stream",
    "test_next_offset_is_above_what_others_append_meanwhile",
    "test_offset_at_is_at_or_before_the_first_record_of_that_time_or_later",
):
    globals()[_name] = getattr(contract, _name)


# ---------------------------------------------------------------- where archive and stream meet


class Site:
    """One log with 30 records, on which each test plays its own retention."""

    def __init__(self, folder: Path, says: str = "event.test.said") -> None:
        self.folder = folder
        self.bus = open_bus(f"sqlite://{folder}", HANDLERS)
        self._says = says
        self.say(29)

    def say(self, count: int) -> None:
        futures: list[Future[None]] = [self.bus.publish(event(n, self._says)) for n in range(count)]
        for future in futures:
            future.result(SOON)

    def archived(self, per_segment: int = FEW) -> ArchivedStream:
        archive = archive_all(self.bus, self.folder / "archive", per_segment)
        return ArchivedStream(self.bus.stream("log"), archive)

    def all(self) -> list[Record]:
        with self.bus.stream("log").read_from(0) as reader:
            return read_some(reader, self.bus.stream("log").next_offset())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path / "bus")
    yield found
    found.bus.close()


def everything(stream: Stream, start: int = 0) -> list[Record]:
    with stream.read_from(start) as reader:
        return read_some(reader, stream.next_offset() - start)


@pytest.mark.parametrize("kept", [0, 5, 27, 28])
def test_nothing_is_missed_and_nothing_comes_twice_wherever_the_stream_begins(site: Site, kept: int) -> None:
    whole, stream = site.all(), site.archived()
    cut(site.folder, kept)
    for start in range(31):
        assert everything(stream, start) == whole[start:], start
    assert stream.first() == whole[0]


def test_what_is_in_neither_is_not_passed_over(site: Site) -> None:
    stream = site.archived()
    cut(site.folder, 29)
    with pytest.raises(LogDiverged, match=r"begins at offset 29, the archive in .* ends at 28"):
        stream.first()
    with stream.read_from(0) as reader, pytest.raises(LogDiverged, match="in neither"):
        read_some(reader, 30)


def test_another_log_under_the_archive_is_noticed(site: Site) -> None:
    archive = site.archived()._archive
    site.bus.close()
    (site.folder / "bus.db").unlink()
    other = Site(site.folder, "event.other.said")
    other.say(10)
    stream = ArchivedStream(other.bus.stream("log"), archive)
    with pytest.raises(LogDiverged, match="offset 0 is not the one that is archived"):
        stream.first()
    with stream.read_from(0) as reader, pytest.raises(LogDiverged, match="offset 27 is not the one"):
        read_some(reader, 40)
    other.bus.close()


def test_a_log_that_ends_before_its_archive_is_noticed(site: Site) -> None:
    stream = site.archived()
    with closing(sqlite3.connect(site.folder / "bus.db", timeout=15)) as db, db:
        db.execute("DELETE FROM log WHERE offset > 20")
    with stream.read_from(0) as reader, pytest.raises(LogDiverged, match="ends at offset 21"):
        read_some(reader, 40)


def test_a_reader_that_is_slower_than_the_retention_goes_back_to_the_archive(site: Site) -> None:
    stream = site.archived()
    with stream.read_from(25) as slow:
        found = read_some(slow, 5)
        site.say(40)
        whole = site.all()
        site.archived()
        cut(site.folder, 65)
        found += read_some(slow, len(whole) - 30)
    assert found == whole[25:]


def test_what_is_sealed_while_it_is_read_is_read_once(site: Site) -> None:
    stream = site.archived(per_segment=1)
    with stream.read_from(0) as reader:
        found = reader.read(limit=20)
        site.say(30)
        site.archived(per_segment=1)
        cut(site.folder, 55)
        found += read_some(reader, 40)
    assert [record.offset for record in found] == list(range(60))


def test_a_checkpoint_holds_on_both_sides_of_the_seam_and_shows_another_log(site: Site) -> None:
    whole, stream = site.all(), site.archived()
    cut(site.folder, 20)
    for record in whole[:-1]:
        good = Checkpoint(
            log=log_id(whole[0]),
            next_offset=record.next_offset,
            last_offset=record.offset,
            last_digest=digest(record),
        )
        with resume(stream, good) as reader:
            assert reader.read(limit=1) == [whole[record.next_offset]]
        bad = Checkpoint(log=good.log, next_offset=good.next_offset, last_offset=record.offset, last_digest="0" * 64)
        with pytest.raises(LogDiverged, match="is not the one of the checkpoint"):
            resume(stream, bad)
    with pytest.raises(LogDiverged, match="belongs to log"):
        resume(stream, Checkpoint(log="another"))


def test_a_broken_segment_is_an_error_and_not_the_end(site: Site) -> None:
    stream = site.archived()
    path = site.folder / "archive" / "00000002.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-30])
    with stream.read_from(0) as reader, pytest.raises(BadArchive, match="00000002"):
        read_some(reader, 30)


def test_without_segments_the_stream_is_what_it_is(site: Site, tmp_path: Path) -> None:
    stream = ArchivedStream(site.bus.stream("log"), Archive(tmp_path / "nothing"))
    assert everything(stream) == site.all()
    assert stream.first() == site.all()[0]
    assert site.bus.publish(Message(key="event.a.b", body=b"")).result(SOON) is None
