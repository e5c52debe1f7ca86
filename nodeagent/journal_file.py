"""The journal's file: its tables, and what can be read out of them."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from msgspec import Struct

from nodeagent.blobs import Chunk
from nodeagent.changes import KEPT_SCRIPTS, TAKE_BACK, Mark
from nodeagent.errors import JournalUnusable
from nodeagent.run import Run, decode_run

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS job (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, mark TEXT NOT NULL, run BLOB NOT NULL,
    forget_at REAL NOT NULL, pgid INTEGER, stamp TEXT
);
CREATE INDEX IF NOT EXISTS job_by_mark ON job (mark, forget_at);
CREATE TABLE IF NOT EXISTS script (hash TEXT PRIMARY KEY, source TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS handed (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
    size INTEGER NOT NULL, refused TEXT
);
CREATE TABLE IF NOT EXISTS outbox_blob (
    n INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (n, sha256)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outbox_blob_by_sha256 ON outbox_blob (sha256);
CREATE TABLE IF NOT EXISTS blob (
    sha256 TEXT NOT NULL, n INTEGER NOT NULL, total INTEGER NOT NULL, content_type TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (sha256, n)
);
"""

#: Of the tables above. A file of another version is not opened.
VERSION = 1


class Kept(Struct, frozen=True):
    """A job that had not ended when the agent did. `pgid`, `stamp`: its process group, if it is marked running."""

    run: Run
    mark: Mark
    pgid: int | None
    stamp: str | None


class Row(Struct, frozen=True):
    """One fact in the outbox. `size`: its bytes with those of its blobs; `blobs`: their SHA-256."""

    n: int
    id: str
    type: str
    key: str
    body: bytes
    size: int
    blobs: tuple[str, ...]


class JournalFile:
    """The file at `path`, opened or made. Any thread may read. Everything here raises `JournalUnusable`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._db = self.connect()
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?), ('id', ?)", (VERSION, str(uuid4())))
            # what was refused may have been allowed since: once per agent start it is tried again
            self._db.execute(TAKE_BACK.sql)
        except sqlite3.Error as error:
            raise JournalUnusable(
                f"cannot use the journal {path}: {error}. If the file is damaged, move it away: the agent begins a "
                "new one, and jobs that only the old one knew are reported lost"
            ) from error
        version, self._id = self._meta("version"), self._meta("id")
        if version != VERSION:
            raise JournalUnusable(f"the journal {path} has version {version}, but this agent reads version {VERSION}")

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        return db

    @property
    def id(self) -> str:
        """Made with the file: another id means that the memory of earlier deliveries is gone."""
        return str(self._id)

    def knows(self, job: str) -> bool:
        return bool(self._select("SELECT 1 FROM job WHERE id = ?", job))

    def was_handed(self, id: str) -> bool:
        """Whether an event with this id came from a local service within the last minutes."""
        return bool(self._select("SELECT 1 FROM handed WHERE id = ?", id))

    def open_jobs(self) -> list[Kept]:
        """Jobs without an end, in the order in which they were accepted."""
        rows = self._select("SELECT run, mark, pgid, stamp FROM job WHERE mark IN ('accepted', 'running') ORDER BY n")
        return [Kept(decode_run(run), mark, pgid, stamp) for run, mark, pgid, stamp in rows]

    def source(self, hash: str) -> str | None:
        rows = self._select("SELECT source FROM script WHERE hash = ?", hash)
        return rows[0][0] if rows else None

    def script_hashes(self) -> tuple[str, ...]:
        """The scripts whose source is here, the latest used ones first."""
        rows = self._select("SELECT hash FROM script ORDER BY used DESC LIMIT ?", KEPT_SCRIPTS)
        return tuple(hash for (hash,) in rows)

    def standing(self) -> bytes | None:
        value: bytes | None = self._meta("standing")
        return value

    def rows(self, after: int, limit: int) -> list[Row]:
        """The next facts to be sent, in order, without those that are set aside."""
        found = self._select(
            "SELECT n, id, type, key, body, size, (SELECT group_concat(sha256) FROM outbox_blob b WHERE b.n = o.n) "
            "FROM outbox o WHERE n > ? AND refused IS NULL ORDER BY n LIMIT ?",
            after,
            limit,
        )
        return [
            Row(n, id, type, key, body, size, tuple(blobs.split(",")) if blobs else ())
            for n, id, type, key, body, size, blobs in found
        ]

    def outbox_total(self) -> tuple[int, int]:
        """Facts in the outbox, and their bytes with those of their blobs."""
        rows, size = self._select("SELECT count(*), coalesce(sum(size), 0) FROM outbox")[0]
        return int(rows), int(size)

    def refused(self) -> int:
        """How many facts of the outbox are set aside, because the bus refused them."""
        return int(self._select("SELECT count(*) FROM outbox WHERE refused IS NOT NULL")[0][0])

    def chunks(self, sha256: str) -> Iterator[Chunk]:
        n, total = 0, 1
        while n < total:
            sql = "SELECT total, content_type, body FROM blob WHERE sha256 = ? AND n = ?"
            total, content_type, body = self._select(sql, sha256, n)[0]
            yield Chunk(sha256, n, total, content_type, body)
            n += 1

    def _meta(self, name: str) -> Any:
        rows = self._select("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def _select(self, sql: str, *values: object) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise JournalUnusable(f"cannot read the journal {self._path}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()
