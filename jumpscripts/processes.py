"""Running processes, filtered, sorted and cut to size."""

import time
from typing import Any, Literal

import psutil

descr = "Running processes: filter by name or user, sort by cpu, memory, pid or name."
organization = "fleetbus"
category = "inspection"
queue = "process"
timeout = 60
params = {
    "name": {"descr": "only processes whose name contains this"},
    "user": {"descr": "only processes of this user"},
    "sort": {"descr": "what comes first: the most cpu or memory, or the lowest pid or name"},
    "limit": {"descr": "at most so many"},
    "arguments": {"descr": "show command lines too; they may hold passwords, and what a job returns is kept"},
}

#: Seconds over which the use of processors is measured.
SAMPLE = 0.5


def action(
    name: str = "",
    user: str = "",
    sort: Literal["cpu", "memory", "pid", "name"] = "cpu",
    limit: int = 20,
    arguments: bool = False,
) -> dict[str, Any]:
    chosen = [process for process in psutil.process_iter() if matches(process, name, user)]
    for process in chosen:
        measure(process)
    time.sleep(SAMPLE)
    rows = [row for process in chosen if (row := look(process, arguments))]
    rows.sort(key=ORDERS[sort])
    return {"matching": len(rows), "processes": rows[: max(0, limit)]}


ORDERS = {
    "cpu": lambda row: (-row["cpu_percent"], row["pid"]),
    "memory": lambda row: (-row["memory_bytes"], row["pid"]),
    "pid": lambda row: row["pid"],
    "name": lambda row: (row["name"], row["pid"]),
}


def matches(process: psutil.Process, name: str, user: str) -> bool:
    try:
        return name in process.name() and user in {"", process.username()}
    except psutil.Error:
        return False


def measure(process: psutil.Process) -> float:
    """Processor time since this was called last, as percent of one processor."""
    try:
        return process.cpu_percent()
    except psutil.Error:
        return 0.0


def look(process: psutil.Process, arguments: bool) -> dict[str, Any] | None:
    """What is known of a process; None when it has ended in the meantime."""
    try:
        with process.oneshot():
            row = {
                "pid": process.pid,
                "parent": process.ppid(),
                "name": process.name(),
                "user": process.username(),
                "state": process.status(),
                "cpu_percent": measure(process),
                "memory_bytes": process.memory_info().rss,
                "threads": process.num_threads(),
                "started_at": int(process.create_time()),
            }
            if arguments:
                row["arguments"] = [readable(argument) for argument in process.cmdline()]
            return row
    except psutil.Error:
        return None


def readable(argument: str) -> str:
    """An argument is any bytes; a result is text."""
    return argument.encode(errors="surrogateescape").decode(errors="replace")
