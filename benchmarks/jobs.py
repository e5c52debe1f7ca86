"""An empty job, from the command to its end as the caller sees it: fleetbus beside Celery on the same broker.

Both have two worker processes. fleetbus writes every step to the log and the agent's journal with fsync; Celery
acknowledges late and keeps results in Redis.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Goal, Table, compare, percentile
from benchmarks.place import Place, Progress
from bus.clock import new_id
from bus.ports import Bus, Message, Reader, Record
from bus.wiring import open_bus
from events.actors import HANDLERS, PORTAL, agent_user
from events.codec import decode, encode
from events.envelope import Event
from events.job import JobFinished, SubmitJob, Target
from events.routing import routing_key
from events.script import PublishScript
from events.seat import CommandRejected
from tests.contract.bus_contract import RabbitEngine

ROUND_TRIPS = 200
JOBS = 2_000
NODE = "bench"
WORKERS = 2
FLEETBUS = (sys.executable, "-m", "fleetbus")
CELERY = (sys.executable, "-m", "celery", "-A", "benchmarks.celery_app")
PATIENCE = 120.0

UNITS = {"round trip p50": "ms", "round trip p99": "ms", "empty jobs completed": "jobs/s"}
GOALS = (
    Goal("round trip p50", "Celery", "<= 1.5"),
    Goal("empty jobs completed", "Celery", ">= 4"),
)


class Caller:
    """Gives commands and reads in the log what comes of them, as the portal does."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._log: Reader = bus.stream("log").read_from("next")
        self._log.read(timeout=0.5)

    def submit(self, target: Target | None = None) -> str:
        """An empty job, on the one node unless told otherwise; its id."""
        return self._command("command.job.submit", SubmitJob(script="empty", target=target or Target(node=NODE)))

    def publish_script(self) -> None:
        source = "descr = 'does nothing'\n\n\ndef action():\n    pass\n"
        id = self._command("command.script.publish", PublishScript(name="empty", source=source))
        self._wait(lambda event: event.causationid == id)

    def wait_for_node(self) -> None:
        """Until an agent has connected since this caller was made."""
        self._wait(lambda event: event.type == "event.node.connected")

    def _command(self, type: str, data: Any) -> str:
        event = Event(
            id=new_id(), source="bench", type=type, subject="s", time=datetime.now(UTC), actor="user:bench", data=data
        )
        self._bus.publish(Message(routing_key(event), encode(event), event.id, type))
        return event.id

    def _wait(self, wanted: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for record in self._log.read(timeout=1.0):
                if record.user != "portal" and wanted(decode(record.body)):
                    return
        raise TimeoutError("nothing came of the command")

    def read(self) -> list[Record]:
        """What is new in the log, waiting for up to a second."""
        return self._log.read(timeout=1.0)

    def wait_for(self, jobs: set[str]) -> None:
        """Until each of the jobs has ended, and ended well."""
        deadline = time.monotonic() + PATIENCE
        while jobs:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(jobs)} jobs did not end")
            for record in self._log.read(timeout=1.0):
                if not record.key.startswith(("event.job.finished", "event.command.rejected")):
                    continue
                match decode(record.body).data:
                    case CommandRejected(message=message):
                        raise LookupError(message)
                    case JobFinished(outcome="succeeded", job=job):
                        jobs.discard(job)

    def run(self) -> Mapping[str, float]:
        trips = []
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            self.wait_for({self.submit()})
            trips.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        self.wait_for({self.submit() for _ in range(JOBS)})
        return _figures(trips, JOBS / (time.perf_counter() - began))


def _figures(trips: list[float], rate: float) -> dict[str, float]:
    return {
        "round trip p50": percentile(trips, 0.5),
        "round trip p99": percentile(trips, 0.99),
        "empty jobs completed": rate,
    }


def run_celery() -> Mapping[str, float]:
    from benchmarks.celery_app import empty

    trips = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        empty.delay().get(timeout=PATIENCE)
        trips.append((time.perf_counter() - began) * 1000)
    began = time.perf_counter()
    results = [empty.delay() for _ in range(JOBS)]
    for result in results:
        result.get(timeout=PATIENCE)
    return _figures(trips, JOBS / (time.perf_counter() - began))


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    with place.engine() as engine, fleet(engine) as caller, celery_worker(place):
        return [compare("Empty jobs", {"fleetbus": caller.run, "Celery": run_celery}, UNITS, GOALS, runs, progress)]


@contextmanager
def fleet(engine: RabbitEngine) -> Iterator[Caller]:
    """Handlers and one agent, as processes, until the end of the block; the caller has published its script."""
    engine.invite(NODE)
    with tempfile.TemporaryDirectory() as folder, closing(open_bus(engine.url(PORTAL), PORTAL)) as bus:
        caller = Caller(bus)
        with (
            running([*FLEETBUS, "handlers"], Path(folder) / "handlers", engine.url(HANDLERS)),
            running([*FLEETBUS, "agent", "--node", NODE], Path(folder) / "agent", engine.url(agent_user(NODE))),
        ):
            caller.publish_script()
            yield caller


@contextmanager
def celery_worker(place: Place) -> Iterator[psutil.Popen]:
    """A Celery worker. Its task finds broker and results under the same names in this process and in that one."""
    os.environ.update(BENCH_BROKER=place.amqp_url, BENCH_BACKEND=place.redis_url)
    worker = ["worker", "--pool", "prefork", "--concurrency", str(WORKERS), "--loglevel", "error"]
    with tempfile.TemporaryDirectory() as folder, running([*CELERY, *worker], Path(folder) / "celery") as process:
        yield process


@contextmanager
def running(command: list[str], data: Path, bus_url: str = "", **variables: str) -> Iterator[psutil.Popen]:
    """A process with this folder, until the end of the block; what it writes goes into the folder's `log`."""
    data.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "FLEETBUS_BUS_URL": bus_url, "FLEETBUS_DATA": str(data), **variables}
    with (data / "log").open("ab") as log:
        process = psutil.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
