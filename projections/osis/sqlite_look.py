"""Looking at one table of documents, all in one read transaction: what it has, and the ways to find something in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from projections.osis.codec import decode
from projections.osis.documents import Document
from projections.osis.filters import EVERYTHING, And, Eq, Exists, Filter
from projections.osis.query import Key, check_path
from projections.osis.sqlite_columns import column_of, json_path
from projections.osis.sqlite_database import Connection
from projections.osis.sqlite_plan import FEW, Layout, lists_of
from projections.osis.sqlite_query import Reading, beyond, condition, order_by

SCAN = "#scan"
#: One row for all documents: each row more is a wait for the interpreter's lock, of up to five milliseconds.
_TOGETHER = "SELECT '[' || group_concat(doc) || ']' FROM ({select})"
_FIND = "SELECT doc FROM {table} WHERE {where} ORDER BY {order} LIMIT ?"
#: One page through the columns, which are small, and only then its documents.
_FIND_IN_SCAN = """
SELECT doc FROM {table} JOIN (
    SELECT rowid AS place FROM {table} INDEXED BY {scan} WHERE {where} ORDER BY {order} LIMIT ?
) ON {table}.rowid = place ORDER BY {order}
"""
_COUNT = "SELECT count(*) FROM {table} {by} WHERE {where}"
_FEW = "SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {where} LIMIT ?)"
_TALLY = """
SELECT json_group_object(word, number) FROM (
    SELECT {key} AS word, count(*) AS number FROM {table} {by} WHERE ({where}) AND typeof({key}) = 'text' GROUP BY 1
)
"""
_TEXTS = """
SELECT json_group_array(text) FROM (
    SELECT DISTINCT each.value AS text FROM {table}, json_each(doc, {path}) AS each
    WHERE each.type = 'text' AND json_type(doc, {path}) <> 'object'
)
"""
#: The texts and the lists among the different values of a column.
_HELD = """
SELECT count(*), json_group_array(json_array(typeof(value), CAST(value AS TEXT)))
    FILTER (WHERE value >= '' AND (typeof(value) = 'text' OR value >= x'5B'))
FROM ({values})
"""
_DISTINCT = "SELECT DISTINCT {column} AS value FROM {table} INDEXED BY {scan}"
#: The same of the column that the index begins with, from one value to the next: fast where they are few.
_STEPS = """
WITH RECURSIVE steps(value) AS (
    SELECT min({column}) FROM {table} INDEXED BY {scan}
    UNION ALL
    SELECT (SELECT min({column}) FROM {table} INDEXED BY {scan} WHERE {column} > value) FROM steps
    WHERE value IS NOT NULL LIMIT {most}
)
SELECT value FROM steps WHERE value IS NOT NULL
"""
#: More different values than so many are not gone through one by one.
MOST_STEPS = 1_000

_held = msgspec.json.Decoder(list[tuple[str, str]])


class Look:
    """What can be asked of the table at the moment of the connection's transaction. Of no table nothing is found."""

    def __init__(self, connection: Connection, name: str, layout: Layout) -> None:
        self._connection = connection
        self.layout = layout
        self.names = {"table": f'"{name}"', "scan": f'"{name}{SCAN}"'}
        self._rare: dict[Eq, bool] = {}
        self._lists: dict[str, list[bytes]] | None = None

    def rows(self, sql: str, parameters: Sequence[Any], **parts: str) -> list[Any]:
        """Return the rows. `parts` stand in the SQL by their names."""
        if not self.layout.there:
            return []
        return self._connection.execute(sql.format(**self.names, **parts), parameters).fetchall()

    def documents(self, select: str, parameters: Sequence[Any], **parts: str) -> list[Document]:
        """Return the documents of a SELECT of `doc` alone, in its order."""
        try:
            rows = self.rows(_TOGETHER.replace("{select}", select), parameters, **parts)
        except sqlite3.DataError:
            # together they are longer than any text can be
            return [decode(doc) for (doc,) in self.rows(select, parameters, **parts)]
        return msgspec.json.decode(rows[0][0]) if rows and rows[0][0] else []

    def page(
        self, where: Filter, keys: Sequence[Key], after: Sequence[Any] | None, limit: int, *, total: bool
    ) -> tuple[list[Document], int | None]:
        """Return up to `limit` documents, and how many there are on all pages, if wanted."""
        scanning = self.is_scanned(where, keys)
        at = self._scanning(where) if scanning else self.layout.reading
        sql, parameters = condition(where, at)
        place, more = ("1", []) if after is None else beyond(keys, after, at)
        select = _FIND_IN_SCAN if scanning else _FIND
        found = self.documents(
            select, [*parameters, *more, limit], where=f"({sql}) AND ({place})", order=order_by(keys, at)
        )
        if not total:
            return found, None
        return found, len(found) if after is None and len(found) < limit else self.count(where)

    def count(self, where: Filter) -> int:
        scanning = where != EVERYTHING and self.is_scanned(where)
        sql, parameters = condition(where, self._scanning(where) if scanning else self.layout.reading)
        rows = self.rows(_COUNT, parameters, by=self._by(scanning), where=sql)
        return rows[0][0] if rows else 0

    def tally(self, field: str, where: Filter) -> dict[str, int]:
        scanning = self.is_scanned(And(where, Exists(field)))
        at = self._scanning(where) if scanning else self.layout.reading
        sql, parameters = condition(where, at)
        rows = self.rows(_TALLY, parameters, by=self._by(scanning), where=sql, key=at.key(check_path(field)))
        return msgspec.json.decode(rows[0][0], type=dict[str, int]) if rows else {}

    def texts(self, field: str) -> list[str]:
        if field in self.layout.scan:
            _, held = self._distinct(field)
            return sorted({text for kind, value in held for text in _texts(kind, value)})
        rows = self.rows(_TEXTS, [], path=json_path(check_path(field)))
        return sorted(msgspec.json.decode(rows[0][0], type=list[str])) if rows else []

    def is_scanned(self, where: Filter, keys: Sequence[Key] = ()) -> bool:
        """Whether to look through the columns: no index serves the query, nor finds few documents by a value."""
        layout = self.layout
        if not layout.can_scan(where, keys) or (keys and layout.serve(where, keys)):
            return False
        return not any(self._is_rare(equal) for equal in layout.leading(where))

    def _is_rare(self, equal: Eq) -> bool:
        if equal not in self._rare:
            sql, parameters = condition(equal, self.layout.reading)
            self._rare[equal] = self.rows(_FEW, [*parameters, FEW], where=sql)[0][0] < FEW
        return self._rare[equal]

    def _scanning(self, where: Filter) -> Reading:
        """How fields are found in the columns of `scan`."""
        first = self.layout.scan[0]
        if first not in lists_of(where):
            return Reading(self.layout.scan)
        if self._lists is None:
            count, held = self._distinct(first)
            lists = [value.encode() for kind, value in held if kind == "blob"]
            self._lists = {first: lists} if count < MOST_STEPS else {}
        return Reading(self.layout.scan, self._lists)

    def _by(self, scanning: bool) -> str:
        return f"INDEXED BY {self.names['scan']}" if scanning else ""

    def _distinct(self, field: str) -> tuple[int, list[tuple[str, str]]]:
        """Return how many different values there are, and those of them that are texts, or lists as JSON."""
        column = column_of(field)
        if field == self.layout.scan[0]:
            steps = _HELD.replace("{values}", _STEPS)
            count, held = self.rows(steps, [], column=column, most=str(MOST_STEPS))[0]
            if count < MOST_STEPS:
                return count, _held.decode(held)
        count, held = self.rows(_HELD.replace("{values}", _DISTINCT), [], column=column)[0]
        return count, _held.decode(held)


def _texts(kind: str, value: str) -> list[str]:
    if kind == "text":
        return [value]
    return [item for item in msgspec.json.decode(value) if isinstance(item, str)]
