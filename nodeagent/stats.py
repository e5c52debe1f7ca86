"""Measurements of the machine and of the agent. The table is closed: what is not in it is not said."""

import time
from types import MappingProxyType

import psutil
from msgspec import Struct

#: Every name that an agent may say, with its unit in the name where it has one.
NAMES = MappingProxyType(
    {
        # the machine
        "cpu_percent": "busy share of all processors since the last measurement, 0 to 100",
        "cpus": "processors that the machine has",
        "load1": "processes that run or want to, mean of 1 minute",
        "load5": "the same, mean of 5 minutes",
        "load15": "the same, mean of 15 minutes",
        "memory_used_bytes": "memory that programs hold (total less available)",
        "memory_total_bytes": "memory that the machine has",
        "swap_used_bytes": "memory that was moved to disk",
        "swap_total_bytes": "room for memory on disk",
        "disk_used_bytes": "used space of the file system that holds /",
        "disk_total_bytes": "size of the file system that holds /",
        "disk_read_bytes_per_second": "read from all disks since the last measurement",
        "disk_written_bytes_per_second": "written to all disks since the last measurement",
        "net_received_bytes_per_second": "received by all network cards since the last measurement, loopback left out",
        "net_sent_bytes_per_second": "sent by all network cards since the last measurement, loopback left out",
        "processes": "processes that there are",
        "uptime_seconds": "time since the machine was started",
        # the agent
        "jobs_running": "jobs whose process runs",
        "jobs_accepted": "jobs that wait for a worker",
        "outbox_facts": "facts that the bus has not confirmed; when it stays high, look at the bus",
        "outbox_refused": "facts that the bus refused; look for `outbox.refused` in the agent's log",
        "outbox_full": "1 while the outbox takes no new work, else 0",
        "journal_unwritable": "1 while the journal cannot be written, else 0",
        "runs_left_out": "runs of the agent's own that were left out for want of room since it started",
        "telemetry_dropped": "telemetry that was not sent since the agent started",
        "agent_memory_bytes": "memory that the agent holds, without its workers",
    }
)


class Agent(Struct, frozen=True, kw_only=True):
    """What the agent says of itself; the names of the table."""

    jobs_running: int
    jobs_accepted: int
    outbox_facts: int
    outbox_refused: int
    telemetry_dropped: int
    outbox_full: bool = False
    journal_unwritable: bool = False
    runs_left_out: int = 0


class Stats:
    """Measures; the rates are those since the measurement before. Where a machine cannot tell, a name is left out."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._at = time.monotonic()
        self._counts = _counts()
        psutil.cpu_percent(None)

    def measure(self, agent: Agent) -> dict[str, float]:
        values = {**_machine(), **self._rates(), "agent_memory_bytes": float(self._process.memory_info().rss)}
        values |= {name: float(getattr(agent, name)) for name in agent.__struct_fields__}
        return values

    def _rates(self) -> dict[str, float]:
        before, since = self._counts, self._at
        self._counts, self._at = _counts(), time.monotonic()
        seconds = max(self._at - since, 0.001)
        # a counter that went back belongs to a card or disk that was taken out
        return {
            name: max(0.0, (count - before[name]) / seconds) for name, count in self._counts.items() if name in before
        }


def _machine() -> dict[str, float]:
    memory, swap, disk = psutil.virtual_memory(), psutil.swap_memory(), psutil.disk_usage("/")
    load1, load5, load15 = psutil.getloadavg()
    return {
        "cpu_percent": psutil.cpu_percent(None),
        "cpus": float(psutil.cpu_count() or 1),
        "load1": load1,
        "load5": load5,
        "load15": load15,
        "memory_used_bytes": float(memory.total - memory.available),
        "memory_total_bytes": float(memory.total),
        "swap_used_bytes": float(swap.used),
        "swap_total_bytes": float(swap.total),
        "disk_used_bytes": float(disk.used),
        "disk_total_bytes": float(disk.total),
        "processes": float(len(psutil.pids())),
        "uptime_seconds": max(0.0, time.time() - psutil.boot_time()),
    }


def _counts() -> dict[str, float]:
    """Counters that only grow, under the names of their rates."""
    cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    counts = {
        "net_received_bytes_per_second": float(sum(card.bytes_recv for card in cards)),
        "net_sent_bytes_per_second": float(sum(card.bytes_sent for card in cards)),
    }
    disks = psutil.disk_io_counters()
    if disks is not None:
        counts["disk_read_bytes_per_second"] = float(disks.read_bytes)
        counts["disk_written_bytes_per_second"] = float(disks.write_bytes)
    return counts
