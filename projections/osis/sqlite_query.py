"""Filters, orders and cursors as SQL over a column `doc` of JSON text. Pure.

Every comparison goes through one expression for each field, so that one index serves filter, sort and
cursor. It is never NULL and its order is the port's: SQLite sorts numbers before text before blobs, so
null and missing become minus infinity (which JSON cannot hold), and what is left becomes a blob.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def condition(where: Filter) -> Sql:
    """Return the filter as a condition; raises `BadQuery`."""
    translate = _TRANSLATIONS.get(type(where))
    if translate is None:
        raise BadQuery(f"{where!r:.80} is not a filter")
    return translate(where)


def order_by(keys: Sequence[Key]) -> str:
    """Return the terms of ORDER BY, or of an index."""
    return ", ".join(key_of(key.field) + (" DESC" if key.descending else "") for key in keys)


def beyond(keys: Sequence[Key], values: Sequence[Scalar]) -> Sql:
    """Return the condition for documents after the place of these values in the order."""
    places = [
        (key_of(key.field), "<" if key.descending else ">", as_key(value))
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


def _eq(where: Eq) -> Sql:
    return f"{key_of(where.field)} = ?", [as_key(where.value)]


def _in(where: In) -> Sql:
    marks = ", ".join("?" * len(where.values))
    return f"{key_of(where.field)} IN ({marks})", [as_key(value) for value in where.values]


def _gt(where: Gt) -> Sql:
    return _between(where.field, f"> ? AND {{}} {_ceiling(where.value)}", where.value)


def _gte(where: Gte) -> Sql:
    return _between(where.field, f">= ? AND {{}} {_ceiling(where.value)}", where.value)


def _lt(where: Lt) -> Sql:
    return _between(where.field, f"< ? AND {{}} {_floor(where.value)}", where.value)


def _lte(where: Lte) -> Sql:
    return _between(where.field, f"<= ? AND {{}} {_floor(where.value)}", where.value)


def _between(field: str, form: str, value: Scalar) -> Sql:
    if value is None:
        raise BadQuery(f"{field}: null has no order; ask Exists or Eq(…, None)")
    key = key_of(field)
    return f"{key} {form.format(key)}", [as_key(value)]


def _ceiling(value: Scalar) -> str:
    if isinstance(value, bool):
        return "<= x'01'"
    return "< x''" if isinstance(value, str) else "< ''"


def _floor(value: Scalar) -> str:
    if isinstance(value, bool):
        return ">= x'00'"
    return ">= ''" if isinstance(value, str) else "> -9e999"


def _prefix(where: Prefix) -> Sql:
    key, text = key_of(where.field), tame_text(where.text)
    # Blobs sort after all texts.
    end = text_after(text) or b""
    return f"{key} >= ? AND {key} < ?", [text, end]


def _contains(where: Contains) -> Sql:
    return f"contains(?, {key_of(where.field)})", [folded_pattern(where.text)]


def _has(where: Has) -> Sql:
    path, value = json_path(check_path(where.field)), check_scalar(where.value)
    test, parameters = "type = 'text' AND value = ?", [value]
    if isinstance(value, bool):
        test, parameters = "type = ?", ["true" if value else "false"]
    elif isinstance(value, int | float):
        test = "type IN ('integer', 'real') AND value = ?"
    return (
        f"(json_type(doc, {path}) = 'array' AND EXISTS (SELECT 1 FROM json_each(doc, {path}) WHERE {test}))",
        parameters,
    )


def _exists(where: Exists) -> Sql:
    return f"{key_of(where.field)} > -9e999", []


def _and(where: And) -> Sql:
    return _joined(where.parts, " AND ", "1")


def _or(where: Or) -> Sql:
    return _joined(where.parts, " OR ", "0")


def _not(where: Not) -> Sql:
    sql, parameters = condition(where.part)
    return f"NOT coalesce(({sql}), 0)", parameters


def _joined(parts: Sequence[Filter], joint: str, empty: str) -> Sql:
    if not parts:
        return empty, []
    conditions = [condition(part) for part in parts]
    return (
        "(" + joint.join(f"({sql})" for sql, _ in conditions) + ")",
        [parameter for _, parameters in conditions for parameter in parameters],
    )


_TRANSLATIONS: dict[type, Callable[[Any], Sql]] = {
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
