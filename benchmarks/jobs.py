"""An empty job, from the command to its end as the caller sees it: fleetbus beside Celery and Dramatiq, on one broker.

All have two worker processes. fleetbus writes every step to the log and the agent's journal with fsync; Celery and
Dramatiq acknowledge late and keep results in Redis. Their workers run one task after another in the same process; so
does fleetbus for a script that says `keep_process`, and gives every other job a process of its own: both are measured.
The floors are those of `bare_jobs`: the same messages over pika alone, without and with a journal and a process.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import bare_jobs
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
DRAMATIQ = (sys.executable, "-m", "dramatiq", "benchmarks.dramatiq_app")
#: The scripts: one whose process is kept for its next job, and one that has a new process for each job.
SCRIPTS = {
    "empty": "descr = 'does nothing'\nkeep_process = True\n\n\ndef action():\n    pass\n",
    "empty_apart": "descr = 'does nothing, in a process of its own'\n\n\ndef action():\n    pass\n",
}
PATIENCE = 120.0
#: Characters of a process's log that are shown when a measurement fails.
LAST_WORDS = 2_000

UNITS = {"round trip p50": "ms", "round trip p99": "ms", "empty jobs completed": "jobs/s"}
GOALS = (
    Goal("round trip p50", "Celery", "<= 1.5"),
    Goal("empty jobs completed", "Celery", ">= 4"),
    Goal("round trip p50", "Dramatiq", "none"),
    Goal("empty jobs completed", "Dramatiq", "none"),
    Goal("round trip p50", "bare pika, the same messages", "none"),
    Goal("empty jobs completed", "bare pika, the same messages", "none"),
    Goal("round trip p50", "and a journal and a process", "none"),
    Goal("empty jobs completed", "and a journal and a process", "none"),
)


class Caller:
    """Gives commands and reads in the log what comes of them, as the portal does."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._log: Reader = bus.stream("log").read_from("next")
        self._log.read(timeout=0.5)

    def submit(self, target: Target | None = None, script: str = "empty") -> str:
        """An empty job, on the one node unless told otherwise; its id."""
        return self._command("command.job.submit", SubmitJob(script=script, target=target or Target(node=NODE)))

    def publish_script(self) -> None:
        for name, source in SCRIPTS.items():
            self._publish(name, source)

    def _publish(self, name: str, source: str) -> None:
        id = self._command("command.script.publish", PublishScript(name=name, source=source))
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

    def round_trips(self, count: int, script: str = "empty") -> list[float]:
        """Seconds of so many jobs, one after another."""
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            self.wait_for({self.submit(script=script)})
            seconds.append(time.perf_counter() - began)
        return seconds

    def run(self, script: str = "empty", trips: int = ROUND_TRIPS, jobs: int = JOBS) -> Mapping[str, float]:
        seconds = self.round_trips(trips, script)
        began = time.perf_counter()
        self.wait_for({self.submit(script=script) for _ in range(jobs)})
        return _figures(seconds, jobs / (time.perf_counter() - began))


def _figures(seconds: list[float], rate: float) -> dict[str, float]:
    trips = [each * 1000 for each in seconds]
    return {
        "round trip p50": percentile(trips, 0.5),
        "round trip p99": percentile(trips, 0.99),
        "empty jobs completed": rate,
    }


def run_celery(trips: int = ROUND_TRIPS, jobs: int = JOBS) -> Mapping[str, float]:
    from benchmarks.celery_app import empty

    return _run_rival(empty.delay, lambda result: result.get(timeout=PATIENCE), trips, jobs)


def run_dramatiq(trips: int = ROUND_TRIPS, jobs: int = JOBS) -> Mapping[str, float]:
    from benchmarks.dramatiq_app import empty

    return _run_rival(empty.send, lambda sent: sent.get_result(block=True, timeout=int(PATIENCE * 1000)), trips, jobs)


def _run_rival(send: Callable[[], Any], wait: Callable[[Any], Any], trips: int, jobs: int) -> Mapping[str, float]:
    seconds = []
    for _ in range(trips):
        began = time.perf_counter()
        wait(send())
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    for sent in [send() for _ in range(jobs)]:
        wait(sent)
    return _figures(seconds, jobs / (time.perf_counter() - began))


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    sizes = place.sized(ROUND_TRIPS, 20), place.sized(JOBS, 200)
    with (
        place.engine() as engine,
        fleet(engine, place.stream_url) as caller,
        celery_worker(place),
        dramatiq_worker(place),
        bare_parties(place, "node") as bare,
        bare_parties(place, "keeper") as bare_kept,
    ):
        contestants = {
            "fleetbus": lambda: caller.run("empty", *sizes),
            "fleetbus, a process for each job": lambda: caller.run("empty_apart", *sizes),
            "Celery": lambda: run_celery(*sizes),
            "Dramatiq": lambda: run_dramatiq(*sizes),
            "bare pika, the same messages": lambda: bare_jobs.measure(bare, *sizes),
            "and a journal and a process": lambda: bare_jobs.measure(bare_kept, *sizes),
        }
        return [compare("Empty jobs", contestants, UNITS, GOALS, runs, progress)]


@contextmanager
def fleet(engine: RabbitEngine, streams: str) -> Iterator[Caller]:
    """Handlers and one agent, as processes, until the end of the block; the caller has published its script.

    `streams` is where handlers and caller read the log over RabbitMQ's stream protocol.
    """
    engine.invite(NODE)
    handlers = [*FLEETBUS, "handlers"], engine.url(HANDLERS)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_bus(engine.url(PORTAL), PORTAL, stream_url=streams)) as bus,
    ):
        caller = Caller(bus)
        with (
            running(handlers[0], Path(folder) / "handlers", handlers[1], FLEETBUS_STREAM_URL=streams),
            running([*FLEETBUS, "agent", "--node", NODE], Path(folder) / "agent", engine.url(agent_user(NODE))),
        ):
            caller.wait_for_node()
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
def dramatiq_worker(place: Place) -> Iterator[psutil.Popen]:
    """Dramatiq's worker processes, on a virtual host of their own, which their queues vanish with."""
    with place.vhost() as url, tempfile.TemporaryDirectory() as folder:
        os.environ.update(BENCH_DRAMATIQ_BROKER=url, BENCH_BACKEND=place.redis_url)
        worker = ["--processes", str(WORKERS), "--threads", "1"]
        with running([*DRAMATIQ, *worker], Path(folder) / "dramatiq") as process:
            yield process


@contextmanager
def bare_parties(place: Place, node: str) -> Iterator[str]:
    """The parties of `benchmarks.bare_jobs`, `node` among them, on a virtual host of their own, whose URL is given."""
    with place.engine() as engine, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def start() -> None:
            for role in ("decider", node):
                command = [sys.executable, "-m", "benchmarks.bare_jobs", role]
                stack.enter_context(running(command, Path(folder) / role, **{bare_jobs.URL: engine.admin_url}))

        bare_jobs.wait_for_parties(engine.admin_url, start)
        yield engine.admin_url


@contextmanager
def running(command: list[str], data: Path, bus_url: str = "", **variables: str) -> Iterator[psutil.Popen]:
    """A process with this folder, until the end of the block; what it writes goes into the folder's `log`."""
    data.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "FLEETBUS_BUS_URL": bus_url, "FLEETBUS_DATA": str(data), **variables}
    with (data / "log").open("ab") as log:
        process = psutil.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    except Exception as error:
        # nobody starts it anew here, and its folder will be gone
        how = "runs" if process.poll() is None else f"has ended with {process.poll()}"
        last = (data / "log").read_text(errors="replace")[-LAST_WORDS:]
        error.add_note(f"{' '.join(command[1:])} {how}; its last words: {last or 'none'}")
        raise
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
