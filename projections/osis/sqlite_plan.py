"""Which way SQLite reads a query: by an index that serves all of it, or through the columns of the index `scan`. Pure.

SQLite itself never chooses the latter: it would read each document to look at fields that lie in the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from projections.osis.filters import And, Eq, Filter, Has, Not, Or
from projections.osis.query import Key
from projections.osis.sqlite_query import Reading, order_by

#: More documents than so many of one value are looked through faster in columns.
FEW = 500
#: Fields compared with `Eq` in more than so many ways round are not looked for in indexes.
MOST_EQUALS = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table has: the terms of its indexes, the fields that `scan` repeats, in order, and those with a column
    that its writers fill; none of all that if there is no such table.
    """

    there: bool
    orders: frozenset[str] = frozenset()
    scan: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def reading(self) -> Reading:
        """How fields are found, and indexes spelled."""
        return Reading(self.columns)

    def can_scan(self, where: Filter, keys: Iterable[Key] = ()) -> bool:
        """Whether the columns have all that is asked for."""
        return bool(self.scan) and fields_of(where) | {key.field for key in keys} <= {*self.scan, "_id"}

    def serve(self, where: Filter, keys: Sequence[Key]) -> bool:
        """Whether an index has what is found in order, so that a page of it is read and nothing else."""
        equals = [part.field for part in _parts(where) if isinstance(part, Eq)]
        others = {field for part in _parts(where) if not isinstance(part, Eq) for field in fields_of(part)}
        if len(equals) > MOST_EQUALS or others - {keys[0].field}:
            return False
        back = [Key(key.field, not key.descending) for key in keys]
        orders = (
            order_by([*(Key(field, False) for field in fields), *order], self.reading)
            for fields in permutations(equals)
            for order in (keys, back)
        )
        return (keys[0].field == "_id" and not equals) or any(order in self.orders for order in orders)

    def leading(self, where: Filter) -> list[Eq]:
        """The conditions by whose value an index finds documents."""
        return [
            part
            for part in _parts(where)
            if isinstance(part, Eq)
            and any(order.startswith(f"{self.reading.key(part.field)},") for order in self.orders)
        ]


def lists_of(where: Filter) -> set[str]:
    """Return the fields that the filter looks at as lists."""
    match where:
        case And(parts=parts) | Or(parts=parts):
            return {field for part in parts for field in lists_of(part)}
        case Not(part=part):
            return lists_of(part)
        case Has(field=field):
            return {field}
        case _:
            return set()


def fields_of(where: Filter) -> set[str]:
    """Return all fields that the filter names."""
    match where:
        case And(parts=parts) | Or(parts=parts):
            return {field for part in parts for field in fields_of(part)}
        case Not(part=part):
            return fields_of(part)
        case _:
            return {where.field}


def _parts(where: Filter) -> Sequence[Filter]:
    return where.parts if isinstance(where, And) else [where]
