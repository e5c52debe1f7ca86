"""A job's result as people would rather look at it: rows and tables where its shape allows. Pure.

The whole of it as JSON is always beside it; nothing here needs to be complete.
"""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from portal.pages import wording

#: What is drawn at most; more is for the JSON.
MAX_ROWS, MAX_COLUMNS, MAX_BLOCKS = 200, 10, 12


class Block(Struct, frozen=True, kw_only=True):
    """One part: a table with a head, or rows of a name and a value. `left_out`: rows that are not drawn."""

    kind: Literal["table", "rows"]
    title: str = ""
    head: list[str] = []
    rows: list[list[str]]
    left_out: int = 0


def blocks_of(result: Any) -> list[Block]:
    """The parts of a result, [] when only JSON does it justice."""
    if _is_table(result):
        return [_table("", result)]
    if not isinstance(result, dict) or not result:
        return []
    flat = {name: value for name, value in result.items() if _is_flat(value)}
    tables = {name: value for name, value in result.items() if _is_table(value)}
    objects = {name: value for name, value in result.items() if isinstance(value, dict) and _all_flat(value)}
    if len(flat) + len(tables) + len(objects) < len(result):
        return []
    found = [_rows("", flat)] if flat else []
    found += [_rows(_label(name), value) for name, value in objects.items() if value]
    found += [_table(_label(name), value) for name, value in tables.items()]
    return found[:MAX_BLOCKS]


def _is_flat(value: Any) -> bool:
    """A single value, or a list of few of them."""
    if isinstance(value, list):
        return all(one is None or isinstance(one, str | int | float | bool) for one in value)
    return value is None or isinstance(value, str | int | float | bool)


def _all_flat(value: dict[str, Any]) -> bool:
    return all(_is_flat(one) for one in value.values())


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and _all_flat(one) for one in value)
        and 1 <= len(_columns(value)) <= MAX_COLUMNS
    )


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """The names of all columns, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(title: str, rows: list[dict[str, Any]]) -> Block:
    columns = _columns(rows)
    return Block(
        kind="table",
        title=title,
        head=[_label(name) for name in columns],
        rows=[[_said(name, row.get(name)) for name in columns] for row in rows[:MAX_ROWS]],
        left_out=max(0, len(rows) - MAX_ROWS),
    )


def _rows(title: str, values: dict[str, Any]) -> Block:
    return Block(kind="rows", title=title, rows=[[_label(name), _said(name, value)] for name, value in values.items()])


def _label(name: str) -> str:
    words = name.removesuffix("_bytes").removesuffix("_seconds").replace("_", " ")
    return words.removesuffix("percent") + "%" if words.endswith(" percent") else words


def _said(name: str, value: Any) -> str:
    """A value with the unit that its name says; nothing for null."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_said(name, one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(name, value) if isinstance(value, int | float) else wording.compact(value, 400)


def _number(name: str, value: float) -> str:
    for unit, write in _UNITS.items():
        if name.endswith(unit):
            return write(value)
    return f"{value:.6g}" if value % 1 else f"{value:.0f}"


_UNITS: dict[str, Callable[[float], str]] = {
    "_bytes": wording.size,
    "_seconds": wording.duration,
}
