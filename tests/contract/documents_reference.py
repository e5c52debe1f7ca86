"""What the Documents port promises about queries, in plain Python: slow, and obviously right."""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
)

Document = dict[str, Any]

_COMPARISONS = {Gt: operator.gt, Gte: operator.ge, Lt: operator.lt, Lte: operator.le}


def select(documents: Iterable[Document], where: Filter, sort: Sequence[str] = ()) -> list[Document]:
    """Return the documents that the filter finds, in order."""
    found = [document for document in documents if holds(where, document)]
    compare: Callable[[Document, Document], int] = functools.partial(_compare_by, sort)
    return sorted(found, key=functools.cmp_to_key(compare))


def holds(where: Filter, document: Document) -> bool:
    match where:
        case And(parts):
            return all(holds(part, document) for part in parts)
        case Or(parts):
            return any(holds(part, document) for part in parts)
        case Not(part):
            return not holds(part, document)
        case Has(field, value):
            held = at(document, field)
            return isinstance(held, list) and any(_equal(item, value) for item in held)
        case _:
            return _test(where, at(document, where.field))


def _test(where: Filter, held: Any) -> bool:
    match where:
        case Exists():
            return held is not None
        case Eq(_, value):
            return _equal(held, value)
        case In(_, values):
            return any(_equal(held, value) for value in values)
        case Prefix(_, text):
            return isinstance(held, str) and held.startswith(text)
        case Contains(_, text):
            return isinstance(held, str) and fold(text) in fold(held)
        case Gt(_, value) | Gte(_, value) | Lt(_, value) | Lte(_, value):
            return rank(held) == rank(value) and bool(_COMPARISONS[type(where)](held, value))
        case _:
            raise AssertionError(where)


def at(document: Document, field: str) -> Any:
    value: Any = document
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def rank(value: Any) -> int:
    """Return the place of the value's type: null, numbers, strings, booleans, the rest."""
    match value:
        case None:
            return 0
        case bool():
            return 3
        case int() | float():
            return 1
        case str():
            return 2
        case _:
            return 4


def fold(text: str) -> str:
    return text.lower()


def _equal(held: Any, value: Any) -> bool:
    return rank(held) == rank(value) and bool(held == value)


def _compare_by(sort: Sequence[str], one: Document, other: Document) -> int:
    keys = list(sort)
    if "_id" not in {key.lstrip("-") for key in keys}:
        keys.append("-_id" if keys and keys[-1].startswith("-") else "_id")
    for key in keys:
        field = key.removeprefix("-")
        result = _compare(at(one, field), at(other, field))
        if result:
            return -result if key.startswith("-") else result
    return 0


def _compare(one: Any, other: Any) -> int:
    if rank(one) != rank(other):
        return rank(one) - rank(other)
    if one is None or one == other:
        return 0
    return -1 if one < other else 1
