"""When a document has outlived its time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from projections.osis.documents import Ttl
from projections.osis.query import value_at

#: Seconds between two sweeps of one collection by its writers.
SWEEP_SECONDS = 60.0

# The year 9999, the last that all adapters can write.
_FAR = 253_370_764_800.0


def expiry(ttl: Ttl | None, document: Mapping[str, Any]) -> float | None:
    """Return when the document goes, in seconds since 1970; None if never."""
    return None if ttl is None else expiry_of(ttl, value_at(document, ttl.field))


def expiry_of(ttl: Ttl, value: Any) -> float | None:
    """Return the same of what the document holds in the field of its time to live."""
    moment = None if value is None else _seconds_of_text(value) if type(value) is str else _seconds(value)
    if moment is None or not 0 <= moment + ttl.seconds < _FAR:
        return None
    return moment + ttl.seconds


@lru_cache(maxsize=4_096)
def _seconds_of_text(text: str) -> float | None:
    # many documents of one batch hold the same log time
    return _seconds(text)


def _seconds(value: Any) -> float | None:
    match value:
        case bool():
            return None
        case int() | float():
            return float(value)
        case str():
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return None
    if not isinstance(value, datetime):
        return None
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    except OverflowError:
        return None
