"""A program that outlives whoever started it, and that anyone with its folder can end."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.waiting import wait_until

#: Popen objects of programs that this process started: one that is dropped while its program
#: runs warns, and only the parent can reap.
_children: dict[int, subprocess.Popen[bytes]] = {}

#: Seconds that a killed program may take to vanish.
KILL_DEADLINE = 10.0


class Process:
    """One program, known by a file that holds its process id and its time of start."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.pid_file = directory / f"{name}.pid"
        self.log_file = directory / f"{name}.log"

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run `command` in a session of its own, its output appended to the log file."""
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                command,
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _children[child.pid] = child
        created = psutil.Process(child.pid).create_time()
        self.pid_file.write_text(f"{child.pid} {created}\n")

    def pid(self) -> int | None:
        """Return the process id, or None when the program does not run."""
        try:
            pid, created = self.pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _is_running(int(pid), float(created)) else None

    def terminate(self, *, grace: float) -> None:
        """Ask the program to end; after `grace` seconds, kill it. Harmless when it is not there."""
        if (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGTERM)
            try:
                wait_until(lambda: self.pid() is None, deadline=grace, what=f"{pid} to end")
            except AssertionError:
                self.kill()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the program and all of its children with SIGKILL, and wait until it is gone."""
        if (pid := self.pid()) is not None:
            os.killpg(pid, signal.SIGKILL)
            wait_until(lambda: self.pid() is None, deadline=KILL_DEADLINE, what=f"{pid} to be killed")
        self.pid_file.unlink(missing_ok=True)

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines of what the program said."""
        try:
            text = self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:]) or "(empty log)"


def _is_running(pid: int, created: float) -> bool:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
        return False
    try:
        process = psutil.Process(pid)
        # a later process may have got the same id; the clock may have been set by a little
        same = abs(process.create_time() - created) < 2.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
