"""The Series port: numbers over time.

    series = open_series("influxdb://127.0.0.1:8086/fleetbus", [
        Measurement("node", tags=("node",), keep=30 * DAY),
    ])
    series.write([Point("node", {"node": "n1"}, {"cpu_percent": 12.5}, time=1_767_225_600_000_000_000)])
    lines = series.query("node", ["cpu_percent"], tags={"node": "n1"}, start=t0, end=t1, step=60 * SECOND)
    lines["cpu_percent"]  # [(t, 12.5), …]

All times are integers: nanoseconds since 1970, UTC. Several processes and threads may write and read
at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Value = float | str | bool
#: What becomes of the values of one step. `count` and `last` take any type, the others only numbers.
Aggregate = Literal["mean", "max", "min", "sum", "last", "count"]
#: (time in nanoseconds, value), in order of time.
Line = list[tuple[int, Value]]

#: Nanoseconds.
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """What may be written under one name.

    Tags are indexed, and each new combination of their values costs memory for ever: name only what
    is bounded by the size of the fleet (node, role, disk), never a job, event, process or free text;
    those are fields. `keep` is the retention in seconds, at least one hour (InfluxDB's minimum).
    """

    name: str
    tags: tuple[str, ...]
    keep: float


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one moment.

    Measurement, tags and time identify it: writing it again, or with other fields, leaves one point
    that holds the last value of each field. Numbers are doubles: an int is read back as a float.
    """

    measurement: str
    tags: Mapping[str, str]
    fields: Mapping[str, float | str | bool]
    #: nanoseconds since 1970
    time: int = field(kw_only=True)


class Series(ABC):
    """Points by measurement, for the measurements declared when it was opened.

    `namespace(name)` gives the same measurements apart from all others: projections that write points
    rebuild them there and drop them. What comes from telemetry is written to the root, which no
    rebuild touches.

    Names of measurements, tags and fields match `[a-zA-Z_][a-zA-Z0-9_]{0,63}` (else `BadName`); tag
    values are any text of 1 to 256 characters.
    """

    @abstractmethod
    def namespace(self, name: str) -> Series:
        """Return a handle on the namespace, named as those of Documents; it need not exist."""

    @abstractmethod
    def drop_namespace(self, name: str) -> None:
        """Delete all points of the namespace; none is no error."""

    @abstractmethod
    def write(self, points: Iterable[Point]) -> int:
        """Write the points, in few round trips; return how many were too old to be kept.

        A measurement or tag that was not declared raises `BadPoint` before anything is written. NaN
        and infinite numbers are left out. A field keeps the type (number, text, flag) of its first
        value: a point that changes it raises `BadPoint` naming the field, after the others were
        written.
        """

    @abstractmethod
    def query(
        self,
        measurement: str,
        fields: Sequence[str],
        *,
        start: int,
        end: int,
        tags: Mapping[str, str] | None = None,
        step: int | None = None,
        aggregate: Aggregate = "mean",
        limit: int = 10_000,
    ) -> dict[str, Line]:
        """Return the line of each field for `start` <= time < `end` (nanoseconds).

        Only points with all of these tag values count. With `step`, the values of each step are
        aggregated; steps begin at multiples of `step` since 1970, the time is the beginning of the step,
        and steps without a value are left out. Without it, single values come in order of time. At
        most `limit` (1 to 100,000) times are read, the earliest. A field without values gives an
        empty line. An aggregate that does not fit the field's type raises `BadQuery`.
        """

    @abstractmethod
    def latest(self, measurement: str, tags: Mapping[str, str] | None = None) -> Point | None:
        """Return the newest point with these tag values, or None."""

    @abstractmethod
    def measurements(self) -> list[str]:
        """Return the names of the measurements that hold points, sorted."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the storage answers; raises `Unreachable` otherwise."""

    @abstractmethod
    def close(self) -> None:
        """Let go of all connections; closing again is no error."""
