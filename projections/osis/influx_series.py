"""Series in one InfluxDB 1.x database: each measurement under a retention policy of its own name.

A namespace is the beginning of the measurement's name, `live-3.jobs`, so that it needs no database of
its own, which only an administrator could make.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from projections.osis.errors import BadPoint, StorageFailed
from projections.osis.influx_database import InfluxDatabase
from projections.osis.influx_lines import line, quoted, read_tag, write_tag
from projections.osis.names import check_namespace
from projections.osis.series import Aggregate, Line, Measurement, Point, Series, Value
from projections.osis.series_rules import Kind, Rules, check_aggregate, check_span, refuse_aggregate

#: Points of one request: InfluxDB's advice is 5,000 to 10,000.
BATCH = 5_000

_KINDS: dict[str, Kind] = {"float": "number", "integer": "number", "string": "text", "boolean": "flag"}


class InfluxSeries(Series):
    """The series of one database. `clock` gives seconds since 1970, for retention only."""

    def __init__(self, url: str, measurements: Iterable[Measurement], clock: Callable[[], float] = time.time) -> None:
        self._database = InfluxDatabase(url)
        self._rules = Rules(measurements)
        self._clock = clock
        self._namespace = ""
        self._ready = _Once(self._prepare)

    def namespace(self, name: str) -> InfluxSeries:
        other = object.__new__(InfluxSeries)
        other.__dict__.update(self.__dict__, _namespace=check_namespace(name))
        return other

    def drop_namespace(self, name: str) -> None:
        prefix = check_namespace(name) + "."
        self._ready()
        for measurement in self._names():
            if measurement.startswith(prefix):
                self._database.query(f"DROP MEASUREMENT {quoted(measurement)}")

    def write(self, points: Iterable[Point]) -> int:
        self._ready()
        young, old = self._rules.accept(points, self._clock())
        try:
            refused = self._write(young)
        except StorageFailed as error:
            if "not found" not in str(error):
                raise
            # Somebody dropped the database under us.
            self._ready.again()
            refused = self._write(young)
        if refused:
            raise BadPoint("; ".join(refused[:5]))
        return old

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
        check_span(start, end, step)
        check_aggregate(aggregate, limit)
        where, bound = self._where(measurement, tags)
        kinds = self._kinds(measurement)
        lines: dict[str, Line] = {field: [] for field in fields}
        for field in lines:
            if field not in kinds:
                continue
            if step is not None:
                refuse_aggregate(field, aggregate, kinds[field])
            what = quoted(field) if step is None else f"{aggregate}({quoted(field)})"
            group = "" if step is None else f" GROUP BY time({step}ns) fill(none)"
            sql = (
                f"SELECT {what} FROM {self._source(measurement)}"
                f" WHERE time >= {start} AND time < {end}{where}{group} LIMIT {limit}"
            )
            lines[field] = [(row[0], _value(row[1])) for row in self._database.rows(sql, bound)]
        return lines

    def latest(self, measurement: str, tags: Mapping[str, str] | None = None) -> Point | None:
        where, bound = self._where(measurement, tags)
        self._ready()
        sql = f"SELECT * FROM {self._source(measurement)} WHERE time > 0{where} ORDER BY time DESC LIMIT 1"
        for row in self._database.named_rows(sql, bound):
            moment = row.pop("time")
            names = self._rules.of(measurement).tags
            held = {tag: read_tag(row.pop(tag)) for tag in names if row.get(tag) is not None}
            fields = {name: _value(value) for name, value in row.items() if name not in names and value is not None}
            return Point(measurement, held, fields, time=moment)
        return None

    def measurements(self) -> list[str]:
        self._ready()
        parts = [name.rpartition(".") for name in self._names()]
        return sorted(name for namespace, _, name in parts if namespace == self._namespace)

    def ping(self) -> None:
        self._database.ping()

    def close(self) -> None:
        self._database.close()

    def __repr__(self) -> str:
        return f"InfluxSeries({self._database.name!r}, namespace={self._namespace!r})"

    def _write(self, points: list[Point]) -> list[str]:
        refused: list[str] = []
        young = sorted(points, key=lambda point: point.measurement)
        for name, group in groupby(young, key=lambda point: point.measurement):
            lines = [line(self._name(name), point) for point in group]
            for start in range(0, len(lines), BATCH):
                refused += self._database.write(lines[start : start + BATCH], policy=name)
        return refused

    def _name(self, measurement: str) -> str:
        return f"{self._namespace}.{measurement}" if self._namespace else measurement

    def _source(self, measurement: str) -> str:
        return f"{quoted(measurement)}.{quoted(self._name(measurement))}"

    def _where(self, measurement: str, tags: Mapping[str, str] | None) -> tuple[str, dict[str, str]]:
        """Return conditions with bound parameters: values never become part of the statement."""
        wanted = self._rules.check_tags(self._rules.of(measurement), tags)
        conditions = "".join(f" AND {quoted(tag)} = $tag_{tag}" for tag in wanted)
        return conditions, {f"tag_{tag}": write_tag(text) for tag, text in wanted.items()}

    def _kinds(self, measurement: str) -> dict[str, Kind]:
        self._ready()
        rows = self._database.rows(f"SHOW FIELD KEYS FROM {self._source(measurement)}")
        return {row[0]: _KINDS[row[1]] for row in rows}

    def _names(self) -> list[str]:
        return [row[0] for row in self._database.rows("SHOW MEASUREMENTS")]

    def _prepare(self) -> None:
        held = self._database.policies()
        for measurement in self._rules:
            seconds = int(measurement.keep)
            if held.get(measurement.name) == seconds:
                continue
            verb = "ALTER" if measurement.name in held else "CREATE"
            policy = f"{quoted(measurement.name)} ON {quoted(self._database.name)}"
            sql = f"{verb} RETENTION POLICY {policy} DURATION {seconds}s REPLICATION 1"
            self._database.administer(sql)


class _Once:
    """Runs `prepare` at the first call that succeeds, in one thread; namespaces share it."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._done = False

    def __call__(self) -> None:
        if self._done:
            return
        with self._lock:
            if not self._done:
                self._prepare()
                self._done = True

    def again(self) -> None:
        self._done = False
        self()


def _value(kept: Any) -> Value:
    return kept if isinstance(kept, bool | str) else float(kept)
