"""The archiver on a real log: it follows, seals, says so, and is killed at every place."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bus.admission import AdmissionState, Admitted, Bad, admit
from bus.archive.archiver import SEALED, Archiver, Limits, Sealed, fact_id
from bus.archive.check import check_segment
from bus.archive.folder import Archive, BadArchive
from bus.archive.keys import PrivateKey
from bus.archive.seal import check_signature
from bus.archive.stream import ArchivedStream
from bus.checkpoint import digest
from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.errors import BusError, LogDiverged, NotConfirmed
from bus.ports import Message, Record
from bus.wiring import open_bus
from events.actors import ARCHIVER, HANDLERS, PORTAL, agent_user
from events.archive import ArchiveSealed
from fleetbus.errors import Wrong
from fleetbus.settings import Settings
from fleetbus.wiring import run_archiver
from tests import archiver_process
from tests.archives import NOW, key, read, write
from tests.contract.bus_contract import SOON, RabbitEngine, event, read_some
from tests.servers.management import Management
from tests.stories import Story
from tests.waiting import wait_until

LONG = Limits(records=10, seconds=3_600)


def say(folder: Path, count: int) -> None:
    with closing(open_bus(f"sqlite://{folder}", HANDLERS)) as bus:
        futures: list[Future[None]] = [bus.publish(event(n)) for n in range(count)]
        for future in futures:
            future.result(SOON)


def logged(folder: Path) -> list[Record]:
    with closing(open_bus(f"sqlite://{folder}", HANDLERS)) as bus, bus.stream("log").read_from(0) as reader:
        return read_some(reader, bus.stream("log").next_offset())


def facts(folder: Path) -> list[ArchiveSealed]:
    """What the log says of seals, if it counts."""
    state = AdmissionState()
    verdicts = [admit(state, record) for record in logged(folder)]
    events = [verdict.event for verdict in verdicts if isinstance(verdict, Admitted)]
    return [event.data for event in events if event.type == SEALED]


@contextmanager
def archiving(
    folder: Path,
    limits: Limits = LONG,
    on_sealed: Callable[[Sealed], None] | None = None,
    signer: PrivateKey | None = None,
) -> Iterator[Archive]:
    """An archiver at work; its error is the test's."""
    stop, errors = threading.Event(), list[BaseException]()
    with closing(EmbeddedBus(folder, ARCHIVER)) as bus:
        archiver = Archiver(bus, folder / "archive", signer or key(), SystemClock(), limits=limits, on_sealed=on_sealed)

        def run() -> None:
            try:
                archiver.run(stop)
            except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Archive(folder / "archive")
        finally:
            stop.set()
            thread.join(SOON)
    if errors:
        raise errors[0]


def sealed(archive: Archive, end: int) -> None:
    wait_until(lambda: archive.end() >= end, deadline=SOON, what=f"the archive to reach {end}")


def test_it_seals_by_count_and_says_so_in_the_log(tmp_path: Path) -> None:
    say(tmp_path, 34)
    with archiving(tmp_path) as archive:
        # 35 records are three segments; the facts of these three are part of the fourth
        sealed(archive, 30)
        wait_until(lambda: len(facts(tmp_path)) == 3, deadline=SOON, what="three facts")
    seals = [archive.seal(number) for number in archive.numbers()]
    assert [(seal.first_offset, seal.next_offset) for seal in seals] == [(0, 10), (10, 20), (20, 30)]
    assert facts(tmp_path) == seals
    assert read(archive) == logged(tmp_path)[:30]
    for seal in seals:
        check_signature(seal, key().public)


def test_it_seals_by_age_but_not_for_its_own_facts_alone(tmp_path: Path) -> None:
    say(tmp_path, 5)
    with archiving(tmp_path, Limits(records=1_000, seconds=0.0)) as archive:
        sealed(archive, 6)
        say(tmp_path, 1)
        # whatever was cut where: the last segments hold what was said, and not each a fact about the one before
        wait_until(
            lambda: any(record.body == b"0" for record in read(archive)[6:]), deadline=SOON, what="the second word"
        )
        count = len(archive.numbers())
    assert count <= 4
    assert len(facts(tmp_path)) == len(Archive(tmp_path / "archive").numbers())


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for round_ in range(1, 4):
        say(tmp_path, 14)
        with archiving(tmp_path):
            sealed(archive, round_ * 10)
    assert read(archive) == logged(tmp_path)[: archive.end()]
    wanted = [archive.seal(number) for number in archive.numbers()]
    assert facts(tmp_path)[: len(wanted)] == wanted


def test_whoever_waits_for_segments_hears_of_each_and_of_the_last_again_after_a_start(tmp_path: Path) -> None:
    heard: list[Sealed] = []
    say(tmp_path, 25)
    with archiving(tmp_path, on_sealed=heard.append) as archive:
        sealed(archive, 20)
    with archiving(tmp_path, on_sealed=heard.append):
        wait_until(lambda: len(heard) == 3, deadline=SOON, what="the last seal again")
    assert [one.seal.segment for one in heard] == [1, 2, 2]
    assert heard[1] == heard[2]
    digests = [digest(record) for record in logged(tmp_path)]
    assert [one.digests for one in heard[:2]] == [tuple(digests[:10]), tuple(digests[10:20])]


def test_the_fact_of_the_last_seal_is_said_after_a_crash_and_once_only(tmp_path: Path) -> None:
    say(tmp_path, 12)

    class Crash(Exception):
        pass

    def crash(_: Sealed) -> None:
        raise Crash

    with pytest.raises(Crash), archiving(tmp_path, on_sealed=crash) as archive:
        sealed(archive, 10)
    assert facts(tmp_path) == []
    for _ in range(2):
        with archiving(tmp_path):
            wait_until(lambda: len(facts(tmp_path)) == 1, deadline=SOON, what="the fact")
    assert facts(tmp_path) == [archive.seal(1)]


def test_a_segment_does_not_follow_one_that_could_not_be_said(tmp_path: Path) -> None:
    class Deaf(EmbeddedBus):
        def publish(self, message: Message) -> Future[None]:
            future: Future[None] = Future()
            future.set_exception(NotConfirmed("not now"))
            return future

    say(tmp_path, 40)
    with closing(Deaf(tmp_path, ARCHIVER)) as bus:
        for _ in range(3):
            with pytest.raises(NotConfirmed):
                Archiver(bus, tmp_path / "archive", key(), SystemClock(), limits=LONG).run(threading.Event())
    assert Archive(tmp_path / "archive").numbers() == [1]


def test_another_log_in_the_place_of_the_archived_one_is_refused(tmp_path: Path) -> None:
    say(tmp_path, 12)
    with archiving(tmp_path) as archive:
        sealed(archive, 10)
    for name in ("bus.db", "bus.db-wal", "bus.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    say(tmp_path, 12)
    with pytest.raises(LogDiverged, match="not the one that is archived"), archiving(tmp_path):
        pass


def test_a_second_archiver_and_another_key_are_refused(tmp_path: Path) -> None:
    say(tmp_path, 12)
    with archiving(tmp_path) as archive:
        sealed(archive, 10)
        with pytest.raises(BadArchive, match="another archiver"), archiving(tmp_path):
            pass
    with pytest.raises(BadArchive, match="another key"), archiving(tmp_path, signer=PrivateKey.generate()):
        pass


def test_an_archive_that_was_put_back_to_an_earlier_day_is_not_gone_on_with(tmp_path: Path) -> None:
    say(tmp_path, 34)
    with archiving(tmp_path) as archive:
        sealed(archive, 30)
        wait_until(lambda: len(facts(tmp_path)) == 3, deadline=SOON, what="three facts")
    for file in (archive.seal_file, archive.data_file):
        file(3).unlink()
    bus = EmbeddedBus(tmp_path, ARCHIVER)
    with closing(bus), pytest.raises(BadArchive, match="segment 3 was sealed, but it is not in"):
        Archiver(bus, tmp_path / "archive", key(), SystemClock(), limits=LONG).run(stopped_after(20.0))


def stopped_after(seconds: float) -> threading.Event:
    """For what should end by itself: a test that fails must end, too."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    return stop


def test_a_lost_key_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "archive", Story().records(), 10)
    settings = Settings(data=tmp_path)
    with pytest.raises(Wrong, match=r"its key .*archive\.key is gone"):
        run_archiver(settings, threading.Event())
    assert not (tmp_path / "archive.key").exists()
    stop = threading.Event()
    stop.set()
    run_archiver(Settings(data=tmp_path, archive=tmp_path / "another"), stop)
    assert (tmp_path / "archive.key").exists()


def test_nobody_else_can_say_that_something_was_sealed() -> None:
    story = Story()
    records = story.records()
    seal = ArchiveSealed(
        log=story.id(),
        segment=1,
        first_offset=0,
        next_offset=2,
        count=2,
        head_before="0" * 64,
        head_after="1" * 64,
        root="2" * 64,
        file="3" * 64,
        sealed_at=NOW,
        key_id="4" * 64,
        signature="5" * 128,
    )
    said = story.event(SEALED, seal, actor="service:archiver", id=fact_id(seal))
    for user in (PORTAL, "service.archiver", HANDLERS, agent_user("n1"), ARCHIVER):
        story.say(said, user)
    state = AdmissionState()
    verdicts = [admit(state, record) for record in story.records()[len(records) :]]
    assert [type(verdict) for verdict in verdicts] == [Bad, Bad, Bad, Bad, Admitted]


# ---------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.chaos
def test_killed_again_and_again_it_leaves_no_gap_and_no_double(tmp_path: Path) -> None:
    """kill -9 at moments that follow from what the folder shows, while the log grows."""
    archive = Archive(tmp_path / "archive")
    for round_ in range(4):
        say(tmp_path, 300)
        process = archiver_process.start(tmp_path, tmp_path / "archiver.log")
        before = len(archive.numbers()) if archive.folder.exists() else 0
        wait_until(
            lambda n=before + 3: archive.folder.exists() and len(archive.numbers()) >= n,  # type: ignore[misc]
            deadline=60,
            what=f"three segments more in round {round_}",
        )
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    process = archiver_process.start(tmp_path, tmp_path / "archiver.log")
    wait_until(lambda: archive.end() >= 1_200, deadline=60, what="the archive to reach the end")
    process.terminate()
    assert process.wait(60) == 0, (tmp_path / "archiver.log").read_text()
    assert read(archive) == logged(tmp_path)[: archive.end()]
    raw = archiver_process.public(tmp_path).raw
    assert [check_segment(str(archive.folder), n, raw).faults for n in archive.numbers()] == [[]] * len(
        archive.numbers()
    )
    told = [seal.segment for seal in facts(tmp_path)]
    assert told == sorted(set(told))
    assert set(archive.numbers()) - set(told) <= {archive.numbers()[-1]}


# ---------------------------------------------------------------- on RabbitMQ


@pytest.fixture
def broker(rabbitmq_management: Management, amqp_vhost: str) -> Iterator[RabbitEngine]:
    made = RabbitEngine(rabbitmq_management, amqp_vhost)
    yield made
    made.close()


def test_on_rabbitmq_it_archives_and_says_so_with_rights_of_its_own(broker: RabbitEngine, tmp_path: Path) -> None:
    handlers, stop = broker.bus(HANDLERS), threading.Event()
    for future in [handlers.publish(event(n)) for n in range(25)]:
        future.result(SOON)
    bus = broker.bus(ARCHIVER)
    archiver = Archiver(bus, tmp_path / "archive", key(), SystemClock(), limits=LONG)
    thread = threading.Thread(target=archiver.run, args=(stop,))
    thread.start()
    archive = Archive(tmp_path / "archive")
    try:
        wait_until(lambda: archive.folder.exists() and archive.end() >= 20, deadline=60, what="two segments")
    finally:
        stop.set()
        thread.join(SOON)
    with handlers.stream("log").read_from(0) as reader:
        records = read_some(reader, 28)
    assert read(archive) == records[:20]
    state = AdmissionState()
    verdicts = [admit(state, record) for record in records]
    said = [verdict.event.data for verdict in verdicts if isinstance(verdict, Admitted)][1:]
    assert said == [archive.seal(1), archive.seal(2)]
    for message in (event(1), event(1, "event.archive.other"), event(1, "command.job.submit")):
        with pytest.raises(BusError):
            bus.publish(message).result(SOON)


def test_on_rabbitmq_archive_and_stream_are_read_as_one(broker: RabbitEngine, tmp_path: Path) -> None:
    handlers = broker.bus(HANDLERS)
    for future in [handlers.publish(event(n)) for n in range(60)]:
        future.result(SOON)
    with handlers.stream("log").read_from(0) as reader:
        records = read_some(reader, 61)
    archive = write(tmp_path, records[:40], 10)
    stream = ArchivedStream(handlers.stream("log"), archive)
    assert stream.first() == records[0]
    for start in (0, 5, 39, 40, 41, 60):
        with stream.read_from(start) as reader:
            assert read_some(reader, 61 - start) == records[start:]
