"""Columns that repeat fields of documents: their names, and what they hold. Pure.

A table that was declared before its first document has a real column for each field of its indexes and of `scan`,
filled by whoever writes: an index over columns is made in a third of the time that one over JSON text takes. Older
tables, and fields that were declared later, have columns which SQLite computes from the document (`scan` alone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import Struct, defstruct
from msgspec.structs import astuple

from projections.osis.query import check_path

#: What fields hold that has no order of its own: null or missing, false, true, objects, lists.
NULL = float("-inf")
FALSE, TRUE, OBJECT, LIST = b"\x00", b"\x01", b"\x02", b"\x03"

_list_encoder = msgspec.json.Encoder()


def json_path(field: str) -> str:
    """Return the SQL literal of a checked field path."""
    return "'$" + "".join(f'."{name}"' for name in field.split(".")) + "'"


def key_of(field: str) -> str:
    """Return the expression for the field's place in the order."""
    if check_path(field) == "_id":
        return "id"
    path = json_path(field)
    return (
        f"CASE json_type(doc, {path}) WHEN 'true' THEN x'01' WHEN 'false' THEN x'00'"
        f" WHEN 'object' THEN x'02' WHEN 'array' THEN x'03'"
        f" ELSE coalesce(json_extract(doc, {path}), -9e999) END"
    )


def column_of(field: str) -> str:
    """Return the name of the column that repeats a field."""
    return "id" if check_path(field) == "_id" else f'"={field}"'


def column_value(field: str) -> str:
    """Return what such a column holds, as SQL: the field's key, where a list is its JSON as a blob.

    Such a blob begins with `[`, so that it sorts behind the blobs of all other values.
    """
    path = json_path(field)
    return (
        f"CASE json_type(doc, {path}) WHEN 'array' THEN CAST(json_extract(doc, {path}) AS BLOB)"
        f" ELSE {key_of(field)} END"
    )


class Read(Struct, frozen=True, gc=False):
    """What is read from a document: its value of one field as it is, and what the columns of others hold."""

    value: Any
    columns: list[Any]


class ColumnsReader:
    """Reads fields from documents that are JSON: of the rest no objects are made."""

    def __init__(self, field: str | None, columns: Sequence[str]) -> None:
        paths = [path.split(".") for path in [field or "_id", *columns]]
        names = list(dict.fromkeys(name for name, *_ in paths))
        shape = defstruct(
            "Fields",
            [(f"f{n}", Any, None) for n in range(len(names))],
            rename={f"f{n}": name for n, name in enumerate(names)},
            gc=False,
        )
        self._decode: Callable[[bytes], Struct] = msgspec.json.Decoder(shape).decode
        #: Where the values of the paths are, if they are not simply what was read; below them only some look further.
        self._places: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
        if any(rest for _, *rest in paths):
            places = [(names.index(name), rest) for name, *rest in paths]
            self._places = lambda found: tuple(_reach(found[at], rest) for at, rest in places)
        elif len(names) < len(paths):
            self._places = itemgetter(*(names.index(name) for (name,) in paths))

    def read(self, raw: bytes) -> Read:
        """Return what the document holds; raises msgspec's errors."""
        found = astuple(self._decode(raw))
        if self._places is not None:
            found = self._places(found)
        return Read(
            found[0],
            [
                value if (kind := type(value)) is str or kind is int else NULL if value is None else _HELD[kind](value)
                for value in found[1:]
            ],
        )


def _reach(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name) if type(value) is dict else None
    return value


_HELD: dict[type, Callable[[Any], Any]] = {
    bool: lambda flag: TRUE if flag else FALSE,
    float: lambda number: number,
    dict: lambda _: OBJECT,
    list: _list_encoder.encode,
}
