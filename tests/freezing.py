"""Processes that stand still, as on a machine that swaps, or is suspended."""

import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import wait_until


def freeze(process: subprocess.Popen[Any], bus: Path) -> None:
    """Stops it where it holds nobody up. `bus` is the embedded bus's folder, if the process is on one.

    There all write to the same files, one after another: who is stopped in a transaction stops all others, until it
    goes on or is killed.
    """
    wait_until(lambda: _is_frozen(process, bus), deadline=30, what="a moment in which it writes nothing")


def _is_frozen(process: subprocess.Popen[Any], bus: Path) -> bool:
    process.send_signal(signal.SIGSTOP)
    stopped = psutil.Process(process.pid)
    wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, deadline=10, what="the process to stop")
    if all(_is_free(path) for path in bus.glob("*.db")):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def _is_free(path: Path) -> bool:
    """Whether nobody is writing. Somebody else may be."""
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        db.execute("ROLLBACK")
        return True
