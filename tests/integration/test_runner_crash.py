"""One generation being written: in any batches, killed anywhere, by two at once, it comes to the same.

The reference is a fold of one record after the other, all in memory (`tests.folding`).
"""

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bus import admission
from bus.admission import AdmissionState, admit
from bus.checkpoint import log_id
from bus.clock import SystemClock
from bus.ports import Record
from projections import admission_store, catchup
from projections.admission_store import META, AdmissionStore, load_admission
from projections.catchup import CatchUp
from projections.generation import begin, swap
from projections.osis.errors import BadDocument
from projections.osis.sqlite_documents import SqliteDocuments, SqliteNamespace
from projections.registry import PROJECTIONS
from projections.set_aside import read_marker
from projections.writer import Overtaken, Writer
from projections.written import Written
from tests.folding import fold_log
from tests.projecting import busy_story, seen
from tests.stories import Story

NAME = "live-test"
CLOCK = SystemClock()
STORY = busy_story(seed=7, jobs=16)
RECORDS = STORY.records()
LOG = log_id(RECORDS[0])
EXPECTED = fold_log(RECORDS)


class Killed(Exception):
    """The process is gone at this point."""


class Fragile(SqliteNamespace):
    """A namespace under a process that is killed in its nth write, half of which is done."""

    def __init__(self, documents: SqliteDocuments, writes: int) -> None:
        super().__init__(NAME, documents)
        self.left = writes

    def put_many(
        self, collection: str, documents: Iterable[Mapping[str, Any]], *, new: Collection[str] = frozenset()
    ) -> int:
        found = list(documents)
        if self.left <= 0:
            super().put_many(collection, found[: len(found) // 2])
            raise Killed
        self.left -= 1
        return super().put_many(collection, found, new=new)

    def delete_many(self, collection: str, ids: Iterable[str], *, at: int | None = None) -> int:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        return super().delete_many(collection, ids, at=at)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written behind the checkpoint is written often, and ids are forgotten sooner than the story ends."""
    monkeypatch.setattr(admission_store, "WRITE_BEHIND", 8)


@contextmanager
def storage() -> Iterator[SqliteDocuments]:
    folder = Path(mkdtemp())
    with closing(SqliteDocuments(folder / "views.db")) as documents:
        yield documents
    shutil.rmtree(folder)


def writer(documents: SqliteDocuments) -> Writer:
    """A process begins where the last one left off."""
    made = Writer(documents.namespace(NAME), PROJECTIONS, CLOCK)
    made.load()
    return made


def position(made: Writer) -> int:
    return made.checkpoint.next_offset if made.checkpoint else 0


def write_on(made: Writer, size: int = 25) -> None:
    """To the end of the log."""
    while records := RECORDS[position(made) :][:size]:
        made.write(records, LOG)


def knows(state: AdmissionState) -> dict[str, Any]:
    """Everything that later verdicts depend on."""
    return {
        "producers": {key: (one.high, sorted(one.gaps), one.offset) for key, one in state.producers.items()},
        "ids": state.ids,
        "window": [one.at for one in state.window],
        "head": state.head(),
    }


def knows_at(offset: int) -> dict[str, Any]:
    state = AdmissionState()
    for record in RECORDS[:offset]:
        admit(state, record)
    return knows(state)


KNOWS = knows_at(len(RECORDS))


def assert_all_is_well(documents: SqliteDocuments) -> None:
    namespace = documents.namespace(NAME)
    assert seen(namespace) == EXPECTED
    found = AdmissionStore(namespace).load()
    assert found is not None
    assert knows(found[0]) == KNOWS


def test_the_story_has_everything_in_it() -> None:
    """Else these tests would show little."""
    assert {one["verdict"] for one in EXPECTED["events"].values()} == {"admitted", "duplicate", "void", "bad"}
    assert {"succeeded", "failed", "queued", "waiting"} <= {one["state"] for one in EXPECTED["jobs"].values()}
    assert len(KNOWS["ids"]) < len({one for one in EXPECTED["events"] if len(one) == 36})
    assert len(KNOWS["producers"]) > 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_any_split_into_batches_gives_the_same_documents(sizes: list[int]) -> None:
    with storage() as documents:
        made = writer(documents)
        for size in sizes:
            if records := RECORDS[position(made) :][:size]:
                made.write(records, LOG)
        write_on(made)

        assert_all_is_well(documents)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, len(RECORDS) - 1), min_size=1, max_size=6, unique=True))
def test_a_prefix_and_then_the_rest_is_the_same_as_all_of_it(cuts: list[int]) -> None:
    with storage() as documents:
        for end in [*sorted(cuts), len(RECORDS)]:
            made = writer(documents)
            made.write(RECORDS[position(made) : end], LOG)
            assert knows(made.state) == knows_at(end)

        assert_all_is_well(documents)


def writes_in_a_whole_run() -> int:
    with storage() as documents:
        namespace = Fragile(documents, 1_000_000)
        write_on(Writer(namespace, PROJECTIONS, CLOCK))
        return 1_000_000 - namespace.left


@pytest.mark.parametrize("part", range(4))
def test_killed_in_any_write_the_next_process_repeats_what_was_not_finished_and_changes_nothing(part: int) -> None:
    for writes in range(part, writes_in_a_whole_run(), 4):
        with storage() as documents:
            with pytest.raises(Killed):
                write_on(Writer(Fragile(documents, writes), PROJECTIONS, CLOCK))
            found = AdmissionStore(documents.namespace(NAME)).load()
            if found is not None:
                assert knows(found[0]) == knows_at(found[1].checkpoint.next_offset)

            write_on(writer(documents), size=40)

            assert_all_is_well(documents)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=12))
@example([(6, 8), (4, 2), (2, 1)])  # what a process had read was changed by it before it was written again
def test_killed_again_and_again_it_comes_to_the_same(lives: list[tuple[int, int]]) -> None:
    with storage() as documents:
        for writes, size in lives:
            made = Writer(Fragile(documents, writes), PROJECTIONS, CLOCK)
            try:
                made.load()
                write_on(made, size)
            except Killed:
                continue
        write_on(writer(documents))

        assert_all_is_well(documents)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 40)), min_size=1, max_size=30))
def test_two_processes_that_write_the_same_generation_in_turns_come_to_the_same(turns: list[tuple[int, int]]) -> None:
    with storage() as documents:
        writers = [writer(documents), writer(documents)]
        for which, size in turns:
            records = RECORDS[position(writers[which]) :][:size]
            try:
                if records:
                    writers[which].write(records, LOG)
            except Overtaken:
                writers[which] = writer(documents)
            found = AdmissionStore(documents.namespace(NAME)).load()
            assert found is not None
            assert knows(found[0]) == knows_at(found[1].checkpoint.next_offset)
        write_on(writer(documents))

        assert_all_is_well(documents)


def test_a_process_that_slept_before_its_checkpoint_is_told_that_it_was_overtaken() -> None:
    with storage() as documents:
        frozen, awake = writer(documents), writer(documents)
        batch = frozen.fold(RECORDS[:20], LOG)
        write_on(awake)

        with pytest.raises(Overtaken):
            frozen.store(batch)

        assert_all_is_well(documents)


class Listed:
    """A log that is read piece by piece."""

    def __init__(self, start: int) -> None:
        self._rest = RECORDS[start:]

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        records, self._rest = self._rest[:limit], self._rest[limit:]
        return records

    def next_offset(self) -> int:
        return len(RECORDS)


def rebuild(made: Writer) -> None:
    """To the end of the log, each batch written while the next is folded."""
    log: Any = Listed(position(made))
    assert CatchUp(log, log, made, LOG, CLOCK).run(lambda _: True)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "BATCH", 25)


@pytest.mark.usefixtures("small_batches")
def test_a_rebuild_that_writes_behind_comes_to_the_same() -> None:
    with storage() as documents:
        made = Writer(documents.namespace(NAME), PROJECTIONS, CLOCK)
        made.begin()
        rebuild(made)

        assert_all_is_well(documents)
        assert made.metrics.records == len(RECORDS)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("apart", [1, 5])
def test_a_rebuild_that_is_killed_again_and_again_while_it_writes_behind_comes_to_the_same(apart: int) -> None:
    with storage() as documents:
        for writes in range(1, 400, apart):
            made = Writer(Fragile(documents, writes), PROJECTIONS, CLOCK)
            if made.load() is None:
                made.begin()
            try:
                rebuild(made)
                break
            except Killed:
                continue

        assert_all_is_well(documents)


def test_a_document_that_the_storage_refuses_keeps_the_next_batch_from_building_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batch on top of it is folded already when the refusal comes: it is folded again."""
    monkeypatch.setattr(catchup, "BATCH", 1)
    refused = next(key for key, job in EXPECTED["jobs"].items() if len(job["history"]) > 2)
    second = EXPECTED["jobs"][refused]["history"][1]["offset"]
    with storage() as documents:
        made = Writer(Refusing(documents, refused), PROJECTIONS, CLOCK)
        made.begin()
        rebuild(made)

        document, marker = made.namespace.get("jobs", refused), read_marker(made.namespace, "jobs", refused)
        assert document is not None
        assert len(document["history"]) == 1
        assert marker is not None
        assert marker.offset == second


class Refusing(SqliteNamespace):
    """Does not take one document while it has two facts."""

    def __init__(self, documents: SqliteDocuments, key: str) -> None:
        super().__init__(NAME, documents)
        self._key = key

    def put_many(
        self, collection: str, documents: Iterable[Mapping[str, Any]], *, new: Collection[str] = frozenset()
    ) -> int:
        found = list(documents)
        if any(one["_id"] == self._key and len(one.get("history", ())) == 2 for one in found):
            raise BadDocument("too large")
        return super().put_many(collection, found, new=new)


def test_what_was_written_is_asked_for_and_hardly_anything_else() -> None:
    written = Written()
    written.add("jobs", [f"job-{n}" for n in range(10_000)])

    assert len(written.among("jobs", [f"job-{n}" for n in range(10_000)])) == 10_000
    assert len(written.among("jobs", [f"other-{n}" for n in range(10_000)])) < 100
    assert len(written.among("nodes", [f"job-{n}" for n in range(10_000)])) < 100


def test_a_chunk_of_ids_is_not_replaced_by_a_shorter_one_of_a_process_that_slept() -> None:
    """Both begin the same chunk; the one that is ahead has moved on when the other writes it down."""
    story = Story()
    for _ in range(60):
        story.tick()
    records = story.records()
    with storage() as documents:
        slow, fast = writer(documents), writer(documents)
        slow.write(records[:15], LOG)
        fast.write(records[:30], LOG)
        fast.write(records[30:45], LOG)
        fast.write(records[45:50], LOG)
        with pytest.raises(Overtaken):
            slow.write(records[15:25], LOG)
        found = AdmissionStore(documents.namespace(NAME)).load()

    assert found is not None
    assert len(found[0].ids) == 50


# the admission state by itself


def test_what_lies_behind_the_checkpoint_stays_small() -> None:
    """Ids are forgotten in the storage, too, and a busy producer has one document."""
    story = Story()
    story.node("n1")
    for _ in range(60):
        story.later(31)
        story.report("n1", "event.node.connected", STORY.said[4].event.data if STORY.said[4].event else None)
    with storage() as documents:
        made = Writer(documents.namespace(NAME), PROJECTIONS, CLOCK)
        records = story.records()
        for start in range(0, len(records), 5):
            made.write(records[start : start + 5], log_id(records[0]))
        behind = [one["_id"] for one in documents.namespace(NAME).iterate(META)]

    window = [one for one in behind if one.startswith("window/")]
    assert len(window) <= 5
    assert len([one for one in behind if one.startswith("producer/")]) == 1


def test_a_forgotten_producer_is_forgotten_in_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FORGET_PRODUCER_AFTER", 20)
    story = Story()
    for n in range(40):
        story.node(f"n{n}")
    records = story.records()
    state = AdmissionState()
    for record in records:
        admit(state, record)
    with storage() as documents:
        for start in range(0, len(records), 3):
            made = writer(documents)
            made.write(records[start : start + 3], log_id(records[0]))
        found = AdmissionStore(documents.namespace(NAME)).load()
        stored = [one for one in documents.namespace(NAME).iterate(META) if one["_id"].startswith("producer/")]

    assert found is not None
    assert knows(found[0]) == knows(state)
    assert len(state.producers) == 21
    assert len(stored) <= 21 + admission_store.WRITE_BEHIND


def test_a_state_that_is_read_while_it_is_written_belongs_to_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is written between any two reads of the reader."""
    with storage() as documents:
        swap(documents, begin(documents, CLOCK.now(), "a test").name)
        live = documents.namespace(documents.pointed("live") or "")
        made = Writer(live, PROJECTIONS, CLOCK)
        made.write(RECORDS[:10], LOG)
        reads = AdmissionStore._read_chunks
        left = [12]

        def meanwhile(store: AdmissionStore) -> Any:
            if left[0]:
                left[0] -= 1
                made.write(RECORDS[position(made) :][:6], LOG)
            return reads(store)

        monkeypatch.setattr(AdmissionStore, "_read_chunks", meanwhile)
        found = load_admission(documents)

    assert found is not None
    state, checkpoint = found
    assert checkpoint.next_offset == position(made)
    assert knows(state) == knows_at(checkpoint.next_offset)
