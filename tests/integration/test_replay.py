"""Replay: the same log gives the same views, as often as one likes, and those of any earlier time."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bus.embedded import EmbeddedBus, EmbeddedReader
from bus.errors import Unreachable
from bus.ports import Record
from events.actors import PROJECTIONS as USER
from projections import catchup, generation
from projections import replay as replaying
from projections.admission_store import META, read_checkpoint
from projections.freshness import view_status
from projections.osis.documents import Documents
from projections.osis.sqlite_documents import SqliteDocuments
from projections.registry import versions
from projections.replay import ReplayRefused, ReplayReport, digests, replay
from tests.folding import Collections, fold_log
from tests.projecting import busy_story, caught_up, live, running, seen
from tests.stories import Story
from tests.waiting import wait_until


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Documents]:
    opened = SqliteDocuments(tmp_path / "views.db")
    yield opened
    opened.close()


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    return tmp_path / "bus"


@pytest.fixture
def bus(log_folder: Path) -> Iterator[EmbeddedBus]:
    """A bus on whose log a story was told."""
    busy_story(seed=5).write(log_folder)
    opened = EmbeddedBus(log_folder, USER)
    yield opened
    opened.close()


STORY = busy_story(seed=5)


def views_of(documents: Documents, report: ReplayReport) -> Collections:
    return seen(documents.namespace(report.generation))


def only(views: Collections, *names: str) -> Collections:
    return {name: documents if name in names else {} for name, documents in views.items()}


# all of it


def test_views_that_were_deleted_come_back_the_same(bus: EmbeddedBus, log_folder: Path, documents: Documents) -> None:
    with running(log_folder, documents):
        before = digests(caught_up(documents, log_folder))
    for name in documents.list_namespaces():
        documents.drop_namespace(name)

    report = replay(bus, documents)

    assert digests(live(documents)) == before
    assert set(before) == set(versions())
    assert (report.live, report.generation, report.next_offset) == (True, live(documents).name, len(STORY.said))
    assert (report.records, report.set_aside) == (len(STORY.said), 0)
    assert views_of(documents, report) == fold_log(STORY.records())


@pytest.mark.parametrize("until", [None, 150])
def test_what_a_process_of_its_own_writes_of_a_long_log_is_the_same(
    bus: EmbeddedBus, documents: Documents, monkeypatch: pytest.MonkeyPatch, until: int | None
) -> None:
    monkeypatch.setattr(catchup, "BATCH", 50)
    before = digests(documents.namespace(replay(bus, documents, until=until).generation))
    monkeypatch.setattr(catchup, "LONG_LOG", 0)

    assert digests(documents.namespace(replay(bus, documents, until=until).generation)) == before


def test_the_runner_goes_on_from_a_replay(bus: EmbeddedBus, log_folder: Path, documents: Documents) -> None:
    story = busy_story(seed=5)
    story._written = len(story.said)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)
        report = replay(bus, documents)
        story.script("more")
        story.write(log_folder)

        wait_until(
            lambda: seen(caught_up(documents, log_folder)) == fold_log(story.records()), deadline=20, what="the news"
        )

    assert live(documents).name == report.generation != before.name


def test_what_is_said_during_a_replay_is_in_its_views(
    bus: EmbeddedBus, log_folder: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "BATCH", 20)
    story = busy_story(seed=5)
    story._written = len(story.said)

    def meanwhile(next_offset: int, end: int, rate: float) -> None:
        if len(story.said) < len(STORY.said) + 5:
            story.tick()
            story.write(log_folder)

    report = replay(bus, documents, progress=meanwhile)

    assert len(story.said) == len(STORY.said) + 5
    assert views_of(documents, report) == fold_log(story.records())


def test_progress_is_told(bus: EmbeddedBus, documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "BATCH", 50)
    told: list[tuple[int, int, float]] = []

    replay(bus, documents, progress=lambda *progress: told.append(progress))

    assert [next_offset for next_offset, _, _ in told] == [*range(50, len(STORY.said), 50), len(STORY.said)]
    assert {end for _, end, _ in told} == {len(STORY.said)}
    assert all(rate > 0 for _, _, rate in told)


def stuttering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is away at every second read: nothing comes, and that is not the end of the log."""
    calls, read = iter(range(10**6)), EmbeddedReader.read

    def away(self: EmbeddedReader, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        return [] if next(calls) % 2 == 0 else read(self, limit, timeout)

    monkeypatch.setattr(EmbeddedReader, "read", away)
    monkeypatch.setattr(catchup, "BATCH", 50)


@pytest.mark.parametrize("until", [None, 150])
def test_a_replay_is_not_done_because_the_engine_was_away_for_a_moment(
    bus: EmbeddedBus, documents: Documents, monkeypatch: pytest.MonkeyPatch, until: int | None
) -> None:
    stuttering(monkeypatch)

    report = replay(bus, documents, until=until)

    assert views_of(documents, report) == fold_log(STORY.records()[: until and until + 1])


def test_a_log_that_never_gives_what_it_has_is_said_to_be_out_of_reach(
    bus: EmbeddedBus, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "MAX_EMPTY", 3)
    monkeypatch.setattr(catchup, "PATIENCE", 0.01)
    monkeypatch.setattr(EmbeddedReader, "read", lambda *_: [])

    with pytest.raises(Unreachable, match="ends at"):
        replay(bus, documents)
    assert view_status(documents).generation is None


def test_a_replay_takes_the_place_of_views_of_another_log(
    bus: EmbeddedBus, documents: Documents, tmp_path: Path
) -> None:
    busy_story(seed=6).write(tmp_path / "other")
    with closing(EmbeddedBus(tmp_path / "other", USER)) as other:
        foreign = replay(other, documents)

    report = replay(bus, documents)

    assert report.log != foreign.log
    assert seen(live(documents)) == fold_log(STORY.records())


def test_the_live_views_can_be_read_until_the_moment_of_the_swap(bus: EmbeddedBus, documents: Documents) -> None:
    before = replay(bus, documents)
    during: list[tuple[str | None, Collections]] = []

    replay(
        bus, documents, progress=lambda *_: during.append((view_status(documents).generation, seen(live(documents))))
    )

    assert during == [(before.generation, fold_log(STORY.records()))] * len(during)


def test_a_replay_that_slept_until_its_work_was_cleared_away_says_so(bus: EmbeddedBus, documents: Documents) -> None:
    before = replay(bus, documents)

    def cleared(*_: object) -> None:
        for name in documents.list_namespaces():
            if name.startswith("live-") and name != before.generation:
                documents.drop_namespace(name)

    with pytest.raises(generation.Dropped):
        replay(bus, documents, progress=cleared)
    assert live(documents).name == before.generation


# some of it


def test_one_view_is_made_anew_and_the_others_are_taken_over(
    bus: EmbeddedBus, log_folder: Path, documents: Documents
) -> None:
    with running(log_folder, documents):
        spoiled = caught_up(documents, log_folder)
    jobs = list(seen(spoiled)["jobs"])
    spoiled.put_many("jobs", [{"_id": jobs[0], "_at": 10**9, "state": "spoiled"}])
    spoiled.put_many("nodes", [{**seen(spoiled)["nodes"]["n1"], "hostname": "as it was"}])

    report = replay(bus, documents, projections=["jobs"])

    views = views_of(documents, report)
    assert views["jobs"] == fold_log(STORY.records())["jobs"]
    assert views["nodes"]["n1"]["hostname"] == "as it was"
    assert only(views, "events", "commands", "scripts") == only(
        fold_log(STORY.records()), "events", "commands", "scripts"
    )
    assert view_status(documents).views == versions()
    with running(log_folder, documents) as metrics:
        assert caught_up(documents, log_folder).name == report.generation
    assert metrics.rebuilds == 0


def test_what_is_said_while_the_others_are_copied_is_not_lost(
    bus: EmbeddedBus, log_folder: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live views move on while they are copied: some documents are copied newer than others."""
    story = busy_story(seed=5)
    story._written = len(story.said)
    monkeypatch.setattr(replaying, "COPY", 7)
    chunks = replaying._chunks

    def meanwhile(documents_: object) -> object:
        story.job("facts", node="n1")
        story.write(log_folder)
        caught_up(documents, log_folder)
        return chunks(documents_)  # type: ignore[arg-type]

    with running(log_folder, documents):
        caught_up(documents, log_folder)
        monkeypatch.setattr(replaying, "_chunks", meanwhile)
        report = replay(bus, documents, projections=["nodes", "scripts"])

    assert len(story.said) > len(STORY.said) + 5
    assert views_of(documents, report) == fold_log(story.records())


def test_a_view_that_there_is_not_is_refused_with_those_that_there_are(bus: EmbeddedBus, documents: Documents) -> None:
    with pytest.raises(ReplayRefused, match="there is no view job; there are: nodes, jobs, batches"):
        replay(bus, documents, projections=["jobs", "job"])
    with pytest.raises(ReplayRefused, match="no view was named"):
        replay(bus, documents, projections=[])


def test_one_view_alone_cannot_be_made_where_there_are_no_others(bus: EmbeddedBus, documents: Documents) -> None:
    with pytest.raises(ReplayRefused, match="no live views"):
        replay(bus, documents, projections=["jobs"])


def test_other_views_of_another_log_or_version_are_not_taken_over(
    bus: EmbeddedBus, documents: Documents, tmp_path: Path
) -> None:
    replay(bus, documents)
    checkpoint = live(documents).get(META, "checkpoint")
    assert checkpoint is not None
    live(documents).put_many(META, [{**checkpoint, "views": versions() | {"nodes": 0}}])
    with pytest.raises(ReplayRefused, match="another version"):
        replay(bus, documents, projections=["jobs"])

    busy_story(seed=6).write(tmp_path / "other")
    with closing(EmbeddedBus(tmp_path / "other", USER)) as other:
        replay(other, documents)
    with pytest.raises(ReplayRefused, match="not of this log"):
        replay(bus, documents, projections=["jobs"])


def test_an_empty_log_has_nothing_to_replay(log_folder: Path, documents: Documents) -> None:
    with closing(EmbeddedBus(log_folder, USER)) as bus:
        with closing(sqlite3.connect(log_folder / "bus.db")) as db, db:
            db.execute("DELETE FROM log")
        with pytest.raises(ReplayRefused, match="empty"):
            replay(bus, documents)


# an earlier time


@pytest.mark.parametrize("offset", [0, 1, 57, 10**9])
def test_until_an_offset_gives_the_views_as_they_were_then(bus: EmbeddedBus, documents: Documents, offset: int) -> None:
    before = replay(bus, documents)

    report = replay(bus, documents, until=offset)

    assert views_of(documents, report) == fold_log(STORY.records()[: offset + 1])
    assert report.generation.startswith("asof-")
    assert not report.live
    assert report.next_offset == min(offset + 1, len(STORY.said))
    assert live(documents).name == before.generation


def test_until_a_moment_stops_before_the_first_record_whose_log_time_is_later(
    bus: EmbeddedBus, documents: Documents
) -> None:
    # log time is told by facts of the seat only; what others say in between belongs to the time before
    places = [n for n, said in enumerate(STORY.said) if said.event and said.event.seattoken == STORY.token]
    place = next(n for n in places if n > 60)
    fact = STORY.said[place].event
    assert fact is not None

    exactly = replay(bus, documents, until=fact.time)
    before = replay(bus, documents, until=fact.time - timedelta(microseconds=1))

    following = next(n for n in places if n > place)
    assert exactly.next_offset == following
    assert exactly.log_time == fact.time
    assert views_of(documents, exactly) == fold_log(STORY.records()[:following])
    assert before.next_offset == place
    assert views_of(documents, before) == fold_log(STORY.records()[:place])


def test_until_a_moment_before_the_log_gives_what_came_before_log_time_began(
    bus: EmbeddedBus, documents: Documents
) -> None:
    report = replay(bus, documents, until=datetime.fromisoformat("1999-01-01T00:00:00Z"))

    assert (report.next_offset, report.log_time) == (1, None)


def test_views_until_a_moment_can_be_of_chosen_projections(bus: EmbeddedBus, documents: Documents) -> None:
    report = replay(bus, documents, until=100, projections=["jobs"])

    assert views_of(documents, report) == only(fold_log(STORY.records()[:101]), "jobs")
    saved = read_checkpoint(documents.namespace(report.generation))
    assert saved is not None
    assert set(saved.views) == {"jobs"}


def test_a_moment_without_a_zone_is_refused(bus: EmbeddedBus, documents: Documents) -> None:
    with pytest.raises(ReplayRefused, match="no time zone"):
        replay(bus, documents, until=datetime(2100, 1, 1))  # noqa: DTZ001  # that is the mistake


def test_the_same_moment_gives_the_same_views_in_a_log_that_went_on(
    bus: EmbeddedBus, log_folder: Path, documents: Documents
) -> None:
    story = Story(name="other")
    moment = STORY.now
    before = digests(documents.namespace(replay(bus, documents, until=moment).generation))
    story.now = STORY.now + timedelta(hours=1)
    story.token = STORY.token
    story.said.clear()
    for _ in range(10):
        story.tick()
    story.said.insert(0, STORY.said[0])
    story.write(log_folder)

    after = digests(documents.namespace(replay(bus, documents, until=moment).generation))

    assert after == before


def test_two_replays_at_once_leave_whole_views(bus: EmbeddedBus, log_folder: Path, tmp_path: Path) -> None:
    reports: list[ReplayReport] = []

    def run() -> None:
        with closing(SqliteDocuments(tmp_path / "views.db")) as documents:
            reports.append(replay(bus, documents))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    with closing(SqliteDocuments(tmp_path / "views.db")) as documents:
        assert live(documents).name in {report.generation for report in reports}
        assert all(views_of(documents, report) == fold_log(STORY.records()) for report in reports)
    assert len(reports) == 2
