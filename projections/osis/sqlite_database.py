"""One SQLite file shared by threads and processes: the connections, transactions and errors."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from projections.osis.errors import BadUrl, StorageFailed, Unreachable

#: Seconds a statement waits for another process that writes.
BUSY_SECONDS = 30.0
#: Connections kept for later; more are made while more threads are busy at once.
IDLE = 8

# Views can be built again from the log, so NORMAL is safe enough: in WAL mode a power cut may lose the
# last transactions but never breaks the file, and checkpoints are written after the views they speak of.
# What sorts (making an index of a million documents) may use a file: in memory it would be as large as the index.
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "cache_size=-16000",
    "journal_size_limit=67108864",
)

Connection = sqlite3.Connection
Prepare = Callable[[Connection], Any]


class SqliteDatabase:
    """Lends connections to one file: `reading()` sees one snapshot, `writing()` is one transaction.

    A connection serves one thread at a time and then waits for the next borrower. Writers of this
    process queue at a lock, which is fair; those of other processes at SQLite's, for up to
    `BUSY_SECONDS`. `prepare` is called with each new connection.
    """

    def __init__(self, path: Path, prepare: Prepare | None = None) -> None:
        if not path.is_absolute():
            raise BadUrl(f"{path}: the path is not absolute")
        self.path = path
        self._prepare = prepare
        self._idle: list[Connection] = []
        self._closed = False
        self._lock = threading.Lock()
        self._write = threading.Lock()
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection inside one read transaction: all its statements see the same moment."""
        with self._borrowed() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend a connection inside one write transaction, rolled back on any exception."""
        with self._write, self._borrowed() as connection:
            # IMMEDIATE: a transaction that begins as a reader could fail when it comes to write.
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close what is idle now and what is lent out as soon as it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        with _translated(self.path):
            connection = self._take()
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._give_back(connection)

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise StorageFailed(f"{self.path}: already closed")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            if self._prepare is not None:
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unreachable(f"{path}: another process kept writing for {BUSY_SECONDS:.0f} s") from error
        raise StorageFailed(f"{path}: {error}") from error
    except (sqlite3.DatabaseError, OSError) as error:
        raise StorageFailed(f"{path}: {error}") from error
