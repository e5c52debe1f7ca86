"""What adapters share of a query: checked field paths, sort orders and cursors. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from projections.osis.codec import tame_text
from projections.osis.errors import BadQuery
from projections.osis.filters import Scalar

#: Most documents of one page.
MAX_LIMIT: Final = 1_000

_PATH = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}")


@dataclass(frozen=True, slots=True)
class Key:
    """One field to sort by."""

    field: str
    descending: bool


def check_path(field: str) -> str:
    """Return the field path; raises `BadQuery`."""
    if not _PATH.fullmatch(field):
        raise BadQuery(f"{field[:80]!r} is no field path: names of A-Z, a-z, 0-9, _ and -, joined by dots")
    return field


def check_limit(limit: int, most: int = MAX_LIMIT) -> int:
    """Return the limit; raises `BadQuery`."""
    if not 1 <= limit <= most:
        raise BadQuery(f"limit {limit} is out of bounds: 1 to {most}")
    return limit


def check_scalar(value: Scalar) -> Scalar:
    """Return the value as documents keep it; raises `BadQuery`."""
    match value:
        case None | bool():
            return value
        case str():
            return tame_text(value)
        case int() if -(2**63) <= value < 2**63:
            return value
        case float() if value - value == 0:
            return value
        case _:
            raise BadQuery(f"{value!r:.80} cannot be compared: text, 64-bit integer, finite float, boolean or null")


def parse_sort(sort: Sequence[str]) -> list[Key]:
    """Return the sort keys with `_id` as the last, which makes the order total."""
    if isinstance(sort, str):
        raise BadQuery(f"a sort is a list of fields, not the text {sort!r:.80}")
    keys = [Key(check_path(part.removeprefix("-")), part.startswith("-")) for part in sort]
    names = [key.field for key in keys]
    if len(set(names)) != len(names):
        raise BadQuery(f"a field is named twice in the sort {list(sort)!r:.200}")
    if "_id" in names:
        return keys[: names.index("_id") + 1]
    return [*keys, Key("_id", keys[-1].descending if keys else False)]


def parse_indexes(orders: Iterable[Sequence[str]]) -> list[list[Key]]:
    """Return the keys of each index; those that begin with `_id` are there anyway."""
    indexes = [parse_sort(order) for order in orders]
    return [keys for keys in indexes if keys[0].field != "_id"]


def value_at(document: Mapping[str, Any], field: str) -> Any:
    """Return the value at the path; None when it is missing."""
    value: Any = document
    for name in field.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def write_cursor(keys: Sequence[Key], document: Mapping[str, Any]) -> str:
    """Return the cursor that stands just after the document; raises `BadQuery`."""
    values = [value_at(document, key.field) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if isinstance(value, list | dict):
            raise BadQuery(
                f"documents cannot be sorted by {key.field!r}: {document['_id']!r:.80} holds no scalar there"
            )
    body = msgspec.json.encode([_spell(keys), values])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def read_cursor(keys: Sequence[Key], cursor: str) -> list[Scalar]:
    """Return the value of each key at the cursor; raises `BadQuery`."""
    try:
        body = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        spelled, values = msgspec.json.decode(body, type=tuple[str, list[str | int | float | bool | None]])
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise BadQuery("the cursor is not one this storage gave out; begin without a cursor") from None
    if spelled != _spell(keys) or len(values) != len(keys) or not isinstance(values[-1], str):
        raise BadQuery("the cursor belongs to another sort; begin without a cursor")
    return [check_scalar(value) for value in values]


def text_after(prefix: str) -> str | None:
    """Return the least text above all that begin with the prefix; None if there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None


def folded_pattern(text: str) -> str:
    """Return a regular expression for the text, letter case ignored, that every engine reads alike.

    Each letter becomes a class of its forms, so no engine's own idea of letter case matters.
    """
    return "".join(_forms(char) for char in tame_text(text))


def _forms(char: str) -> str:
    forms = sorted({form for form in (char, char.lower(), char.upper()) if len(form) == 1})
    if len(forms) > 1:
        return f"[{''.join(forms)}]"
    return char if char.isalnum() else _escape(char)


def _escape(char: str) -> str:
    return f"\\{char}" if char.isascii() and char.isprintable() and char != " " else char


def _spell(keys: Sequence[Key]) -> str:
    return ",".join(("-" if key.descending else "") + key.field for key in keys)
