"""Documents in one SQLite file: a table for each collection of each namespace."""

from __future__ import annotations

import functools
import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from projections.osis import codec
from projections.osis.documents import Document, Documents, Namespace, Order, Page, S, Ttl
from projections.osis.filters import EVERYTHING, And, Eq, Exists, Filter
from projections.osis.names import RESERVED, check_collection, check_namespace
from projections.osis.query import Key, check_limit, check_path, parse_indexes, parse_sort, read_cursor, write_cursor
from projections.osis.sqlite_blobs import SqliteBlobs, prepare_blobs
from projections.osis.sqlite_database import Connection, SqliteDatabase
from projections.osis.sqlite_plan import FEW, Indexes
from projections.osis.sqlite_query import (
    IN_COLUMNS,
    IN_DOCUMENT,
    beyond,
    column_of,
    column_value,
    condition,
    json_path,
    order_by,
)
from projections.osis.ttl import SWEEP_SECONDS, expiry

# `id` has no type, so that SQLite never turns a number it is compared with into text.
_CREATE = "CREATE TABLE IF NOT EXISTS {table} (id PRIMARY KEY NOT NULL, at INTEGER, expires REAL, doc TEXT NOT NULL)"
_CREATE_SWEEP = 'CREATE INDEX IF NOT EXISTS "{name}#expires" ON {table} (expires) WHERE expires IS NOT NULL'
_SCAN = "#scan"
#: One page through the columns, which are small, and only then its documents.
_FIND_IN_COLUMNS = """
SELECT doc FROM {table} JOIN (
    SELECT rowid AS place FROM {table} INDEXED BY {scan} WHERE {where} ORDER BY {order} LIMIT ?
) ON {table}.rowid = place ORDER BY {order}
"""
_DISTINCT = """
SELECT DISTINCT each.value FROM {{table}}, json_each(doc, {path}) AS each
WHERE each.type = 'text' AND json_type(doc, {path}) <> 'object'
"""
#: Rows that one statement writes, the most first. After each statement Python waits until other threads pause, up to
#: five milliseconds; so many rows of a batch must not be as many statements.
_ROWS = (1_000, 200, 40, 8, 1)
_PUT = """
INSERT INTO {table} (id, at, expires, doc) VALUES {rows}
ON CONFLICT (id) DO UPDATE SET at = excluded.at, expires = excluded.expires, doc = excluded.doc
WHERE excluded.at IS NULL OR {table}.at IS NULL OR excluded.at >= {table}.at
"""
_DELETE = """
DELETE FROM {table}
WHERE id IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR at IS NULL OR at <= ?2)
"""
_SWEEP = "DELETE FROM {table} WHERE expires <= ?"


class SqliteDocuments(Documents):
    """The documents of one file. `clock` gives seconds since 1970, for time to live only."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = SqliteDatabase(path, _prepare)
        self.blobs = SqliteBlobs(self._database, clock)
        self._tables: dict[str, _Table] = {}
        self._clock = clock
        self._own = SqliteNamespace(RESERVED, self)

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

    def table(self, namespace: str, collection: str) -> _Table:
        """For namespaces: what this process knows of a collection."""
        name = f"{namespace}.{check_collection(collection)}"
        return self._tables.setdefault(name, _Table(name, self._database, self._clock))

    def tables(self, prefix: str) -> list[str]:
        """For namespaces: the names of all tables that begin with the prefix, sorted."""
        with self._database.reading() as connection:
            return _tables(connection, prefix)


class SqliteNamespace(Namespace):
    grows_indexes = indexes_block = True

    def __init__(self, name: str, documents: SqliteDocuments) -> None:
        self.name = name
        self._documents = documents

    def declare(
        self,
        collection: str,
        *,
        indexes: Iterable[Order] = (),
        scan: Sequence[str] = (),
        ttl: Ttl | None = None,
    ) -> None:
        self._table(collection).declare(parse_indexes(indexes), [check_path(field) for field in scan], ttl)

    def get_many(self, collection: str, ids: Iterable[str]) -> dict[str, Document]:
        sql = "SELECT id, doc FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
        rows = self._table(collection).read(sql, [_id_list(ids)])
        return {key: codec.decode(doc) for key, doc in rows}

    def get_as(self, collection: str, document_id: str, shape: type[S]) -> S | None:
        rows = self._table(collection).read("SELECT doc FROM {table} WHERE id = ?", [codec.tame_text(document_id)])
        return msgspec.json.decode(rows[0][0], type=shape) if rows else None

    def put_many(
        self,
        collection: str,
        documents: Iterable[Mapping[str, Any]],
        *,
        new: Collection[str] = frozenset(),  # SQLite looks for the place anyway
    ) -> int:
        encoded, lost = codec.encode_many(documents)
        return lost + self._table(collection).put(encoded)

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
        keys, table = parse_sort(sort), self._table(collection)
        in_columns = table.is_read_by_columns(where, keys)
        at = IN_COLUMNS if in_columns else IN_DOCUMENT
        sql, parameters = condition(where, at)
        place, more = ("1", []) if after is None else beyond(keys, read_cursor(keys, after), at)
        select = _FIND_IN_COLUMNS if in_columns else "SELECT doc FROM {table} WHERE {where} ORDER BY {order} LIMIT ?"
        parts = {"where": f"({sql}) AND ({place})", "order": order_by(keys, at)}
        rows = table.read(select, [*parameters, *more, check_limit(limit) + 1], **parts)
        items = [codec.decode(doc) for (doc,) in rows[:limit]]
        return Page(
            items,
            write_cursor(keys, items[-1]) if len(rows) > limit else None,
            self.count(collection, where) if total else None,
        )

    def count(self, collection: str, where: Filter = EVERYTHING) -> int:
        table = self._table(collection)
        in_columns = where != EVERYTHING and table.is_read_by_columns(where)
        sql, parameters = condition(where, IN_COLUMNS if in_columns else IN_DOCUMENT)
        rows = table.read(
            f"SELECT count(*) FROM {{table}} {'INDEXED BY {scan}' if in_columns else ''} WHERE {{where}}",
            parameters,
            where=sql,
        )
        return rows[0][0] if rows else 0

    def tally(self, collection: str, field: str, where: Filter = EVERYTHING) -> dict[str, int]:
        table = self._table(collection)
        in_columns = table.is_read_by_columns(And(where, Exists(field)))
        at = IN_COLUMNS if in_columns else IN_DOCUMENT
        sql, parameters = condition(where, at)
        rows = table.read(
            f"SELECT {{key}}, count(*) FROM {{table}} {'INDEXED BY {scan}' if in_columns else ''} "
            "WHERE ({where}) AND typeof({key}) = 'text' GROUP BY 1",
            parameters,
            where=sql,
            key=at.key(check_path(field)),
        )
        return dict(rows)

    def texts(self, collection: str, field: str) -> list[str]:
        table = self._table(collection)
        if field in table.indexes().scan:
            rows = table.read(f"SELECT DISTINCT {column_of(field)} FROM {{table}} INDEXED BY {{scan}}", [])
            return sorted({text for (held,) in rows for text in _texts(held)})
        return sorted(text for (text,) in table.read(_DISTINCT.format(path=json_path(check_path(field))), []))

    def sweep(self, collection: str) -> int:
        return self._table(collection).sweep()

    def collections(self) -> list[str]:
        return [name.partition(".")[2] for name in self._documents.tables(f"{self.name}.")]

    def __repr__(self) -> str:
        return f"SqliteNamespace({self.name!r})"

    def _table(self, collection: str) -> _Table:
        return self._documents.table(self.name, collection)


class _Table:
    """One collection: its statements, and the declarations of this process."""

    def __init__(self, name: str, database: SqliteDatabase, clock: Callable[[], float]) -> None:
        self.name = name
        self._sql_name = f'"{name}"'
        self._database = database
        self._clock = clock
        self._indexes: list[str] = []
        self._scan: list[str] = []
        self._ttl: Ttl | None = None
        self._swept = 0.0
        #: The version of the file's schema, and what indexes there are in it.
        self._known: tuple[int, Indexes] | None = None

    def spell(self, sql: str, **parts: str) -> str:
        """Return the SQL with its names."""
        return sql.format(table=self._sql_name, scan=f'"{self.name}{_SCAN}"', **parts)

    def declare(self, indexes: list[list[Key]], scan: list[str], ttl: Ttl | None) -> None:
        statements = [self._index(keys) for keys in indexes]
        if ttl is not None:
            check_path(ttl.field)
            statements.append(_CREATE_SWEEP.format(name=self.name, table=self._sql_name))
        self._indexes = list(dict.fromkeys([*self._indexes, *statements]))
        self._ttl = ttl or self._ttl
        self._scan = scan or self._scan
        with self._database.writing() as connection:
            self._create(connection)

    def is_read_by_columns(self, where: Filter, keys: Sequence[Key] = ()) -> bool:
        """Whether to look through the columns: no index serves the query, nor finds few documents by a value."""
        indexes = self.indexes()
        if not indexes.can_scan(where, keys) or (keys and indexes.serve(where, keys)):
            return False
        return not any(self._is_rare(equal) for equal in indexes.leading(where))

    def _is_rare(self, equal: Eq) -> bool:
        sql, parameters = condition(equal)
        rows = self.read(
            "SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {where} LIMIT ?)", [*parameters, FEW], where=sql
        )
        return bool(rows) and rows[0][0] < FEW

    def indexes(self) -> Indexes:
        """What the table has now; other processes make indexes, too."""
        with self._database.reading() as connection:
            version = connection.execute("PRAGMA schema_version").fetchone()[0]
            if self._known is None or self._known[0] != version:
                self._known = version, _indexes(connection, self.name)
        return self._known[1]

    def read(self, sql: str, parameters: list[Any], **parts: str) -> list[Any]:
        """Return the rows; none if the collection does not exist. `parts` stand in the SQL by their names."""
        with self._database.reading() as connection:
            try:
                return connection.execute(self.spell(sql, **parts), parameters).fetchall()
            except sqlite3.OperationalError as error:
                if _is_missing(error):
                    return []
                raise

    def write(self, sql: str, parameters: list[Any]) -> int:
        """Return the count of changed rows; 0 if the collection does not exist."""
        with self._database.writing() as connection:
            try:
                return connection.execute(sql.format(table=self._sql_name), parameters).rowcount
            except sqlite3.OperationalError as error:
                if _is_missing(error):
                    return 0
                raise

    def put(self, documents: list[codec.Encoded]) -> int:
        """Return how many were stale."""
        if not documents:
            return 0
        rows = [(d.id, d.at, expiry(self._ttl, d.source), d.raw.decode()) for d in documents]
        with self._database.writing() as connection:
            try:
                written = self._insert(connection, rows)
            except sqlite3.OperationalError as error:
                if not _is_missing(error):
                    raise
                self._create(connection)
                written = self._insert(connection, rows)
        if self._ttl is not None and self._clock() - self._swept >= SWEEP_SECONDS:
            self.sweep()
        return len(rows) - written

    def _insert(self, connection: Connection, rows: list[tuple[Any, ...]]) -> int:
        """Return how many were written."""
        written = done = 0
        for size in _ROWS:
            sql = _PUT.format(table=self._sql_name, rows=", ".join(["(?, ?, ?, ?)"] * size))
            while len(rows) - done >= size:
                written += connection.execute(sql, list(chain.from_iterable(rows[done : done + size]))).rowcount
                done += size
        return written

    def sweep(self) -> int:
        self._swept = self._clock()
        return self.write(_SWEEP, [self._swept])

    def _create(self, connection: Connection) -> None:
        connection.execute(_CREATE.format(table=self._sql_name))
        for statement in self._indexes:
            connection.execute(statement)
        if self._scan:
            self._create_scan(connection)

    def _create_scan(self, connection: Connection) -> None:
        """Columns that repeat fields take no room: their values lie in the index alone."""
        there = {column[1] for column in connection.execute(f"PRAGMA table_xinfo({self._sql_name})")}
        for field in self._scan:
            if f"={field}" not in there:
                column = f"{column_of(field)} GENERATED ALWAYS AS ({column_value(field)}) VIRTUAL"
                connection.execute(f"ALTER TABLE {self._sql_name} ADD COLUMN {column}")
        if _indexes(connection, self.name).scan != set(self._scan):
            columns = ", ".join(column_of(field) for field in [*self._scan, "_id"])
            connection.execute(self.spell("DROP INDEX IF EXISTS {scan}"))
            connection.execute(self.spell("CREATE INDEX {scan} ON {table} ({columns})", columns=columns))

    def _index(self, keys: list[Key]) -> str:
        terms = order_by(keys)
        digest = hashlib.sha256(terms.encode()).hexdigest()[:16]
        return f'CREATE INDEX IF NOT EXISTS "{self.name}#{digest}" ON {self._sql_name} ({terms})'


def _indexes(connection: Connection, table: str) -> Indexes:
    sql = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
    made = [text for (text,) in connection.execute(sql, [table])]
    columns = [column for _, _, column in connection.execute(f'PRAGMA index_info("{table}{_SCAN}")')]
    return Indexes(
        orders=frozenset(text.partition(f' ON "{table}" (')[2].removesuffix(")") for text in made),
        scan=frozenset(column.removeprefix("=") for column in columns if column.startswith("=")),
    )


def _texts(held: Any) -> list[str]:
    """Return the texts in what a column holds."""
    if isinstance(held, bytes) and held.startswith(b"["):
        return [item for item in msgspec.json.decode(held) if isinstance(item, str)]
    return [held] if isinstance(held, str) else []


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


def _is_missing(error: sqlite3.OperationalError) -> bool:
    return "no such table" in str(error)
