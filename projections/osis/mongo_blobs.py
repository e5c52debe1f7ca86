"""Blobs in a collection of chunks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime

from bson.binary import Binary

from projections.osis.blobs import Blobs, Chunks
from projections.osis.errors import CorruptBlob
from projections.osis.mongo_database import MongoDatabase

_INDEX = [("sha256", 1), ("total", 1), ("n", 1)]


class MongoBlobs(Blobs):
    """The blobs of one database."""

    def __init__(self, database: MongoDatabase, clock: Callable[[], float]) -> None:
        self._run = database.run
        self._chunks = database.collection("osis.chunks")
        self._clock = clock
        self._indexed = False

    def sweep(self, older_than: float) -> int:
        query = {"written": {"$lt": datetime.fromtimestamp(self._clock() - older_than, UTC)}}
        return self._run(lambda: self._chunks.delete_many(query)).deleted_count

    def _put(self, sha256: str, n: int, total: int, data: bytes) -> None:
        if not self._indexed:
            self._run(lambda: self._chunks.create_index(_INDEX))
            self._indexed = True
        chunk = {
            "_id": _id(sha256, total, n),
            "sha256": sha256,
            "total": total,
            "n": n,
            "size": len(data),
            "written": datetime.fromtimestamp(self._clock(), UTC),
            "data": Binary(data),
        }
        self._run(lambda: self._chunks.replace_one({"_id": chunk["_id"]}, chunk, upsert=True))

    def _find(self, sha256: str) -> Chunks | None:
        fields = {"total": 1, "n": 1, "size": 1}
        rows = self._run(lambda: self._chunks.find({"sha256": sha256}, fields).sort(_INDEX).to_list())
        sizes: defaultdict[int, list[int]] = defaultdict(list)
        for row in rows:
            sizes[row["total"]].append(row["size"])
        complete = (held for total, held in sizes.items() if len(held) == total)
        return next((Chunks(sha256, tuple(held)) for held in complete), None)

    def _chunk(self, chunks: Chunks, n: int) -> bytes:
        row = self._run(lambda: self._chunks.find_one({"_id": _id(chunks.sha256, chunks.total, n)}))
        if row is None:
            raise CorruptBlob(f"blob {chunks.sha256}: chunk {n} went away while it was read")
        return bytes(row["data"])

    def _delete(self, chunks: Chunks) -> None:
        self._run(lambda: self._chunks.delete_many({"sha256": chunks.sha256, "total": chunks.total}))


def _id(sha256: str, total: int, n: int) -> str:
    return f"{sha256}:{total}:{n}"
