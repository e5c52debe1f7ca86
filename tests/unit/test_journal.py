"""The agent's journal: marks and facts, all or nothing, each in its order, whatever happens to disk and process."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from events.codec import BadEvent, decode
from events.job import JobFinished, JobStarted, Order
from nodeagent import changes, journal_file
from nodeagent import journal as journal_module
from nodeagent.blobs import CHUNK, TEXT, make_blob
from nodeagent.errors import JournalClosed, JournalConflict, JournalUnusable
from nodeagent.facts import Fact, Speaker
from nodeagent.journal import Journal
from nodeagent.run import Run
from tests.waiting import wait_until

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PRODUCER = str(uuid4())
#: Seconds that anything here may take on a busy machine.
SOON = 60.0
SPEAKER = Speaker("n1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, PRODUCER) as journal:
        yield journal


def a_run(job: str | None = None, *, hash: str = "a" * 64) -> Run:
    order = Order(script="s", hash=hash, by="user:alice")
    return Run(job=job or str(uuid4()), order=order, queue="default", cause=str(uuid4()), start_by=NOW)


def a_fact(run: Run | None = None) -> Fact:
    return SPEAKER.started(run or a_run(), NOW)


def with_blob(body: bytes) -> Fact:
    fact = a_fact()
    return Fact(fact.event, fact.key, (make_blob(body, TEXT),))


def write(journal: Journal, *what: changes.Change, facts: tuple[Fact, ...] = ()) -> None:
    journal.write(*what, facts=facts).result(SOON)


def bring_to(journal: Journal, run: Run, mark: str) -> None:
    """Brings a job to a mark by the shortest way."""
    match mark:
        case "accepted":
            write(journal, changes.accepted(run))
        case "running":
            write(journal, changes.running(run, 1, "stamp"))
        case "done":
            write(journal, changes.done(run.job, None, NOW))
        case "expired":
            write(journal, changes.accepted(run))
            write(journal, changes.expired(run.job, NOW))


@pytest.mark.parametrize("to", ["accepted", "running", "done", "expired"])
@pytest.mark.parametrize("origin", ["", "accepted", "running", "done", "expired"])
def test_a_mark_follows_only_where_the_table_says_so(journal: Journal, origin: str, to: changes.Mark) -> None:
    run = a_run()
    bring_to(journal, run, origin)
    change = {
        "accepted": changes.accepted(run),
        "running": changes.running(run, 1, "stamp"),
        "done": changes.done(run.job, None, NOW),
        "expired": changes.expired(run.job, NOW),
    }[to]
    if origin in changes.MAY_FOLLOW[to]:
        write(journal, change)
    else:
        with pytest.raises(JournalConflict, match=run.job):
            write(journal, change)


def test_a_job_that_ran_or_ended_is_never_marked_running_again() -> None:
    assert not {"running", "done", "expired"} & set(changes.MAY_FOLLOW["running"])
    assert not {"done", "expired"} & set(changes.MAY_FOLLOW["accepted"])


def test_open_jobs_come_back_in_the_order_in_which_they_were_accepted(path: Path) -> None:
    first, second, third = a_run(), a_run(), a_run()
    with Journal(path, PRODUCER) as journal:
        for run in (first, second, third):
            write(journal, changes.accepted(run))
        write(journal, changes.running(first, 4711, "boot 99"))
        write(journal, changes.done(second.job, None, NOW))
    with Journal(path, str(uuid4())) as journal:
        kept = journal.file.open_jobs()
        assert [(one.run, one.mark) for one in kept] == [(first, "running"), (third, "accepted")]
        assert (kept[0].pgid, kept[0].stamp) == (4711, "boot 99")
        assert all(journal.file.knows(run.job) for run in (first, second, third))
        assert not journal.file.knows(str(uuid4()))


def test_mark_and_fact_are_written_together_or_not_at_all(journal: Journal) -> None:
    run = a_run()
    write(journal, changes.done(run.job, None, NOW))
    with pytest.raises(JournalConflict):
        write(journal, changes.running(run, 1, "stamp"), facts=(a_fact(run),))
    assert journal.file.rows(0, 10) == []
    assert journal.unconfirmed == 0


def test_a_write_that_conflicts_takes_no_other_with_it_and_uses_up_no_seq(journal: Journal) -> None:
    ended = a_run()
    write(journal, changes.done(ended.job, None, NOW))
    futures = [journal.write(facts=(a_fact(),)) for _ in range(5)]
    refused = journal.write(changes.accepted(ended), facts=(a_fact(ended),))
    futures += [journal.write(facts=(a_fact(),)) for _ in range(5)]
    wait([*futures, refused], timeout=SOON)
    assert isinstance(refused.exception(), JournalConflict)
    assert [decode(row.body).seq for row in journal.file.rows(0, 100)] == list(range(1, 11))


def test_a_fact_that_is_too_large_fails_alone(journal: Journal) -> None:
    order = Order(script="s", hash="a" * 64, by="user:alice", params={"text": "x" * 1_100_000})
    huge = SPEAKER.event("event.job.started", "s", JobStarted(job=str(uuid4()), node="n1", order=order), NOW, id="x")
    refused, fine = journal.write(facts=(Fact(huge, "k"),)), journal.write(facts=(a_fact(),))
    with pytest.raises(BadEvent, match="fit into one event"):
        refused.result(SOON)
    fine.result(SOON)


def test_rows_keep_the_producer_and_seq_they_were_written_with(path: Path) -> None:
    later = str(uuid4())
    with Journal(path, PRODUCER) as journal:
        write(journal, facts=(a_fact(), a_fact()))
    with Journal(path, later) as journal:
        write(journal, facts=(a_fact(), a_fact()))
        events = [decode(row.body) for row in journal.file.rows(0, 10)]
        assert [(event.producer, event.seq) for event in events] == [
            (PRODUCER, 1),
            (PRODUCER, 2),
            (later, 1),
            (later, 2),
        ]


def test_the_journal_keeps_its_id_and_another_file_has_another(path: Path, tmp_path: Path) -> None:
    with Journal(path, PRODUCER) as journal:
        first = journal.file.id
    with Journal(path, PRODUCER) as journal, Journal(tmp_path / "other.db", PRODUCER) as other:
        assert journal.file.id == first
        assert other.file.id != first


def test_writes_that_wait_share_a_transaction(journal: Journal, path: Path) -> None:
    commits: list[str] = []
    journal._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        # while another holds the file, they wait
        other.execute("BEGIN IMMEDIATE")
        futures = [journal.write(changes.accepted(a_run())) for _ in range(1000)]
        other.execute("ROLLBACK")
    wait(futures, timeout=SOON)
    assert all(future.exception() is None for future in futures)
    assert len(commits) < 500


def test_a_write_with_patience_shares_the_transaction_of_the_next(journal: Journal) -> None:
    commits: list[str] = []
    journal._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    patient, run = journal.write(changes.accepted(a_run()), patience=SOON), a_run()
    assert not patient.done()
    bring_to(journal, run, "accepted")
    assert patient.done()
    assert len(commits) == 1


def test_a_write_with_patience_is_written_when_nothing_follows(journal: Journal) -> None:
    run = a_run()
    journal.write(changes.accepted(run), patience=0.01).result(SOON)
    assert journal.file.knows(run.job)


def test_a_journal_that_closes_waits_for_nobodys_patience(path: Path) -> None:
    with Journal(path, PRODUCER) as journal:
        patient = journal.write(changes.accepted(a_run()), patience=10 * SOON)
    assert patient.exception(SOON) is None


def test_a_full_disk_holds_writes_back_and_loses_none(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(path, PRODUCER) as journal:
        write(journal, facts=(a_fact(),))
        journal._db.execute("PRAGMA max_page_count = 1")
        limit = journal._db.execute("PRAGMA max_page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {limit}")
        waiting = [journal.write(facts=(with_blob(os.urandom(100_000)),)) for _ in range(5)]
        wait_until(lambda: journal.trouble, deadline=SOON, what="the journal to notice that the disk is full")
        assert not any(future.done() for future in waiting)
        assert "full" in journal.trouble
        journal._db.execute("PRAGMA max_page_count = 1000000")
        wait(waiting, timeout=SOON)
        assert [future.exception() for future in waiting] == [None] * 5
        assert [decode(row.body).seq for row in journal.file.rows(0, 10)] == [1, 2, 3, 4, 5, 6]
        assert journal.trouble == ""
    said = capsys.readouterr().out
    assert said.count("cannot be written") == 1
    assert "can be written again" in said


def test_what_cannot_be_written_until_the_end_fails_and_says_why(path: Path) -> None:
    journal = Journal(path, PRODUCER)
    journal._db.execute("PRAGMA max_page_count = 1")
    future = journal.write(facts=(with_blob(os.urandom(1_000_000)),))
    wait_until(lambda: journal.trouble, deadline=SOON, what="the journal to notice that the disk is full")
    journal.close(timeout=0.1)
    with pytest.raises(JournalClosed, match="full"):
        future.result(1)
    with pytest.raises(JournalClosed):
        journal.write(facts=(a_fact(),)).result(1)


def test_confirmed_rows_leave_with_the_blobs_that_no_other_row_names(journal: Journal) -> None:
    write(journal, facts=(with_blob(b"shared"), with_blob(b"shared"), with_blob(b"own")))
    first, second, third = journal.file.rows(0, 10)
    assert first.blobs == second.blobs != third.blobs
    journal.confirm([first, third]).result(SOON)
    assert [chunk.body for chunk in journal.file.chunks(second.blobs[0])] == [b"shared"]
    journal.confirm([second]).result(SOON)
    assert journal.file.rows(0, 10) == []
    assert journal._db.execute("SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM outbox_blob)").fetchone() == (
        0,
        0,
    )
    assert (journal.unconfirmed, journal._size) == (0, 0)


def test_a_blob_comes_out_in_chunks_as_it_went_in(journal: Journal) -> None:
    body = os.urandom(2 * CHUNK + 1)
    write(journal, facts=(with_blob(body),))
    sha256 = journal.file.rows(0, 1)[0].blobs[0]
    found = list(journal.file.chunks(sha256))
    assert b"".join(chunk.body for chunk in found) == body
    assert [(chunk.n, chunk.total) for chunk in found] == [(0, 3), (1, 3), (2, 3)]
    assert found[2].message.key == f"blob.{sha256}.2.3"


def test_what_was_set_aside_is_passed_over_but_tried_again_after_a_restart(path: Path) -> None:
    with Journal(path, PRODUCER) as journal:
        write(journal, facts=(a_fact(), a_fact()))
        first, second = journal.file.rows(0, 10)
        write(journal, changes.set_aside(first.n, "not allowed"))
        assert journal.file.rows(0, 10) == [second]
        assert journal.file.refused() == 1
        assert journal.unconfirmed == 2
    with Journal(path, PRODUCER) as journal:
        assert journal.file.rows(0, 10) == [first, second]
        assert journal.unconfirmed == 2


def test_the_outbox_is_full_from_a_number_of_facts(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_ROWS", 3)
    write(journal, facts=(a_fact(), a_fact()))
    before = journal.full
    write(journal, facts=(a_fact(),))
    at = journal.full
    journal.confirm(journal.file.rows(0, 10)).result(SOON)
    assert (before, at, journal.full) == (False, True, False)


def test_the_outbox_is_full_from_a_size_of_facts_and_blobs(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BYTES", 1_000_000)
    write(journal, facts=(with_blob(os.urandom(1_000_000)),))
    assert journal.full


def test_scripts_are_kept_by_their_last_use_and_while_an_accepted_job_needs_them(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEPT_SCRIPTS", 2)
    monkeypatch.setattr(journal_file, "KEPT_SCRIPTS", 10)
    hashes = [letter * 64 for letter in "abcd"]
    for age, hash in enumerate(hashes):
        write(journal, changes.script(hash, f"source {hash[0]}", NOW - timedelta(hours=age)))
    write(journal, changes.accepted(a_run(hash=hashes[3])))
    write(journal, changes.script(hashes[2], "source c", NOW + timedelta(hours=1)))
    write(journal, *changes.forgotten(NOW))
    assert journal.file.script_hashes() == (hashes[2], hashes[0], hashes[3])
    assert journal.file.source(hashes[3]) == "source d"
    assert journal.file.source(hashes[1]) is None


def test_an_ended_job_is_remembered_well_beyond_its_start_by(journal: Journal) -> None:
    run = a_run()
    start_by = NOW + timedelta(hours=5)
    write(journal, changes.done(run.job, start_by, NOW))
    write(journal, *changes.forgotten(start_by + timedelta(minutes=59)))
    assert journal.file.knows(run.job)
    write(journal, *changes.forgotten(start_by + timedelta(minutes=61)))
    assert not journal.file.knows(run.job)


def test_jobs_without_an_end_are_never_forgotten(journal: Journal) -> None:
    accepted, running = a_run(), a_run()
    bring_to(journal, accepted, "accepted")
    bring_to(journal, running, "running")
    write(journal, *changes.forgotten(NOW + timedelta(days=10_000)))
    assert {kept.run.job for kept in journal.file.open_jobs()} == {accepted.job, running.job}


def test_an_event_of_a_local_service_is_taken_once(journal: Journal) -> None:
    id = str(uuid4())
    write(journal, changes.handed(id, NOW), facts=(a_fact(),))
    with pytest.raises(JournalConflict):
        write(journal, changes.handed(id, NOW), facts=(a_fact(),))
    assert journal.unconfirmed == 1
    assert journal.file.was_handed(id)
    write(journal, *changes.forgotten(NOW + timedelta(minutes=11)))
    assert not journal.file.was_handed(id)


def test_a_damaged_file_is_refused_with_a_way_out(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(JournalUnusable, match=r"journal\.db.*move it away"):
        Journal(path, PRODUCER)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalUnusable, match="nowhere"):
        Journal(tmp_path / "nowhere" / "journal.db", PRODUCER)


WRITER = """
import sys
from tests.unit.test_journal import *
with Journal(Path(sys.argv[1]), PRODUCER) as journal:
    while True:
        run = a_run()
        journal.write(changes.running(run, 1, "s"), facts=(a_fact(run),)).result()
        print(run.job, flush=True)
"""


@pytest.mark.chaos
def test_what_was_reported_as_written_is_there_after_kill_9(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = [writer.stdout.readline().strip() for _ in range(200)]
    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    with Journal(path, PRODUCER) as journal:
        assert {kept.run.job for kept in journal.file.open_jobs()} >= set(told)
        events = [decode(row.body) for row in journal.file.rows(0, 100_000)]
        assert [event.data.job for event in events] == [kept.run.job for kept in journal.file.open_jobs()]
        assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_a_finished_fact_survives_the_journal_as_it_was_said(journal: Journal) -> None:
    said = JobFinished(job=str(uuid4()), node="n1", outcome="succeeded", duration=1.5, result={"a": [1, None]})
    event = SPEAKER.event("event.job.finished", said.job, said, NOW, id=str(uuid4()))
    write(journal, facts=(Fact(event, "event.job.finished.node.n1"),))
    assert decode(journal.file.rows(0, 1)[0].body).data == said
