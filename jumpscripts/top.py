"""What keeps a machine busy, over a few seconds."""

import os
import time
from typing import Any

import psutil

descr = "What keeps this node busy: processors, memory, load, disks and network over an interval, and who causes it."
organization = "fleetbus"
category = "inspection"
queue = "process"
timeout = 120
params = {
    "seconds": {"descr": "length of the interval, at most 60"},
    "limit": {"descr": "processes in each list"},
}


def action(seconds: float = 2.0, limit: int = 10) -> dict[str, Any]:
    if not 0 < seconds <= 60:
        raise ValueError("seconds must be more than 0 and at most 60")
    processes = list(psutil.process_iter())
    before = counters()
    psutil.cpu_percent(percpu=True)
    for process in processes:
        cpu_percent(process)
    time.sleep(seconds)
    rows = [row for process in processes if (row := usage(process))]
    return {
        "seconds": seconds,
        "cpu_percent": psutil.cpu_percent(percpu=True),
        "load": [round(load, 2) for load in os.getloadavg()],
        "memory": memory(),
        "per_second": {name: round((count - before[name]) / seconds) for name, count in counters().items()},
        "processes": len(rows),
        "by_cpu": sorted(rows, key=lambda row: -row["cpu_percent"])[: max(0, limit)],
        "by_memory": sorted(rows, key=lambda row: -row["memory_bytes"])[: max(0, limit)],
    }


def counters() -> dict[str, int]:
    """What has been read, written, received and sent since the machine started, in bytes."""
    disks, network = psutil.disk_io_counters(), psutil.net_io_counters()
    return {
        # a machine may have neither disks nor network
        "read_bytes": getattr(disks, "read_bytes", 0),
        "written_bytes": getattr(disks, "write_bytes", 0),
        "received_bytes": getattr(network, "bytes_recv", 0),
        "sent_bytes": getattr(network, "bytes_sent", 0),
    }


def memory() -> dict[str, Any]:
    found, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "total_bytes": found.total,
        "used_percent": found.percent,
        "available_bytes": found.available,
        "swap_used_bytes": swap.used,
    }


def cpu_percent(process: psutil.Process) -> float:
    """Processor time since this was called last, as percent of one processor."""
    try:
        return process.cpu_percent()
    except psutil.Error:
        return 0.0


def usage(process: psutil.Process) -> dict[str, Any] | None:
    try:
        with process.oneshot():
            return {
                "pid": process.pid,
                "name": process.name(),
                "user": process.username(),
                "cpu_percent": cpu_percent(process),
                "memory_bytes": process.memory_info().rss,
            }
    except psutil.Error:  # it has ended in the meantime
        return None
