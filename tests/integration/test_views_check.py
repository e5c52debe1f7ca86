"""Checking: views that are what the log says are equal, and what is not is named; nothing of it stays."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from bus.embedded import EmbeddedBus
from events.actors import PROJECTIONS as USER
from projections import check as checking
from projections import generation
from projections.admission_store import META
from projections.check import CheckReport, check, first_field
from projections.osis.documents import Documents, Ttl
from projections.osis.open import open_documents
from projections.projection import AnyProjection
from projections.registry import PROJECTIONS, versions
from projections.replay import ReplayRefused, digests, replay
from tests.contract.stores import mongodb_database
from tests.projecting import CLOCK, busy_story, caught_up, live, running, seen
from tests.waiting import wait_until

STORY = busy_story(seed=5)

ON = ["sqlite", pytest.param("mongodb", marks=pytest.mark.servers)]


@pytest.fixture(params=ON)
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Documents]:
    if request.param == "sqlite":
        with closing(open_documents(f"sqlite://{tmp_path}/views.db")) as opened:
            yield opened
        return
    with (
        mongodb_database(request.getfixturevalue("mongodb_url")) as url,
        closing(open_documents(url)) as opened,
    ):
        yield opened


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    busy_story(seed=5).write(tmp_path / "bus")
    return tmp_path / "bus"


@pytest.fixture
def bus(log_folder: Path) -> Iterator[EmbeddedBus]:
    with closing(EmbeddedBus(log_folder, USER)) as opened:
        yield opened


def shadows(documents: Documents) -> list[str]:
    return [name for name in documents.list_namespaces() if name.startswith(generation.CHECK_PREFIX)]


def _again(reports: list[CheckReport], bus: EmbeddedBus, documents: Documents) -> bool:
    """Checks once more; whether the views have moved on since the first time."""
    reports.append(check(bus, documents))
    return reports[-1].next_offset > reports[0].next_offset


def different(report: CheckReport) -> list[str]:
    return [view.view for view in report.views if not view.equal]


def test_views_that_are_what_the_log_says_are_equal_digest_by_digest(bus: EmbeddedBus, documents: Documents) -> None:
    replay(bus, documents)
    told: list[tuple[int, int]] = []

    report = check(bus, documents, progress=lambda done, total, _: told.append((done, total)))

    assert report.equal
    assert {view.view: view.live_digest for view in report.views} == digests(live(documents))
    assert all(view.live_digest == view.rebuilt_digest for view in report.views)
    assert {view.view: view.documents for view in report.views} == {
        name: len(found) for name, found in seen(live(documents)).items()
    }
    assert (report.next_offset, report.records) == (len(STORY.said), len(STORY.said))
    assert told
    assert told[0] == (len(STORY.said), len(STORY.said))
    assert shadows(documents) == []


def test_the_first_difference_is_named_with_document_field_and_both_values(
    bus: EmbeddedBus, documents: Documents
) -> None:
    replay(bus, documents)
    job = next(one for one in live(documents).iterate("jobs") if len(one["history"]) > 1)
    truth = job["history"][1]["type"]
    job["history"][1]["type"] = "event.job.dreamt"
    live(documents).put_many("jobs", [job])

    report = check(bus, documents)

    assert different(report) == ["jobs"]
    jobs = next(view for view in report.views if view.view == "jobs")
    assert jobs.first is not None
    assert (jobs.first.id, jobs.first.field) == (job["_id"], "history[1].type")
    assert (jobs.first.live, jobs.first.rebuilt, jobs.first.set_aside) == ("event.job.dreamt", truth, False)
    assert jobs.live_digest != jobs.rebuilt_digest
    assert jobs.differences == 1
    assert shadows(documents) == []


def test_a_document_too_many_and_one_too_few_are_differences(bus: EmbeddedBus, documents: Documents) -> None:
    replay(bus, documents)
    views = live(documents)
    views.delete_many("nodes", ["n1"])
    views.put_many("scripts", [{"_id": "ghost", "_at": 5}])

    report = check(bus, documents, projections=["nodes", "scripts"])

    assert different(report) == ["nodes", "scripts"]
    nodes, scripts = (view.first for view in report.views)
    assert nodes is not None
    assert (nodes.id, nodes.field, nodes.live) == ("n1", "", None)
    assert scripts is not None
    assert (scripts.id, scripts.rebuilt) == ("ghost", None)


def test_what_has_only_expired_is_no_difference(bus: EmbeddedBus, documents: Documents) -> None:
    # the story is told in a year to come: a negative time to live lets it be over today
    views: tuple[AnyProjection, ...] = tuple(
        replace(one, ttl=Ttl("ended_at", -3e9)) if one.name == "jobs" else one for one in PROJECTIONS
    )
    replay(bus, documents, views=views)
    before = len(seen(live(documents))["jobs"])
    live(documents).sweep("jobs")
    gone = before - len(seen(live(documents))["jobs"])

    report = check(bus, documents, views=views)
    without = check(bus, documents)

    jobs = next(view for view in report.views if view.view == "jobs")
    assert report.equal
    assert jobs.live_digest == jobs.rebuilt_digest
    assert jobs.expired > 0
    assert jobs.expired >= gone
    assert different(without) == ["jobs"]


@pytest.mark.parametrize("documents", ["sqlite"], indirect=True)
def test_views_that_move_on_meanwhile_are_equal_all_the_same(
    bus: EmbeddedBus, log_folder: Path, documents: Documents
) -> None:
    story = busy_story(seed=5)
    story._written = len(story.said)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            job = story.job("facts", node="n1")
            story.started(job)
            story.finished(job)
            story.maintenance("n2")
            story.write(log_folder)

    with running(log_folder, documents):
        caught_up(documents, log_folder)
        worker = threading.Thread(target=work)
        worker.start()
        try:
            reports: list[CheckReport] = []
            wait_until(
                lambda: _again(reports, bus, documents),
                deadline=30,
                what="a check of views that have moved on",
            )
        finally:
            stop.set()
            worker.join(30)

    assert [different(report) for report in reports] == [[]] * len(reports)


def test_a_document_ahead_of_the_checkpoint_that_nobody_moves_is_not_compared(
    bus: EmbeddedBus, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "SETTLE", 0.2)
    replay(bus, documents)
    node = live(documents).get("nodes", "n1")
    assert node is not None
    live(documents).put_many("nodes", [{**node, "_at": len(STORY.said), "state": "offline"}])

    report = check(bus, documents, projections=["nodes"])

    assert report.equal
    assert report.views[0].unsettled == 1


def test_there_must_be_views_of_this_log_and_this_version(bus: EmbeddedBus, documents: Documents) -> None:
    with pytest.raises(ReplayRefused, match="no live views"):
        check(bus, documents)
    replay(bus, documents)
    with pytest.raises(ReplayRefused, match="there is no view job; there are"):
        check(bus, documents, projections=["job"])
    checkpoint = live(documents).get(META, "checkpoint")
    assert checkpoint is not None
    live(documents).put_many(META, [{**checkpoint, "views": versions() | {"nodes": 0}}])
    with pytest.raises(ReplayRefused, match="another version"):
        check(bus, documents)
    assert shadows(documents) == []


def test_what_a_killed_check_left_behind_is_swept_after_a_day(bus: EmbeddedBus, documents: Documents) -> None:
    replay(bus, documents)
    generation.begin(documents, CLOCK.now() - timedelta(hours=23), "check", generation.CHECK_PREFIX)
    old = generation.begin(documents, CLOCK.now() - timedelta(hours=25), "check", generation.CHECK_PREFIX)

    assert generation.sweep(documents, CLOCK.now()) == [old.name]


@pytest.mark.parametrize(
    ("live", "rebuilt", "expected"),
    [
        ({"b": 1, "a": 2}, {"a": 2, "b": 3}, ("b", 1, 3)),
        ({"a": {"x": [1, {"y": 2}]}}, {"a": {"x": [1, {"y": 3}]}}, ("a.x[1].y", 2, 3)),
        ({"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2])),
        ({"a": None}, {}, ("a", None, None)),
        ({"a": 1}, {"a": True}, ("a", 1, True)),
    ],
)
def test_the_first_field_is_found_however_deep(
    live: object, rebuilt: object, expected: tuple[str, object, object]
) -> None:
    assert first_field(live, rebuilt) == expected
