"""What grows with the log: starts, memory and round trips beside a log of 10,000, 100,000 and 1,000,000 events.

On the embedded side, whose log is written straight into its table; the processes are the ones that `fleetbus up`
starts. A figure of a start is the time from the process's making until it does its work: for handlers until their
`event.seat.taken` is in the log, for projections until the views hold the last record.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from benchmarks import jobs
from benchmarks.history import write_history
from benchmarks.measure import Goal, Table, compare, compare_once, percentile
from benchmarks.place import Place, Progress
from bus.embedded import EmbeddedBus
from bus.ports import Bus, Message, Reader
from events.actors import HANDLERS, PORTAL
from projections.admission_store import LIVE, read_checkpoint
from projections.osis.documents import Documents
from projections.osis.sqlite_documents import SqliteDocuments

#: The largest first: it is what the others are compared with.
SIZES = (1_000_000, 100_000, 10_000)
QUICK_SIZES = (10_000, 1_000)
#: And a log of nodes and scripts alone, for what is the same for everyone.
EMPTY = 0
TRIPS = 50
#: Seconds that a first start may take, which reads the whole log.
PATIENCE = 3_600.0
LOOK = 0.005

UNITS = {
    "start of handlers": "s",
    "start of projections": "s",
    "memory of handlers": "MB",
    "memory of projections": "MB",
    "round trip p50": "ms",
}
FIRST_UNITS = {"folding by handlers": "events/s", "building all views": "events/s", "memory while building": "MB"}


def name(size: int) -> str:
    return f"{size:,} events"


def goals(sizes: tuple[int, ...]) -> tuple[Goal, ...]:
    smallest = name(sizes[-1])
    return (
        Goal("start of handlers", smallest, "<= 2"),
        Goal("start of projections", smallest, "<= 2"),
        Goal("memory of handlers", smallest, "bounded"),
        Goal("memory of projections", smallest, "<= 1.2"),
        Goal("round trip p50", smallest, "<= 1.2"),
        Goal("round trip p50", name(EMPTY), "<= 1.2"),
    )


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    sizes = QUICK_SIZES if place.quick else SIZES
    with place.folder() as folder:
        fleets = {name(size): Fleet(folder / str(size), size, progress) for size in (*sizes, EMPTY)}
        firsts = {name: fleet.first for name, fleet in fleets.items()}
        later = {name: fleet.run for name, fleet in fleets.items()}
        return [
            compare_once("First starts", firsts, FIRST_UNITS),
            compare("Growth with the log", later, UNITS, goals(sizes), runs, progress),
        ]


class Fleet:
    """One data folder with a long log, and processes on it, one at a time."""

    def __init__(self, folder: Path, size: int, heed: Progress) -> None:
        self._folder, self._size = folder, size
        self.events = write_history(folder / "bus", size, lambda done: heed(f"writing a log of {name(size)}: {done:,}"))
        self._documents: Documents = SqliteDocuments(folder / "views.db")

    def first(self) -> Mapping[str, float]:
        """The first start of both, which reads the whole log."""
        with self._bus() as bus, self._process("handlers") as handlers:
            folding = self._until_taken(bus, handlers)
        with self._bus() as bus, self._process("projections") as projections:
            building = self._until_built(bus, projections)
            memory = _memory(projections)
        return {
            "folding by handlers": self.events / folding,
            "building all views": self.events / building,
            "memory while building": memory,
        }

    def run(self) -> Mapping[str, float]:
        with self._bus() as bus:
            with self._process("handlers") as handlers:
                taken = self._until_taken(bus, handlers)
                memory = _memory(handlers)
                caller = jobs.Caller(bus)
                with self._process("agent", "--node", jobs.NODE):
                    trip = _trip(caller)
            _say_something(bus)
            with self._process("projections") as projections:
                built = self._until_built(bus, projections)
                memory_of_projections = _memory(projections)
        return {
            "start of handlers": taken,
            "start of projections": built,
            "memory of handlers": memory,
            "memory of projections": memory_of_projections,
            "round trip p50": trip,
        }

    @contextmanager
    def _bus(self) -> Iterator[Bus]:
        with closing(EmbeddedBus(self._folder / "bus", PORTAL)) as bus:
            yield bus

    @contextmanager
    def _process(self, *service: str) -> Iterator[psutil.Popen]:
        env = {
            **os.environ,
            "FLEETBUS_BUS_URL": f"sqlite://{self._folder}/bus",
            "FLEETBUS_DOCUMENTS_URL": f"sqlite://{self._folder}/views.db",
            "FLEETBUS_SERIES_URL": f"sqlite://{self._folder}/series.db",
            "FLEETBUS_DATA": str(self._folder / service[0]),
        }
        (self._folder / service[0]).mkdir(exist_ok=True)
        with (self._folder / f"{service[0]}.log").open("ab") as log:
            command = [sys.executable, "-m", "fleetbus", *service]
            process = psutil.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def _until_taken(self, bus: Bus, process: psutil.Popen) -> float:
        with bus.stream("log").read_from("next") as reader:
            reader.read(timeout=0)
            return _seconds_until(lambda: _is_taken(reader), process)

    def _until_built(self, bus: Bus, process: psutil.Popen) -> float:
        end = bus.stream("log").next_offset()
        return _seconds_until(lambda: self._position() >= end, process)

    def _position(self) -> int:
        live = self._documents.pointed(LIVE)
        saved = None if live is None else read_checkpoint(self._documents.namespace(live))
        return 0 if saved is None else saved.checkpoint.next_offset


def _trip(caller: jobs.Caller) -> float:
    caller.wait_for_node()
    caller.publish_script()
    trips = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        caller.wait_for({caller.submit()})
        trips.append((time.perf_counter() - began) * 1000)
    return percentile(trips, 0.5)


def _is_taken(reader: Reader) -> bool:
    return any(record.key == "event.seat.taken" and record.user == HANDLERS for record in reader.read(timeout=LOOK))


def _say_something(bus: Bus) -> None:
    bus.publish(Message("event.bench.said", b"no event, but a record")).result(30)


def _seconds_until(done: Callable[[], bool], process: psutil.Popen) -> float:
    # the process was made a moment ago; its age is what counts
    while not done():
        if process.poll() is not None:
            raise ChildProcessError(f"{' '.join(process.args[2:])} ended with exit code {process.returncode}")
        if time.time() - process.create_time() > PATIENCE:
            raise TimeoutError(f"{' '.join(process.args[2:])} is not ready after {PATIENCE:.0f} s")
        time.sleep(LOOK)
    return time.time() - process.create_time()


def _memory(process: psutil.Popen) -> float:
    """What it has now, in MB: the median of three looks."""
    looks = []
    for _ in range(3):
        looks.append(process.memory_info().rss / 1e6)
        time.sleep(0.05)
    return statistics.median(looks)
