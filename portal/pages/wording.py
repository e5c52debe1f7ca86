"""How values are written on pages: moments, durations, sizes, ids. Pure; templates use these as filters."""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def parse_moment(value: Any) -> datetime | None:
    """A moment of a document; None when there is none, or it cannot be read."""
    if isinstance(value, datetime):
        return value
    return _parse(value) if isinstance(value, str) else None


@lru_cache(maxsize=1_024)
def _parse(text: str) -> datetime | None:
    # pages write each moment in three ways
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def clock_time(value: Any) -> str:
    """A moment in full, in UTC, to the second."""
    at = parse_moment(value)
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def precise_time(value: Any) -> str:
    """A moment's time of day in UTC, to the millisecond."""
    at = parse_moment(value)
    return "" if at is None else at.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def iso_time(value: Any) -> str:
    at = parse_moment(value)
    return "" if at is None else at.isoformat()


def ago(value: Any, now: datetime) -> str:
    """How long ago a moment was: `12 s ago`, `3 min ago`; the date when that is easier to read."""
    at = parse_moment(value)
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    if seconds < -1:
        return f"in {duration(-seconds)}"
    if seconds > 14 * 86_400:
        return at.strftime("%Y-%m-%d")
    return "just now" if seconds < 1 else f"{_coarse(seconds)} ago"


def _coarse(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h" if seconds < 86_400 else f"{seconds / 86_400:.0f} d"


def duration(value: Any) -> str:
    """Seconds as a person says them: `340 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if not isinstance(value, int | float):
        return ""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s".replace(".0 s", " s")
    for unit, seconds, smaller, parts in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if value >= seconds:
            rest = int(value % seconds // parts)
            return f"{int(value // seconds)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{value:.0f} s"


def size(value: Any) -> str:
    """Bytes: `512 B`, `1.4 kB`, `16 GB`."""
    if not isinstance(value, int | float):
        return ""
    amount, unit = float(value), 0
    while abs(amount) >= 999.5 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.0f} {_SIZES[unit]}" if unit == 0 or abs(amount) >= 100 else f"{amount:.1f} {_SIZES[unit]}"


def number(value: Any) -> str:
    """A count with thousands apart."""
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def short(id: Any) -> str:
    """An id for a narrow column: the end of a UUID (its beginning is a time), the beginning of a hash."""
    text = str(id or "")
    if len(text) == 36 and text.count("-") == 4:
        return text[-12:]
    return text[:12] if len(text) == 64 else text


def moment_words(key: Any) -> str:
    """A moment of the past, as `as_of` has it: a time, or an offset."""
    text = str(key or "")
    return f"offset {int(text):,}" if text.isdecimal() else clock_time(text)


def words(state: Any) -> str:
    """A state as people say it: `timed_out` is `timed out`."""
    return str(state or "unknown").replace("_", " ")


def actor_name(actor: Any) -> str:
    """`user:alice` is `alice`; others keep their kind."""
    return str(actor or "").removeprefix("user:")


def pretty(value: Any) -> str:
    """JSON with indents."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def compact(value: Any, limit: int = 120) -> str:
    """JSON on one line, cut to `limit` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def query(parameters: dict[str, Any], **changes: Any) -> str:
    """A query string of what is set, with changes; None or "" takes a parameter out."""
    merged = {**parameters, **changes}
    return urlencode({name: value for name, value in merged.items() if value not in (None, "", False)})
