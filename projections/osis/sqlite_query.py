"""Filters, orders and cursors as SQL over a column `doc` of JSON text. Pure.

Every comparison goes through one expression for each field, so that one index serves filter, sort and
cursor. It is never NULL and its order is the port's: SQLite sorts numbers before text before blobs, so
null and missing become minus infinity (which JSON cannot hold), and what is left becomes a blob.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

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
from projections.osis.sqlite_columns import FALSE, NULL, TRUE, column_of, json_path, key_of

#: A condition and the parameters it takes.
Sql = tuple[str, list[Any]]

#: Characters of a text that is looked for by LIKE, which takes no longer ones than some ten thousand.
_LONGEST_LIKE = 1_000
#: Texts whose JSON is themselves between quotes.
_PLAIN = re.compile(r"[A-Za-z0-9 ._:/-]*")


def as_key(value: Scalar) -> Any:
    """Return the parameter that equals the field's key when the field has this value."""
    match check_scalar(value):
        case None:
            return NULL
        case bool() as flag:
            return TRUE if flag else FALSE
        case scalar:
            return scalar


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a query finds fields: in the columns that repeat them, or else in the document."""

    columns: Collection[str] = ()
    #: All different lists, as JSON, that a column holds, of columns where they are few.
    lists: Mapping[str, Sequence[bytes]] = dataclasses.field(default_factory=dict)

    def key(self, path: str) -> str:
        """Return the expression for a field's place in the order."""
        return column_of(path) if path in self.columns else key_of(path)


#: Knows of no columns.
IN_DOCUMENT = Reading()


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
        return _like(key, tame_text(where.text))
    return f"contains(?, {key})", [folded_pattern(where.text)]


def _has(where: Has, at: Reading) -> Sql:
    path, value = check_path(where.field), check_scalar(where.value)
    if path in at.lists:
        return _one_of(path, [where], at)
    test, parameters = "type = 'text' AND value = ?", [value]
    if isinstance(value, bool):
        test, parameters = "type = ?", ["true" if value else "false"]
    elif isinstance(value, int | float):
        test = "type IN ('integer', 'real') AND value = ?"
    has = _has_in_column if path in at.columns else _has_in_document
    return has(path, (test, parameters), value)


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


def _one_of(path: str, wanted: Sequence[Has], at: Reading) -> Sql:
    """The column is one of the lists that have one of the elements."""
    found = [held for held in at.lists[path] if any(_holds(held, check_scalar(one.value)) for one in wanted)]
    return f"{column_of(path)} IN ({', '.join('?' * len(found))})", found


def _holds(held: bytes, value: Scalar) -> bool:
    # a boolean is no number here
    same = (item for item in msgspec.json.decode(held) if (type(item) is bool) is (type(value) is bool))
    return value is not None and any(item == value for item in same)


def _like(key: str, text: str) -> Sql:
    if len(text) > _LONGEST_LIKE:
        return f"(typeof({key}) = 'text' AND instr(lower({key}), ?) > 0)", [text.lower()]
    pattern = re.sub(r"([%_!])", r"!\1", text)
    return f"(typeof({key}) = 'text' AND {key} LIKE ? ESCAPE '!')", [f"%{pattern}%"]


def _exists(where: Exists, at: Reading) -> Sql:
    return f"{at.key(where.field)} > -9e999", []


def _and(where: And, at: Reading) -> Sql:
    return _joined(where.parts, " AND ", "1", at)


def _or(where: Or, at: Reading) -> Sql:
    first = where.parts[0] if where.parts else None
    if isinstance(first, Has) and first.field in at.lists:
        same = [part for part in where.parts if isinstance(part, Has) and part.field == first.field]
        if len(same) == len(where.parts):
            return _one_of(first.field, same, at)
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
