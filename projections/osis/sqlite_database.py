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
#: Threads that read at once. More would not be faster, for all of them need the interpreter in between, and each has a
#: cache of its own.
READERS = 4
#: KiB of cache of a connection that reads, and of the one that writes.
READ_CACHE, WRITE_CACHE = 4_000, 16_000

# Views can be built again from the log, so NORMAL is safe enough: in WAL mode a power cut may lose the
# last transactions but never breaks the file, and checkpoints are written after the views they speak of.
# What sorts (making an index of a million documents) may use a file: in memory it would be as large as the index.
# Documents have some hundred bytes to two thousand: pages of 4 KB, SQLite's own choice, hold few of them, and cost a
# fifth of the work of writing them. A file keeps the size that it was made with.
_PRAGMAS = (
    "page_size=8192",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "journal_size_limit=67108864",
)

Connection = sqlite3.Connection
Prepare = Callable[[Connection], Any]


class SqliteDatabase:
    """Lends connections to one file: `reading()` sees one snapshot, `writing()` is one transaction.

    A connection serves one thread at a time and then waits for the next borrower. Readers of this process
    wait for one of `READERS` connections, writers queue at a lock, which is fair; those of other processes
    at SQLite's, for up to `BUSY_SECONDS`. Who reads lets go before it reads anew. `prepare` is called with each new
    connection.
    """

    def __init__(self, path: Path, prepare: Prepare | None = None) -> None:
        if not path.is_absolute():
            raise BadUrl(f"{path}: the path is not absolute")
        self.path = path
        self._prepare = prepare
        #: Those that wait to be borrowed, the one used last at the end: its cache is warm.
        self._readers: list[Connection] = []
        self._writers: list[Connection] = []
        self._closed = False
        self._lock = threading.Lock()
        self._reading = threading.BoundedSemaphore(READERS)
        self._write = threading.Lock()
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection inside one read transaction: all its statements see the same moment."""
        if not self._reading.acquire(timeout=BUSY_SECONDS):
            raise Unreachable(f"{self.path}: others kept reading for {BUSY_SECONDS:.0f} s")
        try:
            with self._borrowed(self._readers, READ_CACHE) as connection:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
        finally:
            self._reading.release()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend a connection inside one write transaction, rolled back on any exception."""
        with self._write, self._borrowed(self._writers, WRITE_CACHE) as connection:
            # IMMEDIATE: a transaction that begins as a reader could fail when it comes to write.
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close what is idle now and what is lent out as soon as it comes back."""
        with self._lock:
            self._closed = True
            idle = [*self._readers, *self._writers]
            self._readers.clear()
            self._writers.clear()
        for connection in idle:
            connection.close()

    @contextmanager
    def _borrowed(self, idle: list[Connection], cache: int) -> Iterator[Connection]:
        with _translated(self.path):
            connection = self._take(idle, cache)
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._give_back(connection, idle)

    def _take(self, idle: list[Connection], cache: int) -> Connection:
        with self._lock:
            if self._closed:
                raise StorageFailed(f"{self.path}: already closed")
            if idle:
                return idle.pop()
        return self._connect(cache)

    def _give_back(self, connection: Connection, idle: list[Connection]) -> None:
        with self._lock:
            if not self._closed:
                idle.append(connection)
                return
        connection.close()

    def _connect(self, cache: int) -> Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            for pragma in (*_PRAGMAS, f"cache_size=-{cache}"):
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
