"""Series in tables of one SQLite file, which may be the file that holds documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from projections.osis.errors import BadPoint
from projections.osis.names import check_namespace
from projections.osis.series import Aggregate, Line, Measurement, Point, Series, Value
from projections.osis.series_rules import Kind, Rules, check_aggregate, check_span, kind_of, refuse_aggregate
from projections.osis.sqlite_database import Connection, SqliteDatabase

#: Seconds between two looks for points that have outlived their time.
SWEEP_SECONDS = 60.0

_CREATE = (
    """
    CREATE TABLE IF NOT EXISTS "osis.series" (
        id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, measurement TEXT NOT NULL, tags TEXT NOT NULL,
        UNIQUE (namespace, measurement, tags)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS "osis.fields" (
        id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, measurement TEXT NOT NULL, name TEXT NOT NULL,
        kind TEXT NOT NULL, UNIQUE (namespace, measurement, name)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS "osis.points" (
        series INTEGER NOT NULL, field INTEGER NOT NULL, time INTEGER NOT NULL, value NOT NULL,
        PRIMARY KEY (series, field, time)
    ) WITHOUT ROWID
    """,
)
_FIELD = 'SELECT id, kind FROM "osis.fields" WHERE namespace = ? AND measurement = ? AND name = ?'
_NEW_FIELD = 'INSERT INTO "osis.fields" (namespace, measurement, name, kind) VALUES (?, ?, ?, ?) RETURNING id'
_SERIES = 'SELECT id FROM "osis.series" WHERE namespace = ? AND measurement = ? AND tags = ?'
_NEW_SERIES = 'INSERT INTO "osis.series" (namespace, measurement, tags) VALUES (?, ?, ?) RETURNING id'
_PUT = 'INSERT OR REPLACE INTO "osis.points" (series, field, time, value) VALUES (?, ?, ?, ?)'

#: The ids of series that have these tag values; {tags} is one condition for each.
_MATCHING = 'SELECT id FROM "osis.series" WHERE namespace = ? AND measurement = ?{tags}'
_WITHIN = f'FROM "osis.points" WHERE series IN ({_MATCHING}) AND field = ? AND time >= ? AND time < ?'
_SINGLE = f"SELECT time, value {_WITHIN} ORDER BY time, series LIMIT ?"
#: In SQLite the bare column `value` comes from the row that has max(time).
_LAST = f"SELECT time - time % {{step}} AS t, value, max(time) {_WITHIN} GROUP BY t ORDER BY t LIMIT ?"
_AGGREGATED = f"SELECT time - time % {{step}} AS t, {{function}}(value) {_WITHIN} GROUP BY t ORDER BY t LIMIT ?"
_FUNCTIONS = {"mean": "avg", "max": "max", "min": "min", "sum": "sum", "count": "count"}
_NEWEST = f"""
SELECT s.id, s.tags,
       (SELECT max(time) FROM "osis.points" WHERE series = s.id AND field = f.id) AS newest
FROM "osis.series" AS s JOIN "osis.fields" AS f ON f.namespace = s.namespace AND f.measurement = s.measurement
WHERE s.id IN ({_MATCHING}) AND newest IS NOT NULL ORDER BY newest DESC, s.id LIMIT 1
"""
_POINT = """
SELECT f.name, f.kind, p.value FROM "osis.fields" AS f
JOIN "osis.points" AS p ON p.series = ? AND p.field = f.id AND p.time = ?
WHERE f.namespace = ? AND f.measurement = ?
"""
_HELD = """
SELECT DISTINCT measurement FROM "osis.series" AS s
WHERE namespace = ? AND EXISTS (SELECT 1 FROM "osis.points" WHERE series = s.id) ORDER BY measurement
"""
_SWEEP = """
DELETE FROM "osis.points" WHERE time < ?1
AND series IN (SELECT id FROM "osis.series" WHERE measurement = ?2)
AND field IN (SELECT id FROM "osis.fields" WHERE measurement = ?2)
"""
_DROP = (
    'DELETE FROM "osis.points" WHERE series IN (SELECT id FROM "osis.series" WHERE namespace = ?)',
    'DELETE FROM "osis.series" WHERE namespace = ?',
    'DELETE FROM "osis.fields" WHERE namespace = ?',
)


class SqliteSeries(Series):
    """The series of one file. `clock` gives seconds since 1970, for retention only."""

    def __init__(self, path: Path, measurements: Iterable[Measurement], clock: Callable[[], float] = time.time) -> None:
        self._database = SqliteDatabase(path, _prepare)
        self._rules = Rules(measurements)
        self._clock = clock
        self._namespace = ""
        self._swept = 0.0

    def namespace(self, name: str) -> SqliteSeries:
        other = object.__new__(SqliteSeries)
        other.__dict__.update(self.__dict__, _namespace=check_namespace(name))
        return other

    def drop_namespace(self, name: str) -> None:
        with self._database.writing() as connection:
            for statement in _DROP:
                connection.execute(statement, [check_namespace(name)])

    def write(self, points: Iterable[Point]) -> int:
        young, old = self._rules.accept(points, self._clock())
        with self._database.writing() as connection:
            batch = _Batch(connection, self._namespace)
            for point in young:
                batch.add(point)
            connection.executemany(_PUT, batch.rows)
            self._sweep(connection)
        if batch.refused:
            raise BadPoint("; ".join(batch.refused[:5]))
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
        matching, parameters = self._matching(measurement, tags)
        lines: dict[str, Line] = {}
        with self._database.reading() as connection:
            for field in fields:
                found = connection.execute(_FIELD, [self._namespace, measurement, field]).fetchone()
                if found is None:
                    lines[field] = []
                    continue
                field_id, kind = found
                if step is not None:
                    refuse_aggregate(field, aggregate, kind)
                rows = connection.execute(
                    _statement(step, aggregate, matching), [*parameters, field_id, start, end, limit]
                )
                result: Kind = "number" if step is not None and aggregate == "count" else kind
                lines[field] = [(row[0], _value(result, row[1])) for row in rows]
        return lines

    def latest(self, measurement: str, tags: Mapping[str, str] | None = None) -> Point | None:
        matching, parameters = self._matching(measurement, tags)
        with self._database.reading() as connection:
            newest = connection.execute(_NEWEST.format(tags=matching), parameters).fetchone()
            if newest is None:
                return None
            series, spelled, moment = newest
            rows = connection.execute(_POINT, [series, moment, self._namespace, measurement]).fetchall()
        fields = {name: _value(kind, value) for name, kind, value in rows}
        return Point(measurement, msgspec.json.decode(spelled), fields, time=moment)

    def measurements(self) -> list[str]:
        with self._database.reading() as connection:
            return [name for (name,) in connection.execute(_HELD, [self._namespace])]

    def ping(self) -> None:
        with self._database.reading() as connection:
            connection.execute("SELECT 1")

    def close(self) -> None:
        self._database.close()

    def __repr__(self) -> str:
        return f"SqliteSeries({str(self._database.path)!r}, namespace={self._namespace!r})"

    def _matching(self, measurement: str, tags: Mapping[str, str] | None) -> tuple[str, list[str]]:
        wanted = self._rules.check_tags(self._rules.of(measurement), tags)
        conditions = "".join(f""" AND json_extract(tags, '$."{tag}"') = ?""" for tag in wanted)
        return conditions, [self._namespace, measurement, *wanted.values()]

    def _sweep(self, connection: Connection) -> None:
        now = self._clock()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for measurement in self._rules:
            connection.execute(_SWEEP, [int((now - measurement.keep) * 1e9), measurement.name])


class _Batch:
    """Rows of one write; finds the ids of series and fields, making those that are new."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.rows: list[tuple[int, int, int, Value]] = []
        self.refused: list[str] = []
        self._connection = connection
        self._namespace = namespace
        self._series: dict[tuple[str, bytes], int] = {}
        self._fields: dict[tuple[str, str], tuple[int, Kind]] = {}

    def add(self, point: Point) -> None:
        fields = [(name, *self._field(point.measurement, name, value), value) for name, value in point.fields.items()]
        for name, _, kind, value in fields:
            if kind != kind_of(value):
                self.refused.append(f"{point.measurement}: field {name!r} holds a {kind}, not a {kind_of(value)}")
                return
        series = self._series_of(point)
        self.rows += [(series, field, point.time, value) for _, field, _, value in fields]

    def _field(self, measurement: str, name: str, value: Value) -> tuple[int, Kind]:
        if (found := self._fields.get((measurement, name))) is None:
            names = [self._namespace, measurement, name]
            found = self._connection.execute(_FIELD, names).fetchone()
            if found is None:
                kind = kind_of(value)
                found = self._insert(_NEW_FIELD, [*names, kind]), kind
            self._fields[measurement, name] = found
        return found

    def _series_of(self, point: Point) -> int:
        tags = msgspec.json.encode(dict(sorted(point.tags.items())))
        if (found := self._series.get((point.measurement, tags))) is None:
            names = [self._namespace, point.measurement, tags.decode()]
            row = self._connection.execute(_SERIES, names).fetchone()
            found = self._insert(_NEW_SERIES, names) if row is None else int(row[0])
            self._series[point.measurement, tags] = found
        return found

    def _insert(self, statement: str, parameters: list[Any]) -> int:
        return int(self._connection.execute(statement, parameters).fetchone()[0])


def _prepare(connection: Connection) -> None:
    for statement in _CREATE:
        connection.execute(statement)


def _statement(step: int | None, aggregate: Aggregate, tags: str) -> str:
    if step is None:
        return _SINGLE.format(tags=tags)
    if aggregate == "last":
        return _LAST.format(tags=tags, step=int(step))
    return _AGGREGATED.format(tags=tags, step=int(step), function=_FUNCTIONS[aggregate])


def _value(kind: Kind, stored: Any) -> Value:
    match kind:
        case "flag":
            return bool(stored)
        case "text":
            return str(stored)
        case _:
            return float(stored)
