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
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import Goal, Run, percentile
from bus.clock import new_id
from bus.ports import Bus, Message, Reader, Record
from events.codec import decode, encode
from events.envelope import Event
from events.job import JobFinished, SubmitJob, Target
from events.routing import routing_key
from events.script import PublishScript
from events.seat import CommandRejected

ROUND_TRIPS = 200
JOBS = 2_000
NODE = "bench"
WORKERS = 2
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

    def submit(self) -> str:
        return self._command("command.job.submit", SubmitJob(script="empty", target=Target(node=NODE)))

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


@contextmanager
def processes(urls: Mapping[str, str], broker: str, backend: str) -> Iterator[None]:
    """Handlers, one agent and a Celery worker, until the end of the block. `urls` has the broker's URL of each user."""
    os.environ.update(BENCH_BROKER=broker, BENCH_BACKEND=backend)
    celery = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "worker", "--pool", "prefork"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        running = [
            _start([sys.executable, "-m", "fleetbus", "handlers"], urls["handlers"], data / "handlers"),
            _start([sys.executable, "-m", "fleetbus", "agent", "--node", NODE], urls["agent"], data / "agent"),
            _start([*celery, "--concurrency", str(WORKERS), "--loglevel", "error"], "", data / "celery"),
        ]
        try:
            yield
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(30)


def _start(command: list[str], url: str, data: Path) -> subprocess.Popen[bytes]:
    data.mkdir(parents=True)
    env = {**os.environ, "FLEETBUS_BUS_URL": url, "FLEETBUS_DATA": str(data)}
    with (data / "log").open("wb") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def contestants(caller: Caller) -> dict[str, Run]:
    return {"fleetbus": caller.run, "Celery": run_celery}
