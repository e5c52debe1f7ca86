"""Leases of processes that tests kill: long ones, so that a busy machine takes none away, that end with the process."""

import sqlite3
from contextlib import closing
from pathlib import Path

#: Seconds; a process that nobody stops never stands still for so long.
LONG = 120.0
#: What the product has, for tests in which a lease runs out. It comes from there when a process is told nothing else.
REAL = 5.0


def let_leases_end(bus: Path, pid: int) -> None:
    """As if their time had passed since this process was killed. `bus` is the embedded bus's folder."""
    path = bus / "lease.db"
    if path.exists():
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
            db.execute("DELETE FROM lease WHERE owner LIKE ?", (f"{pid}-%",))
