"""Filters, orders and cursors in MongoDB's query language. Pure.

MongoDB looks into lists of its own accord, the port does not: each condition says that the field, and
each object on the way to it, is no list.
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

Query = dict[str, Any]

_NOTHING: Query = {"_id": {"$in": []}}
_LIST: Query = {"$type": "array"}
#: MongoDB compares only what is of one type; these are the types that sort below and above it.
_BELOW: dict[type, tuple[str, ...]] = {str: ("number",), bool: ("number", "string"), int: (), float: ()}
_ABOVE: dict[type, tuple[str, ...]] = {str: ("bool",), bool: (), int: ("string", "bool"), float: ("string", "bool")}


def condition(where: Filter) -> Query:
    """Return the filter as a query; raises `BadQuery`."""
    translate = _TRANSLATIONS.get(type(where))
    if translate is None:
        raise BadQuery(f"{where!r:.80} is not a filter")
    return translate(where)


def order_by(keys: Sequence[Key]) -> list[tuple[str, int]]:
    """Return the order, or an index for it."""
    return [(key.field, -1 if key.descending else 1) for key in keys]


def beyond(keys: Sequence[Key], values: Sequence[Scalar]) -> Query:
    """Return the query for documents after the place of these values in the order."""
    terms = []
    equal: list[Query] = []
    for key, value in zip(keys, values, strict=True):
        terms += [{"$and": [*equal, step]} for step in _steps(key, value)]
        equal.append({key.field: value})
    return {"$or": terms}


def _steps(key: Key, value: Scalar) -> list[Query]:
    """Return the alternatives for "comes after the value" under one key."""
    field = key.field
    if value is None:
        return [] if key.descending else [{field: {"$ne": None}}]
    if not key.descending:
        types = [{field: {"$type": name}} for name in _ABOVE[type(value)]]
        return [{field: {"$gt": value}}, *types]
    types = [{field: {"$type": name}} for name in _BELOW[type(value)]]
    return [{field: {"$lt": value}}, *types, {field: None}]


def _of_scalar(field: str, test: Query) -> Query:
    guards = [{parent: {"$not": _LIST}} for parent in parents(field)]
    query = {field: test | {"$not": _LIST}}
    return {"$and": [query, *guards]} if guards else query


def parents(field: str) -> list[str]:
    """Return the paths of the objects on the way to the field."""
    names = check_path(field).split(".")
    return [".".join(names[:n]) for n in range(1, len(names))]


def _null(field: str) -> Query:
    query = {field: {"$eq": None, "$not": _LIST}}
    behind_lists = [{parent: _LIST} for parent in parents(field)]
    return {"$or": [query, *behind_lists]} if behind_lists else query


def _eq(where: Eq) -> Query:
    value = check_scalar(where.value)
    return _null(where.field) if value is None else _of_scalar(where.field, {"$eq": value})


def _in(where: In) -> Query:
    values = [check_scalar(value) for value in where.values]
    query = _of_scalar(where.field, {"$in": [value for value in values if value is not None]})
    return {"$or": [query, _null(where.field)]} if None in values else query


def _compare(operator: str) -> Callable[[Gt | Gte | Lt | Lte], Query]:
    def translate(where: Gt | Gte | Lt | Lte) -> Query:
        value = check_scalar(where.value)
        if value is None:
            raise BadQuery(f"{where.field}: null has no order; ask Exists or Eq(…, None)")
        return _of_scalar(where.field, {operator: value})

    return translate


def _prefix(where: Prefix) -> Query:
    text = tame_text(where.text)
    end = text_after(text)
    return _of_scalar(where.field, {"$gte": text} if end is None else {"$gte": text, "$lt": end})


def _contains(where: Contains) -> Query:
    return _of_scalar(where.field, {"$regex": folded_pattern(where.text)})


def _has(where: Has) -> Query:
    guards = [{parent: {"$not": _LIST}} for parent in parents(where.field)]
    return {"$and": [{where.field: {"$elemMatch": {"$eq": check_scalar(where.value)}}}, *guards]}


def _exists(where: Exists) -> Query:
    return {"$nor": [_null(where.field)]}


def _and(where: And) -> Query:
    return {"$and": [condition(part) for part in where.parts]} if where.parts else {}


def _or(where: Or) -> Query:
    return {"$or": [condition(part) for part in where.parts]} if where.parts else _NOTHING


def _not(where: Not) -> Query:
    return {"$nor": [condition(where.part)]}


_TRANSLATIONS: dict[type, Callable[[Any], Query]] = {
    Eq: _eq,
    In: _in,
    Gt: _compare("$gt"),
    Gte: _compare("$gte"),
    Lt: _compare("$lt"),
    Lte: _compare("$lte"),
    Prefix: _prefix,
    Contains: _contains,
    Has: _has,
    Exists: _exists,
    And: _and,
    Or: _or,
    Not: _not,
}
