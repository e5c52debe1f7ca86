"""The runner on the embedded bus and documents on SQLite: what is in the log is seen in the views, whatever happens."""

import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from bus.admission import AdmissionState, admit
from bus.checkpoint import resume
from bus.embedded import EmbeddedBus
from events.actors import PROJECTIONS as USER
from events.envelope import Event
from projections import catchup, generation, runner
from projections.admission_store import LIVE, META, load_admission, read_checkpoint
from projections.freshness import view_status, wait_at_least
from projections.health import Health, read_health
from projections.jobs import JOBS
from projections.osis import sqlite_database
from projections.osis.documents import Document, Documents
from projections.osis.errors import Unreachable
from projections.osis.sqlite_documents import SqliteDocuments, SqliteNamespace
from projections.projection import AnyProjection, Projection
from projections.registry import PROJECTIONS
from projections.replay import replay
from projections.set_aside import SET_ASIDE
from projections.writer import Batch, Writer
from tests.contract.bus_contract import EmbeddedEngine
from tests.folding import fold_log
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
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that looks around more often."""
    monkeypatch.setattr(runner, "SPEAK_EVERY", 0.1)
    monkeypatch.setattr(runner, "VERIFY_EVERY", 0.1)
    monkeypatch.setattr(runner, "LOOK_EVERY", 0.1)


def cut(folder: Path, records: int) -> None:
    """The last records of the log are gone, as after a restored backup."""
    with closing(sqlite3.connect(folder / "bus.db")) as db, db:
        db.execute("DELETE FROM log WHERE offset > (SELECT max(offset) FROM log) - ?", (records,))


def replaced(folder: Path, story: Story) -> None:
    """Another log lies where the old one was."""
    with closing(sqlite3.connect(folder / "bus.db")) as db, db:
        db.execute("DELETE FROM log")
        rows = [(record.offset, 0.0, record.key, record.user, record.body) for record in story.records()]
        db.executemany("INSERT INTO log (offset, at, key, user, body) VALUES (?, ?, ?, ?, ?)", rows)


def health_of(documents: Documents) -> Health:
    """The last word of the runner."""
    health = wait_until(lambda: read_health(documents), deadline=10, what="a word of the runner")
    assert health is not None
    return health


def now_versions(*changed: str) -> tuple[AnyProjection, ...]:
    """The projections, with the version of some of them raised."""
    return tuple(replace(one, version=one.version + 1) if one.name in changed else one for one in PROJECTIONS)


# following


def test_what_is_in_the_log_is_seen_in_the_views(log_folder: Path, documents: Documents) -> None:
    story = busy_story()
    story.write(log_folder)

    with running(log_folder, documents) as metrics:
        views = caught_up(documents, log_folder)

        assert seen(views) == fold_log(story.records())
    assert metrics.records == len(story.said)
    assert min(metrics.admitted, metrics.duplicate, metrics.void, metrics.bad) > 0


def test_what_is_said_while_it_runs_is_seen_soon(log_folder: Path, documents: Documents) -> None:
    story = Story()
    story.write(log_folder)
    with running(log_folder, documents):
        views = caught_up(documents, log_folder)
        story.script("facts")
        story.node("n1")
        job = story.job("facts", node="n1")

        engine = EmbeddedEngine(log_folder)
        with closing(engine):
            story.publish(engine.bus)

        assert wait_at_least(documents, view_status(documents).log, len(story.said), timeout=60)
        assert live(documents).name == views.name
        assert views.get("jobs", job) == fold_log(story.records())["jobs"][job]


def test_a_runner_that_starts_again_goes_on_where_it_was(log_folder: Path, documents: Documents) -> None:
    story = busy_story(jobs=10)
    story.write(log_folder)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)
    for job in ("one", "two"):
        story.script(job)
    story.write(log_folder)

    with running(log_folder, documents) as metrics:
        after = caught_up(documents, log_folder)

    assert after.name == before.name
    assert metrics.records == 4
    assert seen(after) == fold_log(story.records())


def test_an_empty_log_is_waited_for(log_folder: Path, documents: Documents) -> None:
    story = Story()
    with running(log_folder, documents, before=lambda: cut(log_folder, 1)):
        wait_until(lambda: health_of(documents).why == "the log is empty", deadline=10, what="the runner's word")
        story.write(log_folder)

        assert seen(caught_up(documents, log_folder)) == fold_log(story.records())


def test_idle_it_uses_next_to_no_processor_time(log_folder: Path, documents: Documents) -> None:
    Story().write(log_folder)
    others = {thread.id for thread in psutil.Process().threads()}

    def spent() -> float:
        """Seconds of the processor, of the runner's threads alone."""
        threads = psutil.Process().threads()
        return sum(one.user_time + one.system_time for one in threads if one.id not in others)

    with running(log_folder, documents):
        caught_up(documents, log_folder)
        before, began = spent(), time.monotonic()
        threading.Event().wait(2.0)

        # a loop that spins would use all of it
        assert spent() - before < (time.monotonic() - began) / 4


# the log is not the same any more


@pytest.mark.parametrize("while_it_runs", [False, True])
@pytest.mark.usefixtures("eager")
def test_a_log_cut_behind_the_checkpoint_is_said_to_have_diverged_and_the_views_are_rebuilt(
    log_folder: Path, documents: Documents, while_it_runs: bool
) -> None:
    story = busy_story()
    story.write(log_folder)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)
        if while_it_runs:
            cut(log_folder, 10)
            caught_up(documents, log_folder)
    if not while_it_runs:
        cut(log_folder, 10)
        with running(log_folder, documents):
            caught_up(documents, log_folder)
    after = live(documents)

    assert after.name != before.name
    assert seen(after) == fold_log(story.records()[:-10])
    assert "the log ends at" in health_of(documents).last_diverged
    assert view_status(documents).diverged == ""


@pytest.mark.parametrize("while_it_runs", [False, True])
@pytest.mark.usefixtures("eager")
def test_views_of_another_log_are_replaced(log_folder: Path, documents: Documents, while_it_runs: bool) -> None:
    busy_story(seed=1).write(log_folder)
    other = busy_story(seed=2)
    with running(log_folder, documents):
        caught_up(documents, log_folder)
        if while_it_runs:
            replaced(log_folder, other)
            caught_up(documents, log_folder)
    if not while_it_runs:
        replaced(log_folder, other)
        with running(log_folder, documents):
            caught_up(documents, log_folder)
    after = live(documents)

    assert seen(after) == fold_log(other.records())
    assert "the checkpoint belongs to log" in health_of(documents).last_diverged


def test_until_the_rebuild_is_done_the_status_says_that_the_log_diverged(
    log_folder: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy_story(seed=1).write(log_folder)
    with running(log_folder, documents):
        caught_up(documents, log_folder)
    replaced(log_folder, busy_story(seed=2))
    go_on = threading.Event()
    swap = generation.swap
    monkeypatch.setattr(generation, "swap", lambda *args: go_on.wait(120) and swap(*args))
    with running(log_folder, documents):
        wait_until(lambda: view_status(documents).diverged, deadline=10, what="the divergence")
        status = view_status(documents)
        go_on.set()
        caught_up(documents, log_folder)

    assert "this is log" in status.diverged
    assert status.doing == "rebuilding"


def test_views_admitted_by_other_rules_are_rebuilt(log_folder: Path, documents: Documents) -> None:
    story = busy_story(jobs=5)
    story.write(log_folder)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)
    document = before.get(META, "checkpoint")
    assert document is not None
    document["checkpoint"]["admission"] = 0
    before.put_many(META, [document])

    with running(log_folder, documents):
        wait_until(lambda: live(documents).name != before.name, deadline=10, what="a new generation")
        assert seen(caught_up(documents, log_folder)) == fold_log(story.records())
    assert "admission rules 0" in health_of(documents).last_diverged


# the projections are not the same any more


def test_a_view_whose_version_changed_is_rebuilt(log_folder: Path, documents: Documents) -> None:
    story = busy_story(jobs=5)
    story.write(log_folder)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)

    with running(log_folder, documents, now_versions("jobs")):
        wait_until(lambda: live(documents).name != before.name, deadline=10, what="a new generation")
        after = caught_up(documents, log_folder)

    assert seen(after) == fold_log(story.records())
    assert view_status(documents).views["jobs"] == JOBS.version + 1


@pytest.mark.usefixtures("eager")
def test_old_code_that_still_runs_stands_aside_when_new_code_has_rebuilt(
    log_folder: Path, documents: Documents
) -> None:
    story = busy_story(jobs=5)
    story.write(log_folder)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)
        with running(log_folder, documents, now_versions("jobs")):
            wait_until(lambda: live(documents).name != before.name, deadline=10, what="a new generation")
            new = caught_up(documents, log_folder)
        aside = "the old runner to stand aside"
        wait_until(lambda: health_of(documents).doing == "standing aside", deadline=10, what=aside)
        said = health_of(documents)
        story.tick()
        story.write(log_folder)
        checkpoint = read_checkpoint(new)

    assert f"jobs {JOBS.version + 1}, here {JOBS.version}" in said.why
    assert live(documents).name == new.name
    assert checkpoint is not None
    assert checkpoint.checkpoint.next_offset == len(story.said) - 1


# a projection fails


def failing_on(event_id: str) -> list[AnyProjection]:
    """The projections, but that of jobs fails on this event."""
    jobs = next(one for one in PROJECTIONS if one.name == "jobs")
    assert isinstance(jobs, Projection)
    fold, fold_many = jobs.fold, jobs.fold_many
    assert fold_many is not None

    def failing(document: Document | None, event: Event, offset: int) -> Document | None:
        if event.id == event_id:
            raise KeyError("a mistake")
        return fold(document, event, offset)

    def failing_on_many(document: Document | None, said: Sequence[tuple[Event, int]]) -> tuple[Document | None, int]:
        if any(event.id == event_id for event, _ in said):
            raise KeyError("a mistake")
        return fold_many(document, said)

    broken = replace(jobs, fold=failing, fold_many=failing_on_many)
    return [broken if one is jobs else one for one in PROJECTIONS]


def test_a_fold_that_fails_sets_its_document_aside_and_all_others_go_on(log_folder: Path, documents: Documents) -> None:
    story = busy_story()
    job = story.job("facts", node="n1")
    started = story.started(job)
    place = len(story.said) - 1
    story.finished(job)
    story.job("facts", node="n1")
    story.write(log_folder)

    with running(log_folder, documents, failing_on(started.id)) as metrics:
        views = caught_up(documents, log_folder)

    expected = fold_log(story.records())
    expected["jobs"][job] = fold_log(story.records()[:place])["jobs"][job]
    assert seen(views) == expected
    assert expected["jobs"][job]["state"] == "queued"
    assert list(views.iterate(SET_ASIDE)) == [
        {
            "_id": f"jobs/{job}",
            "_at": place,
            "view": "jobs",
            "key": job,
            "event": started.id,
            "offset": place,
            "error": "KeyError: 'a mistake'",
        }
    ]
    assert (view_status(documents).set_aside, metrics.set_aside, metrics.left_alone) == (1, 1, 1)


def test_a_document_stays_aside_after_a_restart_also_by_mended_code_until_a_replay(
    log_folder: Path, documents: Documents
) -> None:
    story = Story()
    story.script("facts")
    story.node("n1")
    job = story.job("facts", node="n1")
    started = story.started(job)
    place = len(story.said) - 1
    story.write(log_folder)
    with running(log_folder, documents, failing_on(started.id)):
        caught_up(documents, log_folder)
    as_it_was = fold_log(story.records()[:place])["jobs"][job]
    story.finished(job)
    story.write(log_folder)

    with running(log_folder, documents) as metrics:
        aside = seen(caught_up(documents, log_folder))["jobs"][job]
    with closing(EmbeddedBus(log_folder, USER)) as bus:
        report = replay(bus, documents)

    assert aside == as_it_was
    assert (metrics.set_aside, metrics.left_alone) == (1, 1)
    assert report.set_aside == 0
    assert seen(live(documents)) == fold_log(story.records())
    assert view_status(documents).set_aside == 0


def test_a_replay_of_other_views_leaves_what_is_set_aside_as_it_is(log_folder: Path, documents: Documents) -> None:
    story = Story()
    story.script("facts")
    story.node("n1")
    job = story.job("facts", node="n1")
    started = story.started(job)
    story.write(log_folder)
    with running(log_folder, documents, failing_on(started.id)):
        before = seen(caught_up(documents, log_folder))["jobs"][job]
    story.finished(job)
    story.write(log_folder)

    with closing(EmbeddedBus(log_folder, USER)) as bus:
        others = replay(bus, documents, projections=["nodes"])
        after = seen(live(documents))["jobs"][job]
        mended = replay(bus, documents, projections=["jobs"])

    assert (others.set_aside, after) == (1, before)
    assert mended.set_aside == 0
    assert seen(live(documents)) == fold_log(story.records())


@pytest.mark.parametrize("crash", ["before the marker", "before the document"])
def test_a_crash_does_not_part_a_document_from_the_marker_that_it_is_set_aside(
    log_folder: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    story = Story()
    story.script("facts")
    story.node("n1")
    job = story.job("facts", node="n1")
    started = story.started(job)
    place = len(story.said) - 1
    story.finished(job)
    story.write(log_folder)
    put = SqliteNamespace.put_many
    crashes = iter([True])

    def dying(
        namespace: SqliteNamespace, collection: str, found: Iterable[Mapping[str, Any]], **how: Collection[str]
    ) -> int:
        if collection == (SET_ASIDE if crash == "before the marker" else "jobs") and next(crashes, False):
            raise Unreachable("the power is gone")
        return put(namespace, collection, found, **how)

    monkeypatch.setattr(SqliteNamespace, "put_many", dying)
    with running(log_folder, documents, failing_on(started.id), restart=True) as metrics:
        views = caught_up(documents, log_folder)

    assert metrics.restarts == 1
    assert seen(views)["jobs"][job] == fold_log(story.records()[:place])["jobs"][job]
    assert [(one["key"], one["offset"]) for one in views.iterate(SET_ASIDE)] == [(job, place)]


def test_a_document_reflects_the_whole_of_a_record_or_nothing_of_it(log_folder: Path, documents: Documents) -> None:
    """An event about one document in several parts, of which the second fails."""
    story = Story()
    story.node("n1")
    story.write(log_folder)

    def fold(document: Document | None, event: Event, offset: int) -> Document:
        parts = [*(document or {}).get("parts", []), event.subject]
        if len(parts) == 2:
            raise ValueError("too many")
        return {"parts": parts}

    halves = Projection(
        name="halves",
        version=1,
        handles=frozenset({"event.node.connected"}),
        split=lambda event: [event, event],
        keys=lambda event: [event.data.node],
        fold=fold,
    )
    with running(log_folder, documents, [*PROJECTIONS, halves]):
        views = caught_up(documents, log_folder)

    assert list(views.iterate("halves")) == []
    assert [one["_id"] for one in views.iterate(SET_ASIDE)] == ["halves/n1"]


def test_keys_that_fail_set_the_place_in_the_log_aside(log_folder: Path, documents: Documents) -> None:
    story = Story()
    story.write(log_folder)

    def failing(event: Event) -> list[str]:
        raise ValueError("no keys")

    broken = Projection(
        name="broken", version=1, handles=frozenset({"event.seat.taken"}), keys=failing, fold=lambda *_: None
    )
    with running(log_folder, documents, [*PROJECTIONS, broken]):
        views = caught_up(documents, log_folder)

    assert [(one["_id"], one["error"]) for one in views.iterate(SET_ASIDE)] == [("broken/@1", "ValueError: no keys")]


def test_a_document_that_no_storage_takes_does_not_keep_the_others_back(log_folder: Path, documents: Documents) -> None:
    story = Story()
    for node in ("n1", "n2", "n3"):
        story.node(node)
    story.write(log_folder)

    def fold(document: Document | None, event: Event, offset: int) -> Document:
        return {"text": "x" * (13_000_000 if event.data.node == "n2" else 13)}

    bulky = Projection(
        name="bulky",
        version=1,
        handles=frozenset({"event.node.connected"}),
        keys=lambda event: [event.data.node],
        fold=fold,
    )
    with running(log_folder, documents, [*PROJECTIONS, bulky]):
        views = caught_up(documents, log_folder)

    assert [one["_id"] for one in views.iterate("bulky")] == ["n1", "n3"]
    assert [one["_id"] for one in views.iterate(SET_ASIDE)] == ["bulky/n2"]


# several processes


@pytest.mark.usefixtures("eager")
def test_two_runners_at_once_make_the_same_views_as_one(log_folder: Path, tmp_path: Path) -> None:
    story = busy_story(seed=3, jobs=60)
    half = len(story.said) // 2
    whole, story.said = story.said, story.said[:half]
    story.write(log_folder)
    one, other = SqliteDocuments(tmp_path / "views.db"), SqliteDocuments(tmp_path / "views.db")
    with closing(one), closing(other), running(log_folder, one, restart=True), running(log_folder, other, restart=True):
        while len(story.said) < len(whole):
            story.said = whole[: len(story.said) + 7]
            story.write(log_folder)
            time.sleep(0.01)
        story.said = whole
        wait_until(
            lambda: seen(caught_up(one, log_folder)) == fold_log(story.records()), deadline=30, what="the right views"
        )


@pytest.mark.usefixtures("eager")
def test_a_generation_that_lost_its_namespace_is_rebuilt(log_folder: Path, documents: Documents) -> None:
    story = busy_story(jobs=5)
    story.write(log_folder)
    with running(log_folder, documents):
        before = caught_up(documents, log_folder)
    documents.drop_namespace(before.name)

    with running(log_folder, documents):
        wait_until(lambda: documents.pointed(LIVE) != before.name, deadline=10, what="a new generation")
        assert seen(caught_up(documents, log_folder)) == fold_log(story.records())


def test_a_dropped_generation_never_becomes_live(documents: Documents) -> None:
    slept = generation.begin(documents, datetime(2026, 1, 1, tzinfo=UTC), "a test")
    kept = generation.begin(documents, datetime.now(UTC), "a test")
    slept.put_many("jobs", [{"_id": "j"}])

    assert generation.sweep(documents, datetime.now(UTC)) == [slept.name]
    assert documents.list_namespaces() == [kept.name]

    slept.put_many("jobs", [{"_id": "j"}])
    with pytest.raises(generation.Dropped):
        generation.swap(documents, slept.name)
    assert generation.live(documents) is None


def test_the_live_generation_is_never_swept(documents: Documents) -> None:
    old = generation.begin(documents, datetime(2026, 1, 1, tzinfo=UTC), "a test")
    generation.swap(documents, old.name)
    documents.namespace("portal").put_many("users", [{"_id": "u"}])

    assert generation.sweep(documents, datetime.now(UTC)) == []


# the storage is away


@pytest.mark.usefixtures("eager")
def test_while_the_storage_is_locked_nothing_is_lost(
    log_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_database, "BUSY_SECONDS", 0.5)
    story = busy_story()
    whole, story.said = story.said, story.said[: len(story.said) // 2]
    story.write(log_folder)
    documents = SqliteDocuments(tmp_path / "views.db")
    with closing(documents), running(log_folder, documents, restart=True) as metrics:
        caught_up(documents, log_folder)
        with closing(sqlite3.connect(tmp_path / "views.db", isolation_level=None)) as locking:
            locking.execute("BEGIN IMMEDIATE")
            story.said = whole
            story.write(log_folder)
            wait_until(lambda: metrics.restarts >= 2, deadline=20, what="the runner to have failed twice")
            locking.execute("ROLLBACK")

        assert seen(caught_up(documents, log_folder)) == fold_log(story.records())


def test_a_rebuild_that_was_interrupted_goes_on_where_it_was(
    log_folder: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "BATCH", 50)
    story = busy_story(jobs=60)
    story.write(log_folder)
    calls, store = iter(range(1_000)), Writer.store

    def interrupted(self: Writer, batch: Batch) -> None:
        if next(calls) in (3, 4):
            raise Unreachable("the storage is away")
        store(self, batch)

    monkeypatch.setattr(Writer, "store", interrupted)
    with running(log_folder, documents, restart=True) as metrics:
        views = caught_up(documents, log_folder)

    assert seen(views) == fold_log(story.records())
    assert documents.list_namespaces() == [views.name, "projections"]
    assert (metrics.rebuilds, metrics.restarts, metrics.records) == (1, 2, len(story.said))


# for who reads the views


def test_a_reader_goes_on_from_what_the_live_views_know(log_folder: Path, documents: Documents) -> None:
    story = busy_story()
    story.write(log_folder)
    assert load_admission(documents) is None
    with running(log_folder, documents):
        caught_up(documents, log_folder)

    loaded = load_admission(documents)

    assert loaded is not None
    state, checkpoint = loaded
    plain = AdmissionState()
    for record in story.records():
        admit(plain, record)
    assert told(state) == told(plain)
    story.again(story.tick())
    story.write(log_folder)
    with closing(EmbeddedBus(log_folder, USER)) as bus, resume(bus.stream("log"), checkpoint) as reader:
        verdicts = [admit(state, record) for record in reader.read()]
    assert [type(verdict).__name__ for verdict in verdicts] == ["Admitted", "Duplicate"]


def told(state: AdmissionState) -> dict[str, Any]:
    """Everything that later verdicts depend on."""
    return {
        "producers": {key: (one.high, sorted(one.gaps), one.offset) for key, one in state.producers.items()},
        "ids": state.ids,
        "window": [seen.at for seen in state.window],
        "head": state.head(),
    }


def test_a_status_tells_where_the_views_are(log_folder: Path, documents: Documents) -> None:
    assert view_status(documents).generation is None
    story = busy_story(jobs=3)
    story.write(log_folder)
    with running(log_folder, documents):
        views = caught_up(documents, log_folder)
        wait_until(lambda: health_of(documents).doing == "following", deadline=10, what="its word")
        status = view_status(documents)

    assert (status.generation, status.next_offset, status.set_aside) == (views.name, len(story.said), 0)
    assert status.log_time == max(said.event.time for said in story.said if said.event and said.event.seattoken)
    assert status.at is not None
    assert abs((status.at - datetime.now(UTC)).total_seconds()) < 3600
    assert view_status(documents).doing == "stopped"


def test_waiting_for_the_views_ends_when_the_time_is_up(log_folder: Path, documents: Documents) -> None:
    story = busy_story(jobs=3)
    story.write(log_folder)
    with running(log_folder, documents):
        caught_up(documents, log_folder)
        log = view_status(documents).log

        assert wait_at_least(documents, log, len(story.said), timeout=0)
        assert not wait_at_least(documents, log, len(story.said) + 1, timeout=0.05)
        assert not wait_at_least(documents, "another log", 0, timeout=0.05)
