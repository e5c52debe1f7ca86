r"""InfluxDB's line protocol and quoting, so that any text comes back as it was. Pure.

The driver's own writer turns a newline into `\n` and doubles backslashes, for good; and a tag that
ends in a backslash cannot be written at all. Here tags percent-encode what the protocol cannot carry.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from projections.osis.series import Point, Value

_UNSPEAKABLE = re.compile(r"[%\\\x00-\x1f\x7f]")
_SEPARATORS = re.compile(r"([,= ])")


def line(measurement: str, point: Point) -> str:
    """Return the line for a point whose names were checked."""
    tags = "".join(f",{tag}={_escaped(write_tag(text))}" for tag, text in sorted(point.tags.items()))
    fields = ",".join(f"{name}={_field(value)}" for name, value in point.fields.items())
    return f"{measurement}{tags} {fields} {point.time}"


def write_tag(text: str) -> str:
    """Return the tag value as it is kept; equal for equal texts only."""
    return _UNSPEAKABLE.sub(lambda match: f"%{ord(match[0]):02X}", text)


def read_tag(kept: str) -> str:
    """Return the tag value that was kept."""
    return unquote(kept)


def quoted(name: str) -> str:
    """Return a name as InfluxQL's identifier."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return _SEPARATORS.sub(r"\\\1", text)


def _field(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case _:
            return repr(float(value))
