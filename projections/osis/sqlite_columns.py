"""Columns that repeat fields of documents: their names, and what they hold. Pure.

A table that was declared before its first document has a real column for each field of its indexes and of `scan`,
filled by whoever writes: an index over columns is made in a third of the time that one over JSON text takes. Older
tables, and fields that were declared later, have columns which SQLite computes from the document (`scan` alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from projections.osis.query import check_path, value_at

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


def values_of(document: Mapping[str, Any], raw: bytes, fields: Sequence[str]) -> list[Any]:
    """Return what the columns of these fields hold for a document, which is kept as the JSON `raw`.

    `document` differs from its JSON at most in that a value is of another type that is written in the same way.
    """
    found = []
    for field in fields:
        value = document.get(field) if "." not in field else value_at(document, field)
        kind = type(value)
        if kind is str or kind is int:
            found.append(value)
        elif value is None:
            found.append(NULL)
        elif kind in _HELD:
            found.append(_HELD[kind](value))
        else:
            # a moment, a tuple: what the JSON says
            return values_of(msgspec.json.decode(raw), raw, fields)
    return found


_HELD: dict[type, Any] = {
    bool: lambda flag: TRUE if flag else FALSE,
    # neither NaN nor the infinities are JSON: they are kept as null
    float: lambda number: number if number - number == 0 else NULL,
    dict: lambda _: OBJECT,
    list: _list_encoder.encode,
}
