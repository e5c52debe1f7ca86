"""What may be written to series and asked of them: the closed set of measurements and their tags. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

from projections.osis.codec import tame_text
from projections.osis.errors import BadPoint, BadQuery, Misuse
from projections.osis.names import check_series
from projections.osis.query import check_limit
from projections.osis.series import Aggregate, Measurement, Point, Value

#: Seconds: InfluxDB takes no shorter retention.
LEAST_KEEP = 3_600.0
#: Most times of one line.
MAX_TIMES = 100_000
#: Bytes of a text field: InfluxDB takes 64 KiB.
MAX_TEXT = 60_000
#: Nanoseconds since 1970: InfluxDB's last one.
_END_OF_TIME = 2**63 - 1_000

#: What a field holds, fixed by its first value.
Kind = Literal["number", "text", "flag"]


class Rules:
    """The declared measurements; raises `Misuse` for a declaration that cannot be kept."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self._measurements: dict[str, Measurement] = {}
        for measurement in measurements:
            self._declare(measurement)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._measurements.values())

    def of(self, name: str) -> Measurement:
        """Return the declaration; raises `BadQuery` for one that is missing."""
        try:
            return self._measurements[name]
        except KeyError:
            raise BadQuery(f"measurement {name!r:.80} is not declared: {self._names()}") from None

    def accept(self, points: Iterable[Point], now: float) -> tuple[list[Point], int]:
        """Return the points to write, with numbers as floats, and how many are too old at `now` (seconds)."""
        young, old = [], 0
        for point in points:
            kept = self._accept(point)
            if point.time < (now - self.of(point.measurement).keep) * 1e9:
                old += 1
            elif kept.fields:
                young.append(kept)
        return young, old

    def check_tags(self, measurement: Measurement, tags: Mapping[str, str] | None) -> Mapping[str, str]:
        """Return the tags to look for; raises `BadQuery`."""
        for tag in tags or {}:
            if tag not in measurement.tags:
                raise BadQuery(f"{tag!r:.80} is no tag of {measurement.name}: {', '.join(measurement.tags)}")
        return {tag: tame_text(text) for tag, text in (tags or {}).items()}

    def _accept(self, point: Point) -> Point:
        measurement = self._measurements.get(point.measurement)
        if measurement is None:
            raise BadPoint(f"measurement {point.measurement!r:.80} is not declared: {self._names()}")
        if not 0 <= point.time <= _END_OF_TIME:
            raise BadPoint(f"{measurement.name}: time {point.time} is no count of nanoseconds since 1970")
        for tag, text in point.tags.items():
            _check_tag(measurement, tag, text)
        fields = {name: _kept(value) for name, value in point.fields.items() if _is_finite(value)}
        for name in fields:
            if name in measurement.tags or name == "time":
                raise BadPoint(f"{measurement.name}: {name!r} names a tag or the time, so it cannot be a field")
            check_series("field", name)
        for name, value in fields.items():
            if isinstance(value, str) and len(value.encode()) > MAX_TEXT:
                raise BadPoint(f"{measurement.name}: the text of field {name!r} has more than {MAX_TEXT:,} bytes")
        tags = {tag: tame_text(text) for tag, text in point.tags.items()}
        return Point(measurement.name, tags, fields, time=point.time)

    def _declare(self, measurement: Measurement) -> None:
        for tag in measurement.tags:
            check_series("tag", tag)
        if check_series("measurement", measurement.name) in self._measurements:
            raise Misuse(f"measurement {measurement.name!r} is declared twice")
        if measurement.keep < LEAST_KEEP:
            raise Misuse(f"measurement {measurement.name!r} is kept {measurement.keep} s: at least {LEAST_KEEP:.0f} s")
        self._measurements[measurement.name] = measurement

    def _names(self) -> str:
        return ", ".join(sorted(self._measurements)) or "none is"


def kind_of(value: Value) -> Kind:
    """Return what kind of field the value makes."""
    match value:
        case bool():
            return "flag"
        case str():
            return "text"
        case _:
            return "number"


def check_span(start: int, end: int, step: int | None) -> None:
    """Raise `BadQuery` for times that no query can have."""
    if not 0 <= start <= _END_OF_TIME or not 0 <= end <= _END_OF_TIME:
        raise BadQuery(f"from {start} to {end}: both are counts of nanoseconds since 1970")
    if step is None:
        return
    if step <= 0:
        raise BadQuery(f"step {step} is not a number of nanoseconds above 0")
    if (end - start) // step > MAX_TIMES:
        raise BadQuery(f"from {start} to {end} there are more than {MAX_TIMES:,} steps of {step} ns: take longer ones")


def check_aggregate(aggregate: str, limit: int) -> None:
    """Raise `BadQuery` for what no query can be."""
    if aggregate not in get_args(Aggregate):
        raise BadQuery(f"no aggregate {aggregate!r:.80}: {', '.join(get_args(Aggregate))}")
    check_limit(limit, MAX_TIMES)


def refuse_aggregate(field: str, aggregate: str, kind: Kind) -> None:
    """Raise `BadQuery` where the aggregate has no meaning for the kind of field."""
    if kind != "number" and aggregate not in ("last", "count"):
        raise BadQuery(f"field {field!r} holds a {kind}: it has no {aggregate}, only last and count")


def _check_tag(measurement: Measurement, tag: str, text: object) -> None:
    if tag not in measurement.tags:
        declared = ", ".join(measurement.tags) or "none"
        raise BadPoint(f"{measurement.name}: tag {tag!r:.80} is not declared ({declared}); unbounded things are fields")
    if not isinstance(text, str) or not 1 <= len(text) <= 256:
        raise BadPoint(f"{measurement.name}: tag {tag} has 1 to 256 characters, not {text!r:.80}")


def _is_finite(value: float | str | bool) -> bool:
    return isinstance(value, str) or math.isfinite(value)


def _kept(value: float | str | bool) -> Value:
    match value:
        case bool():
            return value
        case str():
            return tame_text(value)
        case _:
            return float(value)
