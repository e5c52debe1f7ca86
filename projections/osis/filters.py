"""What a query may ask: a small closed set of frozen values, meaning the same on every adapter.

Rules that hold for all of them:

- A field is a dotted path through objects (`node.name`). A path does not reach into lists.
- *Missing* and *null* are one and the same thing.
- Values have a type of their own: a number is never equal to a string or a boolean, and `Gt`,
  `Gte`, `Lt`, `Lte`, `Prefix` find only values of the operand's type. 1 and 1.0 are equal.
- Strings are compared by code point, exactly.
- Comparisons see scalars only; `Has` is the one that looks into a list (and only there).

The order used for sorting: null or missing, numbers, strings, false, true. A field that holds
lists or objects cannot be sorted by: the order is undefined, and a second page raises `BadQuery`.
"""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Eq:
    """The field equals the value. `Eq(f, None)` finds documents where it is null or missing."""

    field: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """The field equals one of the values; no values find nothing."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Gt:
    """The field is greater than the value (never null)."""

    field: str
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Gte:
    """The field is greater than the value or equal to it (never null)."""

    field: str
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Lt:
    """The field is less than the value (never null)."""

    field: str
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Lte:
    """The field is less than the value or equal to it (never null)."""

    field: str
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """The field is a string that begins with the text, letter case respected. Can use an index."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Contains:
    """The field is a string that holds the text anywhere, letter case ignored.

    The text is taken literally. It reads every document the rest of the filter leaves over.
    """

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Has:
    """The field is a list with an element that equals the value."""

    field: str
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there and not null."""

    field: str


@dataclass(frozen=True, slots=True, init=False)
class And:
    """All of the filters hold; of none, everything is found."""

    parts: tuple[Filter, ...]

    def __init__(self, *parts: Filter) -> None:
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True, slots=True, init=False)
class Or:
    """At least one of the filters holds; of none, nothing is found."""

    parts: tuple[Filter, ...]

    def __init__(self, *parts: Filter) -> None:
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True, slots=True)
class Not:
    """The filter does not hold (null and missing fields included)."""

    part: Filter


Filter = Eq | In | Gt | Gte | Lt | Lte | Prefix | Contains | Has | Exists | And | Or | Not

#: Finds every document.
EVERYTHING = And()
