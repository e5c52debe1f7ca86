"""The followers of blobs and telemetry, and the service that keeps all parts running."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.errors import Unreachable
from bus.ports import Message
from events.actors import PROJECTIONS as USER
from events.actors import agent_user
from events.codec import encode
from events.envelope import Event
from events.routing import blob_key, routing_key
from events.telemetry import Heartbeat, Stats
from projections import service
from projections.blobs import MAX_TOTAL, BlobFollower
from projections.metrics import Metrics
from projections.osis.documents import Documents
from projections.osis.series import Line, Point, Series
from projections.osis.sqlite_documents import SqliteDocuments
from projections.osis.sqlite_series import SqliteSeries
from projections.service import keep_running, run_projections
from projections.telemetry import MAX_AHEAD, MAX_FIELDS, MEASUREMENTS, TelemetryFollower, point_of
from tests.folding import fold_log
from tests.projecting import busy_story, caught_up, seen
from tests.stories import Story
from tests.waiting import wait_until

CLOCK = SystemClock()
HOUR = 3_600 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bus"


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Documents]:
    opened = SqliteDocuments(tmp_path / "views.db")
    yield opened
    opened.close()


@pytest.fixture
def series(tmp_path: Path) -> Iterator[Series]:
    opened = SqliteSeries(tmp_path / "series.db", MEASUREMENTS)
    yield opened
    opened.close()


Run = Callable[[threading.Event], None]


@contextmanager
def at_work(folder: Path, make: Callable[[EmbeddedBus], Run]) -> Iterator[None]:
    """A part at work; at the end it has stopped."""
    stop = threading.Event()
    with closing(EmbeddedBus(folder, USER)) as bus:
        thread = threading.Thread(target=make(bus), args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
    assert not thread.is_alive()


# blobs


def say_chunks(folder: Path, name: str, chunks: dict[int, bytes], total: int, node: str = "n1") -> None:
    with closing(EmbeddedBus(folder, agent_user(node))) as bus:
        for n, data in chunks.items():
            bus.publish(Message(key=blob_key(name, n, total), body=data)).result(10)


def test_a_blob_is_there_when_all_its_chunks_came(folder: Path, documents: Documents) -> None:
    data = b"first" + b"second"
    name = sha256(data).hexdigest()
    metrics = Metrics()
    with at_work(folder, lambda bus: BlobFollower(bus, documents, CLOCK, metrics).run):
        say_chunks(folder, name, {1: b"second"}, 2)
        wait_until(lambda: metrics.chunks == 1, deadline=10, what="the first chunk")
        assert documents.blobs.get(name) is None
        say_chunks(folder, name, {0: b"first"}, 2)

        wait_until(lambda: documents.blobs.has(name), deadline=10, what="the blob")
    assert documents.blobs.get(name) == data


def test_a_whole_blob_is_not_replaced_by_other_bytes_under_its_name(folder: Path, documents: Documents) -> None:
    name = sha256(b"true").hexdigest()
    say_chunks(folder, name, {0: b"true"}, 1)
    say_chunks(folder, name, {0: b"forged"}, 1, node="n2")
    say_chunks(folder, name, {0: b"fo", 1: b"rged"}, 2, node="n2")
    later = sha256(b"later").hexdigest()
    say_chunks(folder, later, {0: b"later"}, 1)

    with at_work(folder, lambda bus: BlobFollower(bus, documents, CLOCK).run):
        wait_until(lambda: documents.blobs.has(later), deadline=10, what="the later blob")

    assert documents.blobs.get(name) == b"true"


def test_what_is_no_chunk_is_passed_over(folder: Path, documents: Documents) -> None:
    name = sha256(b"good").hexdigest()
    with closing(EmbeddedBus(folder, agent_user("n1"))) as bus:
        for key in (
            "blob.nonsense",
            f"blob.{name}.5.2",
            f"blob.{name}.0.{MAX_TOTAL + 1}",
            f"blob.{name[:10]}.0.1",
            f"blob.{name}.-1.1",
        ):
            bus.publish(Message(key=key, body=b"bad")).result(10)
        bus.publish(Message(key=blob_key(name, 1, 2), body=b"x" * 1_500_000)).result(10)
    say_chunks(folder, name, {0: b"good"}, 1)

    metrics = Metrics()
    with at_work(folder, lambda bus: BlobFollower(bus, documents, CLOCK, metrics).run):
        wait_until(lambda: documents.blobs.has(name), deadline=10, what="the blob")
    assert metrics.chunks == 1


def test_it_goes_on_where_it_was_and_from_the_start_beside_another_log(folder: Path, documents: Documents) -> None:
    names = [sha256(data).hexdigest() for data in (b"1", b"2")]
    say_chunks(folder, names[0], {0: b"1"}, 1)
    first, second, third = Metrics(), Metrics(), Metrics()
    with at_work(folder, lambda bus: BlobFollower(bus, documents, CLOCK, first).run):
        wait_until(lambda: first.chunks == 1, deadline=10, what="the first blob")
    say_chunks(folder, names[1], {0: b"2"}, 1)
    with at_work(folder, lambda bus: BlobFollower(bus, documents, CLOCK, second).run):
        wait_until(lambda: second.chunks == 1, deadline=10, what="the second blob")

    with closing(sqlite3.connect(folder / "bus.db")) as db, db:
        db.execute("DELETE FROM log")
        db.execute("DELETE FROM blobs WHERE offset > 0")
        db.execute("UPDATE blobs SET body = ?, key = ?", (b"3", blob_key(sha256(b"3").hexdigest(), 0, 1)))
    with at_work(folder, lambda bus: BlobFollower(bus, documents, CLOCK, third).run):
        wait_until(lambda: third.chunks == 1, deadline=10, what="the other log's blob")


# telemetry


def say_stats(folder: Path, node: str, *stats: tuple[datetime, dict[str, float]]) -> None:
    with closing(EmbeddedBus(folder, agent_user(node))) as bus:
        for n, (time, values) in enumerate(stats):
            bus.publish(message(stats_event(node, time, values, n))).result(10)


def stats_event(node: str, time: datetime, values: dict[str, float], n: int = 0, said_by: str = "") -> Event:
    return Event(
        id=Story(name=f"{node}-{n}", seat=False).id(),
        source=f"fleetbus/node/{node}",
        type="telemetry.stats",
        subject=node,
        time=time,
        actor=f"node:{said_by or node}",
        data=Stats(node=node, values=values),
    )


def message(event: Event) -> Message:
    return Message(key=routing_key(event), body=encode(event), id=event.id, type=event.type)


def nanoseconds(time: datetime) -> int:
    return int(time.timestamp() * 10**6) * 1_000


def line(series: Series, node: str, field: str = "cpu_percent") -> Line:
    now = nanoseconds(datetime.now(UTC))
    return series.query("node", [field], tags={"node": node}, start=now - 48 * HOUR, end=now + HOUR)[field]


def test_measurements_of_nodes_become_points(folder: Path, documents: Documents, series: Series) -> None:
    now = datetime.now(UTC).replace(microsecond=250_000)
    earlier = now - timedelta(seconds=10)
    say_stats(folder, "n1", (earlier, {"cpu_percent": 12.5}), (now, {"cpu_percent": 50.0, "load1": 1.5}))
    say_stats(folder, "n2", (now, {"cpu_percent": 99.0}))

    with at_work(folder, lambda bus: TelemetryFollower(bus, documents, series, CLOCK).run):
        wait_until(lambda: line(series, "n2"), deadline=10, what="the points")

    assert line(series, "n1") == [(nanoseconds(earlier), 12.5), (nanoseconds(now), 50.0)]
    assert line(series, "n1", "load1") == [(nanoseconds(now), 1.5)]
    assert line(series, "n2") == [(nanoseconds(now), 99.0)]


def test_telemetry_that_is_read_again_changes_nothing(folder: Path, documents: Documents, series: Series) -> None:
    say_stats(folder, "n1", (datetime.now(UTC), {"cpu_percent": 12.5}))
    for _ in range(2):
        metrics = Metrics()
        with at_work(folder, lambda bus, m=metrics: TelemetryFollower(bus, documents, series, CLOCK, m).run):  # type: ignore[misc]
            wait_until(lambda m=metrics: m.points == 1, deadline=10, what="the point")  # type: ignore[misc]
        documents.drop_namespace("projections")

    assert len(line(series, "n1")) == 1


def test_telemetry_that_was_read_is_not_read_again(folder: Path, documents: Documents, series: Series) -> None:
    now, first, second = datetime.now(UTC), Metrics(), Metrics()
    say_stats(folder, "n1", (now, {"cpu_percent": 12.5}))
    with at_work(folder, lambda bus: TelemetryFollower(bus, documents, series, CLOCK, first).run):
        wait_until(lambda: first.points == 1, deadline=10, what="the point")
    say_stats(folder, "n2", (now, {"cpu_percent": 1.0}))
    with at_work(folder, lambda bus: TelemetryFollower(bus, documents, series, CLOCK, second).run):
        wait_until(lambda: line(series, "n2"), deadline=10, what="the second point")

    assert second.points == 1


def test_a_position_beyond_the_end_of_a_new_stream_is_not_believed(
    folder: Path, documents: Documents, series: Series
) -> None:
    now = datetime.now(UTC)
    say_stats(folder, "n1", *[(now - timedelta(seconds=n), {"cpu_percent": 1.0}) for n in range(5)])
    first = Metrics()
    with at_work(folder, lambda bus: TelemetryFollower(bus, documents, series, CLOCK, first).run):
        wait_until(lambda: first.points == 5, deadline=10, what="the points")
    (folder / "telemetry.db").unlink()
    for rest in folder.glob("telemetry.db-*"):
        rest.unlink()
    say_stats(folder, "n2", (now, {"cpu_percent": 2.0}))

    with at_work(folder, lambda bus: TelemetryFollower(bus, documents, series, CLOCK).run):
        wait_until(lambda: line(series, "n2"), deadline=10, what="the point in the new stream")


def test_forged_and_broken_telemetry_is_left_out(folder: Path, documents: Documents, series: Series) -> None:
    now = datetime.now(UTC)
    with closing(EmbeddedBus(folder, agent_user("n2"))) as bus:
        forged = stats_event("n1", now, {"cpu_percent": 66.0}, said_by="n2")
        bus.publish(message(forged)).result(10)
        bus.publish(Message(key="telemetry.stats.node.n1", body=encode(stats_event("n1", now, {"a": 1.0})))).result(10)
        bus.publish(Message(key="telemetry.stats.node.n2", body=b"garbage")).result(10)
        heartbeat = Heartbeat(node="n2", boot=forged.id)
        bus.publish(message(replace(forged, type="telemetry.heartbeat", data=heartbeat))).result(10)
    say_stats(folder, "n1", (now + timedelta(days=365), {"cpu_percent": 77.0}), (now, {"cpu_percent": 12.5}))

    metrics = Metrics()
    with at_work(folder, lambda bus: TelemetryFollower(bus, documents, series, CLOCK, metrics).run):
        wait_until(lambda: line(series, "n1"), deadline=10, what="the true point")

    assert line(series, "n1") == [(nanoseconds(now), 12.5)]
    assert (metrics.points, metrics.points_dropped) == (1, 4)


def test_names_that_no_storage_takes_are_left_out_of_a_point_and_there_are_not_too_many() -> None:
    now = datetime.now(UTC)
    odd = stats_event("n1", now, {"cpu percent": 1.0, "": 2.0, "load1": 3.0})
    many = stats_event("n1", now, {f"f{n:04}": 1.0 for n in range(MAX_FIELDS + 50)})

    assert point_of(odd, odd.data, now) == Point("node", {"node": "n1"}, {"load1": 3.0}, time=nanoseconds(now))
    point = point_of(many, many.data, now)
    assert point is not None
    assert len(point.fields) == MAX_FIELDS
    assert point_of(odd, odd.data, now - MAX_AHEAD) is None


# the service


def test_the_service_keeps_views_blobs_and_series_up_to_date(
    folder: Path, documents: Documents, series: Series
) -> None:
    story = busy_story(jobs=3)
    story.write(folder)
    data = b"the whole output"
    say_chunks(folder, sha256(data).hexdigest(), {0: data}, 1)
    say_stats(folder, "n1", (datetime.now(UTC), {"cpu_percent": 12.5}))

    def make(bus: EmbeddedBus) -> Run:
        return lambda stop: run_projections(bus, documents, series, CLOCK, stop)

    with at_work(folder, make):
        assert seen(caught_up(documents, folder)) == fold_log(story.records())
        wait_until(lambda: documents.blobs.has(sha256(data).hexdigest()), deadline=10, what="the blob")
        wait_until(lambda: line(series, "n1"), deadline=10, what="the point")


def test_a_part_that_fails_is_started_again_until_it_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST_REST", 0.001)
    monkeypatch.setattr(service, "LAST_REST", 0.01)
    stop, metrics, tries = threading.Event(), Metrics(), list[int]()

    def run(stop: threading.Event) -> None:
        tries.append(1)
        if len(tries) > 10:
            stop.set()
        raise Unreachable("away") if len(tries) % 2 else ValueError("a mistake")

    keep_running("part", run, CLOCK, stop, metrics)

    assert len(tries) == 11
    assert metrics.restarts == 11


def test_a_part_whose_bus_was_closed_ends(folder: Path, documents: Documents) -> None:
    stop = threading.Event()
    bus = EmbeddedBus(folder, USER)
    part = BlobFollower(bus, documents, CLOCK)
    thread = threading.Thread(target=keep_running, args=("blobs", part.run, CLOCK, stop, Metrics()))
    thread.start()
    bus.close()
    thread.join(20)

    assert not thread.is_alive()
