"""Documents in one SQLite file: a table for each collection of each namespace."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from projections.osis import codec
from projections.osis.documents import NOTHING_NEW, Document, Documents, Namespace, Order, Page, S, Ttl
from projections.osis.filters import EVERYTHING, Filter
from projections.osis.names import RESERVED, check_collection, check_namespace
from projections.osis.query import check_limit, check_path, parse_indexes, parse_sort, read_cursor, write_cursor
from projections.osis.sqlite_apart import Apart, Put
from projections.osis.sqlite_blobs import SqliteBlobs, prepare_blobs
from projections.osis.sqlite_database import Connection, SqliteDatabase
from projections.osis.sqlite_table import Table

_DELETE = """
DELETE FROM {table}
WHERE id IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR at IS NULL OR at <= ?2)
"""


class SqliteDocuments(Documents):
    """The documents of one file. `clock` gives seconds since 1970, for time to live only."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = SqliteDatabase(path, _prepare)
        self.blobs = SqliteBlobs(self._database, clock)
        self._tables: dict[str, Table] = {}
        self._clock = clock
        self._own = SqliteNamespace(RESERVED, self)

    @property
    def path(self) -> Path:
        return self._database.path

    def namespace(self, name: str) -> SqliteNamespace:
        return SqliteNamespace(check_namespace(name), self)

    def list_namespaces(self) -> list[str]:
        names = {name.partition(".")[0] for name in self.tables("")}
        return sorted(names - {RESERVED})

    def drop_namespace(self, name: str) -> None:
        with self._database.writing() as connection:
            for table in _tables(connection, check_namespace(name) + "."):
                connection.execute(f'DROP TABLE "{table}"')

    def ping(self) -> None:
        with self._database.reading() as connection:
            connection.execute("SELECT 1")

    def close(self) -> None:
        self._database.close()

    def __repr__(self) -> str:
        return f"SqliteDocuments({str(self._database.path)!r})"

    def table(self, namespace: str, collection: str) -> Table:
        """For namespaces: what this process knows of a collection."""
        name = f"{namespace}.{check_collection(collection)}"
        return self._tables.setdefault(name, Table(name, self._database, self._clock))

    def tables(self, prefix: str) -> list[str]:
        """For namespaces: the names of all tables that begin with the prefix, sorted."""
        with self._database.reading() as connection:
            return _tables(connection, prefix)


class SqliteNamespace(Namespace):
    grows_indexes = indexes_block = True

    def __init__(self, name: str, documents: SqliteDocuments) -> None:
        self.name = name
        self._documents = documents
        self._apart: Apart | None = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        with Apart(self._documents.path) as apart:
            self._apart = apart
            try:
                yield
            finally:
                self._apart = None

    def declare(
        self,
        collection: str,
        *,
        indexes: Iterable[Order] = (),
        scan: Sequence[str] = (),
        fields: Sequence[str] = (),
        ttl: Ttl | None = None,
    ) -> None:
        self._table(collection).declare(
            parse_indexes(indexes), [check_path(field) for field in scan], [check_path(field) for field in fields], ttl
        )

    def get_many(self, collection: str, ids: Iterable[str]) -> dict[str, Document]:
        with self._table(collection).look() as look:
            found = look.documents(
                "SELECT doc FROM {table} WHERE id IN (SELECT value FROM json_each(?))", [_id_list(ids)]
            )
        return {document["_id"]: document for document in found}

    def get_as(self, collection: str, document_id: str, shape: type[S]) -> S | None:
        with self._table(collection).look() as look:
            rows = look.rows("SELECT doc FROM {table} WHERE id = ?", [codec.tame_text(document_id)])
        return msgspec.json.decode(rows[0][0], type=shape) if rows else None

    def put_many(
        self,
        collection: str,
        documents: Iterable[Mapping[str, Any]],
        *,
        new: Collection[str] = frozenset(),  # SQLite looks for the place anyway
    ) -> int:
        if self._apart is not None:
            documents, table = list(documents), self._table(collection)
            stale = self._apart.put([Put(table.name, table.ttl, documents)])
            if stale is not None:
                table.sweep_now_and_then()
                return stale
        encoded, lost = codec.encode_many(documents)
        return lost + self._table(collection).put(encoded)

    def put_all(
        self, documents: Mapping[str, Sequence[Mapping[str, Any]]], *, new: Mapping[str, Collection[str]] = NOTHING_NEW
    ) -> None:
        if self._apart is not None:
            tables = {self._table(collection): several for collection, several in documents.items()}
            puts = [Put(table.name, table.ttl, several) for table, several in tables.items()]
            if self._apart.put(puts) is not None:
                for table in tables:
                    table.sweep_now_and_then()
                return
        super().put_all(documents)

    def delete_many(self, collection: str, ids: Iterable[str], *, at: int | None = None) -> int:
        return self._table(collection).write(_DELETE, [_id_list(ids), at])

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
        place = None if after is None else read_cursor(keys, after)
        with self._table(collection).look() as look:
            found, count = look.page(where, keys, place, check_limit(limit) + 1, total=total)
        items = found[:limit]
        return Page(items, write_cursor(keys, items[-1]) if len(found) > limit else None, count)

    def count(self, collection: str, where: Filter = EVERYTHING) -> int:
        with self._table(collection).look() as look:
            return look.count(where)

    def tally(self, collection: str, field: str, where: Filter = EVERYTHING) -> dict[str, int]:
        with self._table(collection).look() as look:
            return look.tally(field, where)

    def texts(self, collection: str, field: str) -> list[str]:
        with self._table(collection).look() as look:
            return look.texts(check_path(field))

    def sweep(self, collection: str) -> int:
        return self._table(collection).sweep()

    def collections(self) -> list[str]:
        return [name.partition(".")[2] for name in self._documents.tables(f"{self.name}.")]

    def __repr__(self) -> str:
        return f"SqliteNamespace({self.name!r})"

    def _table(self, collection: str) -> Table:
        return self._documents.table(self.name, collection)


def _prepare(connection: Connection) -> None:
    prepare_blobs(connection)
    connection.create_function("contains", 2, _contains, deterministic=True)


def _contains(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and _compiled(pattern).search(value) is not None


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _id_list(ids: Iterable[str]) -> str:
    return msgspec.json.encode([codec.tame_text(key) for key in ids]).decode()


def _tables(connection: Connection, prefix: str) -> list[str]:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%.%' ORDER BY name"
    return [name for (name,) in connection.execute(sql) if name.startswith(prefix)]
