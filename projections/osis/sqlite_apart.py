"""Documents of one SQLite file written by a process of its own: who folds meanwhile has an interpreter to itself.

    parent → what one `put_many` or `put_all` is to write, as JSON
    child  → how many were stale, or `CANNOT`: then nothing was written

The parent waits for each answer, so what it reads next is in the file. What the child cannot do, for whatever reason,
the parent does itself, and so raises what is to be raised; and everything, once the child is gone. A write that is done
twice changes nothing. A child whose parent is gone ends what it writes, and itself.
"""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog
from msgspec import Raw, Struct

from projections.osis import codec
from projections.osis.documents import Ttl
from projections.osis.rare_collections import rare_collections
from projections.osis.sqlite_database import SqliteDatabase
from projections.osis.sqlite_table import Table

CANNOT = -1
#: Seconds that a child may take to end.
END_WITHIN = 60.0

log = structlog.get_logger("projections.osis")


class Put(Struct, frozen=True):
    """Documents for one table, which is there already."""

    table: str
    ttl: Ttl | None
    documents: Sequence[Mapping[str, Any]]


class _Arrived(Struct, frozen=True):
    """The same at the child."""

    table: str
    ttl: Ttl | None
    documents: list[Raw]


class Apart:
    """The parent's side: a child that writes to one file, from its making until `close`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._ours, theirs = Pipe()
        with closing(theirs):
            command = [sys.executable, "-m", "projections.osis.sqlite_apart", str(theirs.fileno()), str(path)]
            self._child: subprocess.Popen[bytes] | None = None
            try:
                # its parent's output is none of its business
                self._child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
            except OSError as error:
                self._lose(error)

    def put(self, puts: Sequence[Put]) -> int | None:
        """One transaction. Return how many were stale; None when they were perhaps not written."""
        with self._lock:
            if self._child is None:
                return None
            try:
                body = msgspec.json.encode(puts)
            except (TypeError, ValueError, RecursionError):
                return None
            try:
                self._ours.send_bytes(body)
                answer = int(self._ours.recv_bytes())
            except (OSError, EOFError, ValueError) as error:
                self._lose(error)
                return None
        return None if answer == CANNOT else answer

    def _lose(self, error: Exception) -> None:
        log.warning("no process of its own writes views", action="views.apart.lost", error=repr(error))
        self._end()

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._ours.close()
        child, self._child = self._child, None
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_WITHIN)
            child.kill()
            child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(parent: Connection, path: Path) -> None:
    """The child's side: writes what comes until the parent is gone."""
    with rare_collections(), closing(SqliteDatabase(path, _prepare)) as database, suppress(EOFError, OSError):
        tables: dict[str, Table] = {}
        while True:
            body = parent.recv_bytes()
            try:
                stale = _write(database, tables, body)
            except Exception:  # noqa: BLE001  # the parent does it again, and says what is wrong
                stale = CANNOT
            parent.send_bytes(str(stale).encode())


def _prepare(connection: sqlite3.Connection) -> None:
    # a page that several batches change goes from the journal into the file once; as long as it may be (64 MB)
    connection.execute("PRAGMA wal_autocheckpoint=8192")


def _write(database: SqliteDatabase, tables: dict[str, Table], body: bytes) -> int:
    stale, clean = 0, not codec.is_suspect(body)
    with database.writing() as connection:
        for put in _decoder.decode(body):
            table = tables.setdefault(put.table, Table(put.table, database, time.time))
            documents, lost = codec.choose(codec.encode_raw(bytes(raw), clean=clean) for raw in put.documents)
            stale += lost + table.put_into_what_is_there(connection, documents, put.ttl)
    return stale


_decoder = msgspec.json.Decoder(list[_Arrived])

if __name__ == "__main__":
    # Ctrl-C is for the parent to heed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])), Path(sys.argv[2]))
