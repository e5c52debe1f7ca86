"""One collection as a table of SQLite: its layout, what is written to it, and the declarations of this process.

    id | at | expires | filled | "=state" … | doc

A table that was declared with fields before its first document has a column for each (`sqlite_columns`). Versions of
fleetbus that know nothing of such columns may write to the same file while it is upgraded: they leave `filled` as it
is, and by that two triggers see that the columns are to be computed from the document. So they are right, whoever
writes.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from projections.osis import codec
from projections.osis.documents import Ttl
from projections.osis.query import Key, check_path
from projections.osis.sqlite_columns import ColumnsReader, Read, column_of, column_value
from projections.osis.sqlite_database import Connection, SqliteDatabase
from projections.osis.sqlite_look import SCAN, Look
from projections.osis.sqlite_plan import Layout
from projections.osis.sqlite_query import order_by
from projections.osis.ttl import SWEEP_SECONDS, expiry_of

# `id` and the columns of fields have no type, so that SQLite never turns a number into text. The document comes last,
# so that nobody reads through it who looks for a column.
_CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} (id PRIMARY KEY NOT NULL, at INTEGER, expires REAL, {columns}doc TEXT NOT NULL)"
)
_CREATE_SWEEP = 'CREATE INDEX IF NOT EXISTS "{name}#expires" ON {table} (expires) WHERE expires IS NOT NULL'
_CREATE_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS "{name}#{event}" AFTER {when} BEGIN
    UPDATE {table} SET filled = 0, {values} WHERE rowid = NEW.rowid;
END
"""
#: What a version has written that knows no columns.
_TRIGGERS = {
    "inserted": "INSERT ON {table} WHEN NEW.filled IS NULL",
    "updated": "UPDATE OF doc ON {table} WHEN NEW.filled IS OLD.filled",
}
#: Rows that one statement writes, the most first, and the most parameters of one. After each statement Python waits
#: until other threads pause, up to five milliseconds; so many rows of a batch must not be as many statements.
_ROWS, _PARAMETERS = (1_000, 200, 40, 8, 1), 32_000
_PUT = """
INSERT INTO {table} ({columns}) VALUES {rows}
ON CONFLICT (id) DO UPDATE SET {changes}
WHERE excluded.at IS NULL OR {table}.at IS NULL OR excluded.at >= {table}.at
"""
_SWEEP = "DELETE FROM {table} WHERE expires <= ?"


class Table:
    """One collection: its statements, and the declarations of this process."""

    def __init__(self, name: str, database: SqliteDatabase, clock: Callable[[], float]) -> None:
        self.name = name
        self._sql_name = f'"{name}"'
        self._database = database
        self._clock = clock
        self._indexes: list[list[Key]] = []
        self._scan: list[str] = []
        #: Those of the columns, should the table be made.
        self._fields: list[str] = []
        #: Others than this version may write to the table, too.
        self._shared = False
        self.ttl: Ttl | None = None
        self._swept = 0.0
        #: What reads a field of documents, and what columns are to hold.
        self._readers: dict[tuple[str | None, ...], Callable[[bytes], Read]] = {}
        #: The version of the file's schema, and the layout there.
        self._known: tuple[int, Layout] | None = None

    def declare(self, indexes: list[list[Key]], scan: list[str], fields: list[str], ttl: Ttl | None) -> None:
        if ttl is not None:
            check_path(ttl.field)
        self._indexes += [keys for keys in indexes if keys not in self._indexes]
        self._scan = scan or self._scan
        named = [*fields, *(key.field for keys in self._indexes for key in keys), *self._scan]
        self._fields = [field for field in dict.fromkeys([*self._fields, *named]) if field != "_id"]
        self._shared = self._shared or not fields
        self.ttl = ttl or self.ttl
        with self._database.writing() as connection:
            self._create(connection)

    @contextmanager
    def look(self) -> Iterator[Look]:
        """Lends what can be asked of the table at one moment."""
        with self._database.reading() as connection:
            yield Look(connection, self.name, self.layout(connection))

    def layout(self, connection: Connection) -> Layout:
        """What the table has now; other processes make tables and indexes, too."""
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        known = self._known
        if known is None or known[0] != version:
            known = self._known = version, _layout(connection, self.name)
        return known[1]

    def write(self, sql: str, parameters: list[Any]) -> int:
        """Return the count of changed rows; 0 if the collection does not exist."""
        with self._database.writing() as connection:
            try:
                return connection.execute(sql.format(table=self._sql_name), parameters).rowcount
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return 0
                raise

    def put(self, documents: list[codec.Encoded]) -> int:
        """Return how many were stale."""
        if not documents:
            return 0
        with self._database.writing() as connection:
            layout = self.layout(connection)
            if not layout.there:
                layout = self._create(connection)
            written = self._insert(connection, documents, layout.columns)
        self.sweep_now_and_then()
        return len(documents) - written

    def put_into_what_is_there(self, connection: Connection, documents: list[codec.Encoded], ttl: Ttl | None) -> int:
        """The same for who has declared nothing. Raises `LookupError` if there is no such table."""
        self.ttl = ttl
        layout = self.layout(connection)
        if not layout.there:
            raise LookupError(self.name)
        return len(documents) - self._insert(connection, documents, layout.columns)

    def _insert(self, connection: Connection, documents: Sequence[codec.Encoded], fields: Sequence[str]) -> int:
        """Return how many were written."""
        written = done = 0
        read, ttl = self._reader(fields), self.ttl
        width = 4 + bool(fields) + len(fields)
        for size in (size for size in _ROWS if size * width <= _PARAMETERS):
            sql = self._put(fields, size)
            while len(documents) - done >= size:
                values: list[Any] = []
                for one in documents[done : done + size]:
                    found = read(one.raw)
                    values += (one.id, one.at, None if ttl is None else expiry_of(ttl, found.value))
                    if fields:
                        values.append(0)
                        values += found.columns
                    values.append(one.raw.decode())
                written += connection.execute(sql, values).rowcount
                done += size
        return written

    def _reader(self, fields: Sequence[str]) -> Callable[[bytes], Read]:
        field = None if self.ttl is None else self.ttl.field
        known = self._readers.get((field, *fields))
        if known is None:
            known = self._readers[field, *fields] = ColumnsReader(field, fields).read
        return known

    def _put(self, fields: Sequence[str], rows: int) -> str:
        columns = ["id", "at", "expires", *(["filled"] if fields else []), *map(column_of, fields), "doc"]
        changes = [
            f"filled = NOT coalesce({self._sql_name}.filled, 0)"
            if column == "filled"
            else f"{column} = excluded.{column}"
            for column in columns[1:]
        ]
        row = f"({', '.join('?' * len(columns))})"
        return _PUT.format(
            table=self._sql_name, columns=", ".join(columns), rows=", ".join([row] * rows), changes=", ".join(changes)
        )

    def sweep_now_and_then(self) -> None:
        if self.ttl is not None and self._clock() - self._swept >= SWEEP_SECONDS:
            self.sweep()

    def sweep(self) -> int:
        self._swept = self._clock()
        return self.write(_SWEEP, [self._swept])

    def _create(self, connection: Connection) -> Layout:
        """Makes what is declared and not there yet. Returns what the table has then, and perhaps some indexes more."""
        columns = "".join(f"{column}, " for column in ("filled INTEGER", *map(column_of, self._fields)))
        connection.execute(_CREATE.format(table=self._sql_name, columns=columns if self._fields else ""))
        # not remembered before it is committed
        layout = _layout(connection, self.name)
        if self.ttl is not None:
            connection.execute(_CREATE_SWEEP.format(name=self.name, table=self._sql_name))
        for keys in self._indexes:
            terms = order_by(keys, layout.reading)
            digest = hashlib.sha256(terms.encode()).hexdigest()[:16]
            connection.execute(f'CREATE INDEX IF NOT EXISTS "{self.name}#{digest}" ON {self._sql_name} ({terms})')
        if self._scan and layout.scan != tuple(self._scan):
            self._create_scan(connection)
        if self._shared and layout.columns:
            self._create_triggers(connection, layout.columns)
        return layout

    def _create_scan(self, connection: Connection) -> None:
        """Where there are no columns for its fields, SQLite computes such as take no room: their values lie in the
        index alone.
        """
        there = {column[1] for column in connection.execute(f"PRAGMA table_xinfo({self._sql_name})")}
        for field in self._scan:
            if field != "_id" and f"={field}" not in there:
                column = f"{column_of(field)} GENERATED ALWAYS AS ({column_value(field)}) VIRTUAL"
                connection.execute(f"ALTER TABLE {self._sql_name} ADD COLUMN {column}")
        columns = ", ".join(column_of(field) for field in [*self._scan, "_id"])
        connection.execute(f'DROP INDEX IF EXISTS "{self.name}{SCAN}"')
        connection.execute(f'CREATE INDEX "{self.name}{SCAN}" ON {self._sql_name} ({columns})')

    def _create_triggers(self, connection: Connection, fields: Sequence[str]) -> None:
        values = ", ".join(f"{column_of(field)} = {column_value(field)}" for field in fields)
        for event, when in _TRIGGERS.items():
            on = when.format(table=self._sql_name)
            connection.execute(
                _CREATE_TRIGGER.format(name=self.name, event=event, when=on, table=self._sql_name, values=values)
            )


def _layout(connection: Connection, table: str) -> Layout:
    sql = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
    made = [text for (text,) in connection.execute(sql, [table])]
    # what SQLite computes is hidden
    columns = [(name, hidden) for _, name, *_, hidden in connection.execute(f'PRAGMA table_xinfo("{table}")')]
    scan = [name for _, _, name in connection.execute(f'PRAGMA index_info("{table}{SCAN}")')]
    return Layout(
        there=bool(columns),
        orders=frozenset(text.partition(f' ON "{table}" (')[2].removesuffix(")") for text in made),
        scan=tuple(name.removeprefix("=") for name in scan if name.startswith("=")),
        columns=tuple(name.removeprefix("=") for name, hidden in columns if name.startswith("=") and not hidden),
    )
