"""Filters, orders and cursors as SQL over a column `doc` of JSON text. Pure.

Every comparison goes through one expression for each field, so that one index serves filter, sort and
cursor. It is never NULL and its order is the port's: SQLite sorts numbers before text before blobs, so
null and missing become minus infinity (which JSON cannot hold), and what is left becomes a blob.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from projections.osis.codec import tame_text
from projections.osis.errors import BadQuery
from projections.osis.filters import (
    And,
    Contains,
    Eq,
    Exists,
    Filter,
    Gt,
    Gte,
    Has,
    In,
    Lt,
    Lte,
    Not,
    Or,
    Prefix,
    Scalar,
)
from projections.osis.query import Key, check_path, check_scalar, folded_pattern, text_after

#: A condition and the parameters it takes.
Sql = tuple[str, list[Any]]

_NULL = float("-inf")
#: Texts whose JSON is themselves between quotes.
_PLAIN = re.compile(r"[A-Za-z0-9 ._:/-]*")
_FALSE, _TRUE = b"\x00", b"\x01"


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


def json_path(field: str) -> str:
    """Return the SQL literal of a checked field path."""
    return "'$" + "".join(f'."{name}"' for name in field.split(".")) + "'"


def as_key(value: Scalar) -> Any:
    """Return the parameter that equals the field's key when the field has this value."""
    match check_scalar(value):
        case None:
            return _NULL
        case bool() as flag:
            return _TRUE if flag else _FALSE
        case scalar:
            return scalar


def column_of(field: str) -> str:
    """Return the name of the column that repeats a field of `scan`."""
    return "id" if check_path(field) == "_id" else f'"={field}"'


def column_value(field: str) -> str:
    """Return what such a column holds: the field's key, where a list is its JSON as a blob.

    Such a blob begins with `[`, so that it sorts behind the blobs of all other values.
    """
    path = json_path(field)
    return (
        f"CASE json_type(doc, {path}) WHEN 'array' THEN CAST(json_extract(doc, {path}) AS BLOB)"
        f" ELSE {key_of(field)} END"
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a query finds fields: `key` gives the expression for a field's place in the order, `has` the condition
    that a field is a list with an element of this value, which passes this test.
    """

    key: Callable[[str], str]
    has: Callable[[str, Sql, Scalar], Sql]


def _has_in_document(field: str, test: Sql, _value: Scalar) -> Sql:
    path, (sql, parameters) = json_path(field), test
    return (
        f"(json_type(doc, {path}) = 'array' AND EXISTS (SELECT 1 FROM json_each(doc, {path}) WHERE {sql}))",
        parameters,
    )


def _has_in_column(field: str, test: Sql, value: Scalar) -> Sql:
    column, (sql, parameters) = column_of(field), test
    # SQLite may look into what is no list before it sees that it is none
    items = f"json_each(CASE WHEN {column} >= x'5B' THEN CAST({column} AS TEXT) ELSE '[]' END)"
    exact = f"EXISTS (SELECT 1 FROM {items} WHERE {sql})"
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        return f"({column} >= x'5B' AND {exact})", parameters
    # a flat list without escapes has the text exactly if its JSON does; no need to parse thousands of lists
    flat = f"(instr({column}, x'5C') = 0 AND instr({column}, x'7B') = 0 AND instr(substr({column}, 2), x'5B') = 0)"
    return f"({column} >= x'5B' AND instr({column}, ?) > 0 AND ({flat} OR {exact}))", [
        f'"{value}"'.encode(),
        *parameters,
    ]


#: Fields are found in the document, or in the columns that repeat them.
IN_DOCUMENT = Reading(key_of, _has_in_document)
IN_COLUMNS = Reading(column_of, _has_in_column)


def condition(where: Filter, at: Reading = IN_DOCUMENT) -> Sql:
    """Return the filter as a condition; raises `BadQuery`."""
    translate = _TRANSLATIONS.get(type(where))
    if translate is None:
        raise BadQuery(f"{where!r:.80} is not a filter")
    return translate(where, at)


def order_by(keys: Sequence[Key], at: Reading = IN_DOCUMENT) -> str:
    """Return the terms of ORDER BY, or of an index."""
    return ", ".join(at.key(key.field) + (" DESC" if key.descending else "") for key in keys)


def beyond(keys: Sequence[Key], values: Sequence[Scalar], at: Reading = IN_DOCUMENT) -> Sql:
    """Return the condition for documents after the place of these values in the order."""
    places = [
        (at.key(key.field), "<" if key.descending else ">", as_key(value))
        for key, value in zip(keys, values, strict=True)
    ]
    terms: list[str] = []
    parameters: list[Any] = []
    for n, (field, side, value) in enumerate(places):
        equal = [f"{other} = ?" for other, _, _ in places[:n]]
        terms.append(" AND ".join([*equal, f"{field} {side} ?"]))
        parameters += [other for _, _, other in places[:n]] + [value]
    # Says nothing new, but lets SQLite begin in the middle of the index.
    first, side, value = places[0]
    return f"{first} {side}= ? AND (" + " OR ".join(f"({term})" for term in terms) + ")", [value, *parameters]


def _eq(where: Eq, at: Reading) -> Sql:
    return f"{at.key(where.field)} = ?", [as_key(where.value)]


def _in(where: In, at: Reading) -> Sql:
    marks = ", ".join("?" * len(where.values))
    return f"{at.key(where.field)} IN ({marks})", [as_key(value) for value in where.values]


def _gt(where: Gt, at: Reading) -> Sql:
    return _between(at, where.field, f"> ? AND {{}} {_ceiling(where.value)}", where.value)


def _gte(where: Gte, at: Reading) -> Sql:
    return _between(at, where.field, f">= ? AND {{}} {_ceiling(where.value)}", where.value)


def _lt(where: Lt, at: Reading) -> Sql:
    return _between(at, where.field, f"< ? AND {{}} {_floor(where.value)}", where.value)


def _lte(where: Lte, at: Reading) -> Sql:
    return _between(at, where.field, f"<= ? AND {{}} {_floor(where.value)}", where.value)


def _between(at: Reading, field: str, form: str, value: Scalar) -> Sql:
    if value is None:
        raise BadQuery(f"{field}: null has no order; ask Exists or Eq(…, None)")
    key = at.key(field)
    return f"{key} {form.format(key)}", [as_key(value)]


def _ceiling(value: Scalar) -> str:
    if isinstance(value, bool):
        return "<= x'01'"
    return "< x''" if isinstance(value, str) else "< ''"


def _floor(value: Scalar) -> str:
    if isinstance(value, bool):
        return ">= x'00'"
    return ">= ''" if isinstance(value, str) else "> -9e999"


def _prefix(where: Prefix, at: Reading) -> Sql:
    key, text = at.key(where.field), tame_text(where.text)
    # Blobs sort after all texts.
    end = text_after(text) or b""
    return f"{key} >= ? AND {key} < ?", [text, end]


def _contains(where: Contains, at: Reading) -> Sql:
    key = at.key(where.field)
    if where.text.isascii():
        # the same as the pattern, without a call of Python for each document
        return f"(typeof({key}) = 'text' AND instr(lower({key}), ?) > 0)", [tame_text(where.text).lower()]
    return f"contains(?, {key})", [folded_pattern(where.text)]


def _has(where: Has, at: Reading) -> Sql:
    field, value = check_path(where.field), check_scalar(where.value)
    test, parameters = "type = 'text' AND value = ?", [value]
    if isinstance(value, bool):
        test, parameters = "type = ?", ["true" if value else "false"]
    elif isinstance(value, int | float):
        test = "type IN ('integer', 'real') AND value = ?"
    return at.has(field, (test, parameters), value)


def _exists(where: Exists, at: Reading) -> Sql:
    return f"{at.key(where.field)} > -9e999", []


def _and(where: And, at: Reading) -> Sql:
    return _joined(where.parts, " AND ", "1", at)


def _or(where: Or, at: Reading) -> Sql:
    return _joined(where.parts, " OR ", "0", at)


def _not(where: Not, at: Reading) -> Sql:
    sql, parameters = condition(where.part, at)
    return f"NOT coalesce(({sql}), 0)", parameters


def _joined(parts: Sequence[Filter], joint: str, empty: str, at: Reading) -> Sql:
    if not parts:
        return empty, []
    conditions = [condition(part, at) for part in parts]
    return (
        "(" + joint.join(f"({sql})" for sql, _ in conditions) + ")",
        [parameter for _, parameters in conditions for parameter in parameters],
    )


_TRANSLATIONS: dict[type, Callable[[Any, Reading], Sql]] = {
    Eq: _eq,
    In: _in,
    Gt: _gt,
    Gte: _gte,
    Lt: _lt,
    Lte: _lte,
    Prefix: _prefix,
    Contains: _contains,
    Has: _has,
    Exists: _exists,
    And: _and,
    Or: _or,
    Not: _not,
}
