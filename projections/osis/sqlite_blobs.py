"""Blobs in a table of chunks."""

from __future__ import annotations

from collections.abc import Callable

from projections.osis.blobs import Blobs, Chunks
from projections.osis.errors import CorruptBlob
from projections.osis.sqlite_database import Connection, SqliteDatabase

_CREATE = """
CREATE TABLE IF NOT EXISTS "osis.chunks" (
    sha256 TEXT NOT NULL, total INTEGER NOT NULL, n INTEGER NOT NULL, written REAL NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (sha256, total, n)
)
"""
_PUT = 'INSERT OR REPLACE INTO "osis.chunks" (sha256, n, total, written, data) VALUES (?, ?, ?, ?, ?)'
_TOTAL = 'SELECT total FROM "osis.chunks" WHERE sha256 = ? GROUP BY total HAVING count(*) = total LIMIT 1'
_SIZES = 'SELECT length(data) FROM "osis.chunks" WHERE sha256 = ? AND total = ? ORDER BY n'
_CHUNK = 'SELECT data FROM "osis.chunks" WHERE sha256 = ? AND total = ? AND n = ?'
_DELETE = 'DELETE FROM "osis.chunks" WHERE sha256 = ? AND total = ?'
_SWEEP = 'DELETE FROM "osis.chunks" WHERE written < ?'


class SqliteBlobs(Blobs):
    """The blobs of one file, whose connections went through `prepare_blobs`."""

    def __init__(self, database: SqliteDatabase, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def sweep(self, older_than: float) -> int:
        with self._database.writing() as connection:
            return connection.execute(_SWEEP, [self._clock() - older_than]).rowcount

    def _put(self, sha256: str, n: int, total: int, data: bytes) -> None:
        with self._database.writing() as connection:
            connection.execute(_PUT, [sha256, n, total, self._clock(), data])

    def _find(self, sha256: str) -> Chunks | None:
        with self._database.reading() as connection:
            for (total,) in connection.execute(_TOTAL, [sha256]).fetchall():
                return Chunks(sha256, tuple(size for (size,) in connection.execute(_SIZES, [sha256, total])))
        return None

    def _chunk(self, chunks: Chunks, n: int) -> bytes:
        with self._database.reading() as connection:
            row = connection.execute(_CHUNK, [chunks.sha256, chunks.total, n]).fetchone()
        if row is None:
            raise CorruptBlob(f"blob {chunks.sha256}: chunk {n} went away while it was read")
        return bytes(row[0])

    def _delete(self, chunks: Chunks) -> None:
        with self._database.writing() as connection:
            connection.execute(_DELETE, [chunks.sha256, chunks.total])


def prepare_blobs(connection: Connection) -> None:
    """Create the table of chunks."""
    connection.execute(_CREATE)
