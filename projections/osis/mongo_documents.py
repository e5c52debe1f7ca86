"""Documents in one MongoDB database: a collection `namespace.collection` for each.

Documents are kept as they are, readable with any tool, plus a date `_expires` where they have a time to
live (MongoDB's own index acts on dates only).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Ids
from datetime import UTC, datetime
from typing import Any

from pymongo import IndexModel, InsertOne, ReplaceOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from projections.osis import codec
from projections.osis.documents import Document, Documents, Namespace, Order, Page, Ttl
from projections.osis.errors import StorageFailed
from projections.osis.filters import EVERYTHING, And, Filter, Prefix
from projections.osis.mongo_blobs import MongoBlobs
from projections.osis.mongo_database import MongoDatabase, Raw
from projections.osis.mongo_query import beyond, condition, order_by, parents
from projections.osis.names import RESERVED, check_collection, check_namespace
from projections.osis.query import check_limit, check_path, parse_indexes, parse_sort, read_cursor, write_cursor
from projections.osis.ttl import SWEEP_SECONDS, expiry

_DUPLICATE_KEY = 11_000

Write = InsertOne[Raw] | ReplaceOne[Raw]


class MongoDocuments(Documents):
    """The documents of one database. `clock` gives seconds since 1970, for time to live only."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self.database = MongoDatabase(url)
        self.clock = clock
        self.blobs = MongoBlobs(self.database, clock)
        #: Time to live by collection, and when this process last swept it.
        self.ttls: dict[str, Ttl] = {}
        self.swept: dict[str, float] = {}
        self._own = MongoNamespace(RESERVED, self)

    def namespace(self, name: str) -> MongoNamespace:
        return MongoNamespace(check_namespace(name), self)

    def list_namespaces(self) -> list[str]:
        names = {name.partition(".")[0] for name in self.database.list_collections("") if "." in name}
        return sorted(names - {RESERVED})

    def drop_namespace(self, name: str) -> None:
        for collection in self.database.list_collections(check_namespace(name) + "."):
            self.database.run(self.database.collection(collection).drop)

    def ping(self) -> None:
        self.database.ping()

    def close(self) -> None:
        self.database.close()

    def __repr__(self) -> str:
        return f"MongoDocuments({self.database.name!r})"


class MongoNamespace(Namespace):
    def __init__(self, name: str, documents: MongoDocuments) -> None:
        self.name = name
        self._documents = documents
        self._database = documents.database
        self._run = documents.database.run

    def declare(
        self,
        collection: str,
        *,
        indexes: Iterable[Order] = (),
        scan: Sequence[str] = (),  # MongoDB reads documents as fast as the keys of an index
        fields: Sequence[str] = (),
        ttl: Ttl | None = None,
    ) -> None:
        there = self._collection(collection)
        models = [IndexModel(order_by(keys)) for keys in parse_indexes(indexes)]
        self._database.create(there.name)
        if ttl is not None:
            check_path(ttl.field)
            self._documents.ttls[there.name] = ttl
            # who names `fields` declares again when all is written; until then it would only make writing slow
            if not fields:
                models.append(IndexModel([("_expires", 1)], expireAfterSeconds=0))
        if models:
            self._run(lambda: there.create_indexes(models))

    def get_many(self, collection: str, ids: Iterable[str]) -> dict[str, Document]:
        wanted = [codec.tame_text(key) for key in ids]
        there = self._collection(collection)
        found = self._run(lambda: there.find({"_id": {"$in": wanted}}).to_list()) if wanted else []
        return {document["_id"]: _plain(document) for document in found}

    def put_many(self, collection: str, documents: Iterable[Mapping[str, Any]], *, new: Ids[str] = frozenset()) -> int:
        encoded, lost = codec.encode_many(documents)
        there = self._collection(collection)
        ttl = self._documents.ttls.get(there.name)
        refused = self._put(
            there, [_insertion(one, ttl) if one.id in new else _replacement(one, ttl) for one in encoded]
        )
        # Two first writes of one document may meet; then the loser finds it here.
        stale = self._put(there, [_replacement(encoded[index], ttl) for index in refused])
        if there.name in self._documents.ttls and self._is_time_to_sweep(there.name):
            self.sweep(collection)
        return lost + len(stale)

    def delete_many(self, collection: str, ids: Iterable[str], *, at: int | None = None) -> int:
        query: Raw = {"_id": {"$in": [codec.tame_text(key) for key in ids]}}
        if at is not None:
            query["_at"] = {"$not": {"$gt": at}}
        there = self._collection(collection)
        return self._run(lambda: there.delete_many(query)).deleted_count

    def find(
        self,
        collection: str,
        where: Filter = EVERYTHING,
        *,
        sort: Order = (),
        limit: int = 50,
        after: str | None = None,
        total: bool = True,
    ) -> Page:
        keys = parse_sort(sort)
        query = condition(where)
        place = {} if after is None else beyond(keys, read_cursor(keys, after))
        there, count = self._collection(collection), check_limit(limit) + 1
        order = order_by(keys)
        both = {"$and": [part for part in (query, place) if part]} if query or place else {}
        rows = self._run(lambda: there.find(both).sort(order).limit(count).to_list())
        items = [_plain(row) for row in rows[:limit]]
        return Page(
            items,
            write_cursor(keys, items[-1]) if len(rows) > limit else None,
            self.count(collection, where) if total else None,
        )

    def count(self, collection: str, where: Filter = EVERYTHING) -> int:
        there, query = self._collection(collection), condition(where)
        return self._run(lambda: there.count_documents(query))

    def tally(self, collection: str, field: str, where: Filter = EVERYTHING) -> dict[str, int]:
        there = self._collection(collection)
        pipeline: list[Raw] = [
            {"$match": condition(And(where, Prefix(field, "")))},
            {"$group": {"_id": f"${field}", "count": {"$sum": 1}}},
        ]
        found = self._run(lambda: there.aggregate(pipeline).to_list())
        return {item["_id"]: item["count"] for item in found}

    def texts(self, collection: str, field: str) -> list[str]:
        there = self._collection(collection)
        guards = [{parent: {"$not": {"$type": "array"}}} for parent in parents(field)]
        pipeline: list[Raw] = [
            {"$match": {"$and": guards} if guards else {}},
            {"$unwind": f"${check_path(field)}"},
            {"$group": {"_id": f"${field}"}},
        ]
        found = self._run(lambda: there.aggregate(pipeline).to_list())
        return sorted(item["_id"] for item in found if isinstance(item["_id"], str))

    def sweep(self, collection: str) -> int:
        there = self._collection(collection)
        now = self._documents.clock()
        self._documents.swept[there.name] = now
        query = {"_expires": {"$lte": datetime.fromtimestamp(now, UTC)}}
        return self._run(lambda: there.delete_many(query)).deleted_count

    def collections(self) -> list[str]:
        return [name.partition(".")[2] for name in self._database.list_collections(f"{self.name}.")]

    def __repr__(self) -> str:
        return f"MongoNamespace({self.name!r})"

    def _collection(self, collection: str) -> Collection[Raw]:
        return self._database.collection(f"{self.name}.{check_collection(collection)}")

    def _is_time_to_sweep(self, name: str) -> bool:
        return self._documents.clock() - self._documents.swept.get(name, 0.0) >= SWEEP_SECONDS

    def _put(self, there: Collection[Raw], writes: list[Write]) -> list[int]:
        """Write; return which of the writes met a document with their id: a newer one, or, if inserted, any.

        The filter of a replacement finds no newer one, so that it inserts, and meets the `_id`.
        """
        if not writes:
            return []
        try:
            self._run(lambda: _bulk(there, writes))
        except _Refused as refused:
            return refused.indexes
        return []


class _Refused(Exception):
    """Some writes met a document with their `_id`."""

    def __init__(self, indexes: list[int]) -> None:
        super().__init__()
        self.indexes = indexes


def _bulk(there: Collection[Raw], writes: list[Write]) -> None:
    try:
        there.bulk_write(writes, ordered=False)
    except BulkWriteError as error:
        failures = error.details["writeErrors"]
        for failure in failures:
            if failure["code"] != _DUPLICATE_KEY:
                raise StorageFailed(f"MongoDB collection {there.name}: {failure['errmsg']:.300}") from None
        if error.details.get("writeConcernErrors"):
            raise
        raise _Refused([failure["index"] for failure in failures]) from None


def _replacement(document: codec.Encoded, ttl: Ttl | None) -> ReplaceOne[Raw]:
    query: Raw = {"_id": document.id}
    if document.at is not None:
        query["_at"] = {"$not": {"$gt": document.at}}
    return ReplaceOne(query, _kept(document, ttl), upsert=True)


def _insertion(document: codec.Encoded, ttl: Ttl | None) -> InsertOne[Raw]:
    return InsertOne(_kept(document, ttl))


def _kept(document: codec.Encoded, ttl: Ttl | None) -> Raw:
    plain = codec.decode(document.raw)
    moment = expiry(ttl, plain)
    if moment is not None:
        plain["_expires"] = datetime.fromtimestamp(moment, UTC)
    return plain


def _plain(document: Raw) -> Document:
    document.pop("_expires", None)
    return document
