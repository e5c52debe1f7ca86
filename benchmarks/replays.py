"""The `eventsourcing` library at the same work: jobs as aggregates, their events in SQLite, replayed."""

import shutil
from collections.abc import Mapping
from functools import singledispatchmethod
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.projection import Projection
from eventsourcing.sqlite import SQLiteCursor, SQLiteTrackingRecorder
from eventsourcing.utils import Environment

#: Events of one job: submitted, queued, started, finished.
EVENTS_OF_JOB = 4
#: Jobs saved together.
PIECE = 1_000
#: Events that a projection reads at a time: the most that the library gives.
SECTION = 10


class Job(Aggregate):
    """A job as a person of that library would write it down."""

    @event("Submitted")
    def __init__(self, script: str, by: str, params: dict[str, Any]) -> None:
        self.script, self.by, self.params = script, by, params
        self.state, self.node, self.start_by = "waiting", "", ""

    @event("Queued")
    def queue(self, node: str, start_by: str) -> None:
        self.state, self.node, self.start_by = "queued", node, start_by

    @event("Started")
    def start(self, boot: str) -> None:
        self.state, self.boot = "started", boot

    @event("Finished")
    def finish(self, outcome: str, duration: float, result: dict[str, Any], output: str) -> None:
        self.state, self.duration, self.result, self.output = outcome, duration, result, output


class Jobs(Application[UUID]):
    """All jobs, in one SQLite file."""


class Views(SQLiteTrackingRecorder):
    """One document for each job."""

    _create_table_statements = ()

    def construct_create_table_statements(self) -> list[str]:
        table = "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, doc TEXT NOT NULL)"
        return [*super().construct_create_table_statements(), table]

    def change(self, job: UUID, changes: Mapping[str, Any], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._change(cursor, str(job), changes)
            self._insert_tracking(cursor, tracking)

    def _change(self, cursor: SQLiteCursor, job: str, changes: Mapping[str, Any]) -> None:
        cursor.execute("SELECT doc FROM jobs WHERE id = ?", (job,))
        row = cursor.fetchone()
        document = {**(msgspec.json.decode(row["doc"]) if row else {}), **changes}
        cursor.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (job, msgspec.json.encode(document).decode()))


class JobsView(Projection[Views]):
    """Folds the events of jobs into documents, one transaction for each event, as the library does it."""

    name = "jobs"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        said = {key: value for key, value in vars(domain_event).items() if key in _FIELDS}
        self.view.change(domain_event.originator_id, {"state": type(domain_event).__name__, **said}, tracking)


_FIELDS = frozenset({"script", "by", "params", "node", "start_by", "boot", "outcome", "duration", "result", "output"})


def write(folder: Path, events: int) -> list[UUID]:
    """Saves so many events of jobs in SQLite; the ids of the jobs."""
    folder.mkdir()
    app, jobs = Jobs(_env(folder)), list[UUID]()
    for at in range(0, events // EVENTS_OF_JOB, PIECE):
        piece = [_job(n) for n in range(at, min(at + PIECE, events // EVENTS_OF_JOB))]
        app.save(*piece)
        jobs += [job.id for job in piece]
    app.close()
    return jobs


def _job(n: int) -> Job:
    job = Job(script=f"script-{n % 5}", by="user:alice", params={"n": n})
    job.queue(f"node-{n % 50:02}", "2026-03-01T08:00:00Z")
    job.start("018f0000-0000-7000-8000-000000000000")
    job.finish("succeeded", 0.5, {"n": n}, "hello\n")
    return job


def aggregates(folder: Path, jobs: list[UUID]) -> float:
    """Events per second when every job is made from its events."""
    app = Jobs(_env(folder))
    began = perf_counter()
    for job in jobs:
        app.repository.get(job)
    seconds = perf_counter() - began
    app.close()
    return len(jobs) * EVENTS_OF_JOB / seconds


def projection(folder: Path, views: Path, jobs: list[UUID]) -> float:
    """Events per second when a projection takes all of them, section by section, into a new view.

    On SQLite the library has no subscriptions, so this walks along its notification log.
    """
    views.mkdir()
    app = Jobs(_env(folder))
    factory = InfrastructureFactory[Views].construct(Environment("views", _env(views)))
    view = JobsView(factory.tracking_recorder(Views))
    end, next_id = len(jobs) * EVENTS_OF_JOB, 1
    began = perf_counter()
    while next_id <= end:
        for notification in app.notification_log.select(start=next_id, limit=SECTION):
            view.process_event(app.mapper.to_domain_event(notification), Tracking(app.name, notification.id))
            next_id = notification.id + 1
    seconds = perf_counter() - began
    app.close()
    factory.close()
    shutil.rmtree(views)
    return end / seconds


def _env(folder: Path) -> dict[str, str]:
    return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "jobs.db")}
