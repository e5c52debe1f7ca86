"""Where the time of an empty job goes: hop by hop, and processor time by process.

A hop is the time from the command's sending until an event is said (its `time`), and until the caller reads it in the
log. All processes are on one machine, so that their clocks are one.
"""

import os
import time
from collections import defaultdict
from collections.abc import Mapping

import psutil

from benchmarks.jobs import JOBS, ROUND_TRIPS, Caller, fleet
from benchmarks.measure import Table, compare, percentile
from benchmarks.place import Place, Progress
from events.codec import decode
from events.envelope import Event

#: What a job writes into the log, in its order, and what each is called here.
EVENTS = {
    "command.job.submit": "command",
    "event.job.queued": "queued",
    "event.job.started": "started",
    "event.job.finished": "finished",
}
HOPS = {
    **{f"{word} {done}": "ms" for word in EVENTS.values() for done in ("said", "read")},
}
COSTS = {"handlers": "ms/job", "agent": "ms/job", "workers": "ms/job", "jobs' processes": "ms/job"}


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    with place.engine() as engine, fleet(engine, place.stream_url) as caller:
        hops = {"fleetbus": lambda: _hops(caller)}
        costs = {"fleetbus": lambda: _costs(caller)}
        return [
            compare("Where an empty job's time goes, p50", hops, HOPS, (), runs, progress),
            compare("Processor time of an empty job", costs, COSTS, (), runs, progress),
        ]


def _hops(caller: Caller) -> Mapping[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUND_TRIPS):
        began = time.time()
        caller.submit()
        for event, read_at in _story(caller):
            word = EVENTS.get(event.type)
            if word:
                found[f"{word} said"].append((event.time.timestamp() - began) * 1000)
                found[f"{word} read"].append((read_at - began) * 1000)
    return {name: percentile(values, 0.5) for name, values in found.items()}


def _story(caller: Caller) -> list[tuple[Event, float]]:
    """All events up to the job's end, each with the time at which it was read."""
    seen: list[tuple[Event, float]] = []
    while not any(event.type == "event.job.finished" for event, _ in seen):
        seen += [(decode(record.body), time.time()) for record in caller.read()]
    return seen


def _costs(caller: Caller) -> Mapping[str, float]:
    before = _processor_seconds()
    caller.wait_for({caller.submit() for _ in range(JOBS)})
    after = _processor_seconds()
    return {name: (after[name] - before[name]) * 1000 / JOBS for name in COSTS}


def _processor_seconds() -> dict[str, float]:
    """By the processes of the fleet: what they used so far."""
    found = dict.fromkeys(COSTS, 0.0)
    for process in psutil.Process(os.getpid()).children():
        command = " ".join(process.cmdline())
        if "fleetbus handlers" in command:
            found["handlers"] += _used(process)
        elif "fleetbus agent" in command:
            found["agent"] += _used(process)
            for worker in process.children():
                times = worker.cpu_times()
                found["workers"] += times.user + times.system
                found["jobs' processes"] += times.children_user + times.children_system
    return found


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
