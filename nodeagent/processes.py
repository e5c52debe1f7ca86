"""What only the kernel can do: processes that end together, and process ids that are not taken for another's. Linux."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)

#: Every process of a job has its id in its environment under this name, and if it was only forked, its worker's name.
#: (What can be seen of a process's environment from outside is what it was executed with.)
JOB_MARK = "FLEETBUS_JOB_ID"
WORKER_MARK = "FLEETBUS_WORKER"

#: Seconds between two looks whether a killed process is gone.
_LOOK = 0.002


def die_with_parent(parent: int) -> None:
    """The kernel kills this process as soon as the process `parent`, its parent, is gone; at once if it already is.

    Strictly, when the *thread* that forked it is gone: fork it from one that lives as long as its process.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Descendants that lose their parent become children of this process, and can't get out of its sight."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_children(deadline: float) -> bool:
    """Kill and reap every child and, as they become children, every descendant. Needs `adopt_orphans`.

    Returns False when some are still there `deadline` seconds later (a process in the kernel's uninterruptible sleep).
    """
    end = time.monotonic() + deadline
    while not _reap():
        for child in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK)
    return True


def children() -> list[int]:
    """Children of this process, ended ones included. Costs little where the kernel keeps a list of them.

    It is the main thread's: no other may fork, and orphans that the process adopts become the main thread's.
    """
    try:
        # a third of the time of `Path.read_bytes`
        with open(f"/proc/self/task/{os.getpid()}/children", "rb", buffering=0) as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return _children()


def stamp(pid: int) -> str | None:
    """What tells this process from a later one with the same id, also after a reboot. None when there is none."""
    fields = _stat(pid)
    return f"{_boot_id()} {fields[19]}" if fields else None


def kill_group(pgid: int, leader_stamp: str) -> bool:
    """Kill the process group that a job had, unless its number belongs to another by now. True if anything was killed.

    When the leader is gone, only members that carry the mark of a job are killed.
    """
    found = stamp(pgid)
    if found == leader_stamp:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pgid, signal.SIGKILL)
            return True
    if found is not None or not leader_stamp.startswith(_boot_id()):
        return False
    members = [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[2]) == pgid]
    return _kill_all(members, f"{JOB_MARK}=", f"{WORKER_MARK}=")


def kill_marked(job_id: str) -> bool:
    """Kill every process that was executed by the job, wherever it went. True if anything was killed."""
    return _kill_all(_others(), f"{JOB_MARK}={job_id}\0")


def kill_workers_own(worker: str) -> bool:
    """Kill every process that a worker with this name forked, wherever it went. True if anything was killed."""
    return _kill_all(_others(), f"{WORKER_MARK}={worker}\0")


def _others() -> Iterator[int]:
    return (pid for pid in _pids() if pid != os.getpid())


def _kill_all(pids: Iterable[int], *marks: str) -> bool:
    killed = [_kill_if_marked(pid, marks) for pid in pids]
    return any(killed)


def _kill_if_marked(pid: int, marks: Iterable[str]) -> bool:
    try:
        # the descriptor makes sure that the process looked at is the process killed
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        environment = b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
        if not any(f"\0{mark}".encode() in environment for mark in marks):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    except OSError:  # another user's, or gone
        return False
    finally:
        os.close(handle)


def _reap() -> bool:
    """Take the exit status of every child that has ended. True when there is no child left."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


def _children() -> list[int]:
    """Children of this process, whichever of its threads made them."""
    me = os.getpid()
    return [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[1]) == me and fields[0] != "Z"]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  # half the time of iterdir


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (the state) on; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # the second field, the program's name, may hold blanks and parentheses
    return text[text.rindex(")") + 2 :].split()


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
