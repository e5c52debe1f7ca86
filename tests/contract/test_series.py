"""The contract of the Series port."""

import itertools
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.osis.errors import BadName, BadPoint, BadQuery, BadUrl, Misuse
from projections.osis.influx_series import InfluxSeries
from projections.osis.open import open_series
from projections.osis.series import SECOND, Aggregate, Measurement, Point, Series
from projections.osis.sqlite_series import SqliteSeries
from tests.contract.points import DAY, JOBS, MINUTE, NODE, cpu, read
from tests.contract.stores import Clock, influxdb_database

HOSTILE = [
    "' OR '1'='1",
    '"; DROP MEASUREMENT node; --',
    "a,b=c d",
    "trailing\\",
    "\\",
    "%41",
    "$tag_node",
    "a\nb\r\tc",
    "ünï\U0001f600",
    " ",
    "/.*/",
    "nul\0",
]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("influxdb", marks=pytest.mark.servers)])
def series_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path_factory.mktemp('osis')}/series.db"
        return
    with influxdb_database(request.getfixturevalue("influxdb_url")) as url:
        yield url


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def now(clock: Clock) -> int:
    """Two hours ago, at the beginning of a minute, in nanoseconds."""
    return int(clock.now - 7200) // 60 * MINUTE


@pytest.fixture(scope="module")
def root(series_url: str, clock: Clock) -> Iterator[Series]:
    opened = open_at(series_url, [NODE, JOBS], clock)
    yield opened
    opened.close()


@pytest.fixture
def series(root: Series) -> Iterator[Series]:
    """A namespace that only this test knows."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield root.namespace(name)
    root.drop_namespace(name)


def open_at(url: str, measurements: Iterable[Measurement], clock: Clock) -> Series:
    if url.startswith("sqlite://"):
        return SqliteSeries(Path(url.removeprefix("sqlite://")), measurements, clock)
    return InfluxSeries(url, measurements, clock)


def test_points_come_back_in_order_of_time_and_within_the_bounds(series: Series, now: int) -> None:
    assert series.write([cpu("n1", now + n, n / 2) for n in (3, 1, 0, 2)]) == 0
    assert read(series, now + 1, now + 3) == [(now + 1, 0.5), (now + 2, 1.0)]
    assert read(series, now, now + 4, limit=1) == [(now, 0.0)]


def test_a_point_written_again_is_one_point(series: Series, now: int) -> None:
    for value in (1.0, 1.0, 2.0):
        series.write([cpu("n1", now, value)])
    series.write([Point("node", {"node": "n1"}, {"memory": 7.0}, time=now)])
    assert read(series, now, now + 1) == [(now, 2.0)]
    assert series.query("node", ["cpu", "memory"], start=now, end=now + 1) == {
        "cpu": [(now, 2.0)],
        "memory": [(now, 7.0)],
    }


def test_the_order_of_tags_does_not_make_another_point(series: Series, now: int) -> None:
    series.write([Point("node", {"node": "n1", "disk": "sda"}, {"cpu": 1.0}, time=now)])
    series.write([Point("node", {"disk": "sda", "node": "n1"}, {"cpu": 2.0}, time=now)])
    assert read(series, now, now + 1) == [(now, 2.0)]


def test_numbers_are_floats_and_text_and_flags_keep_their_type(series: Series, now: int) -> None:
    series.write([Point("node", {"node": "n1"}, {"i": 3, "f": 0.1, "t": 'a\n"\\\0', "e": "", "b": True}, time=now)])
    lines = series.query("node", ["i", "f", "t", "e", "b"], start=now, end=now + 1)
    values = {field: line[0][1] for field, line in lines.items()}
    assert values == {"i": 3.0, "f": 0.1, "t": 'a\n"\\\u2400', "e": "", "b": True}
    assert isinstance(values["i"], float)
    assert values["b"] is True


def test_only_points_with_all_of_the_tags_count(series: Series, now: int) -> None:
    series.write([cpu("n1", now, 1.0), cpu("n2", now, 2.0), cpu("n1", now + 1, 3.0, disk="sda")])
    assert read(series, now, now + 9, tags={"node": "n1"}) == [(now, 1.0), (now + 1, 3.0)]
    assert read(series, now, now + 9, tags={"node": "n1", "disk": "sda"}) == [(now + 1, 3.0)]
    assert read(series, now, now + 9, tags={"node": "n3"}) == []


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("mean", [(0, 2.0), (2, 10.0)]),
        ("max", [(0, 3.0), (2, 10.0)]),
        ("min", [(0, 1.0), (2, 10.0)]),
        ("sum", [(0, 4.0), (2, 10.0)]),
        ("last", [(0, 3.0), (2, 10.0)]),
        ("count", [(0, 2.0), (2, 1.0)]),
    ],
)
def test_steps_are_aggregated_and_empty_ones_left_out(
    series: Series, now: int, aggregate: Aggregate, expected: list[tuple[int, float]]
) -> None:
    series.write([cpu("n1", now, 1.0), cpu("n2", now + 59 * SECOND, 3.0), cpu("n1", now + 2 * MINUTE, 10.0)])
    line = read(series, now, now + 10 * MINUTE, step=MINUTE, aggregate=aggregate)
    assert line == [(now + n * MINUTE, value) for n, value in expected]
    assert all(isinstance(value, float) for _, value in line)


def test_steps_begin_at_multiples_of_the_step_wherever_the_query_begins(series: Series, now: int) -> None:
    series.write([cpu("n1", now + n * 10 * SECOND, float(n)) for n in range(12)])
    line = read(series, now + 30 * SECOND, now + 90 * SECOND, step=MINUTE, aggregate="count")
    assert line == [(now, 3.0), (now + MINUTE, 3.0)]


def test_text_and_flags_have_a_last_value_and_a_count_but_no_mean(series: Series, now: int) -> None:
    series.write([Point("node", {"node": "n1"}, {"os": "debian", "up": True}, time=now + n) for n in range(2)])
    step: dict[str, Any] = {"start": now, "end": now + 9, "step": MINUTE}
    assert series.query("node", ["os"], aggregate="last", **step)["os"] == [(now, "debian")]
    assert series.query("node", ["up"], aggregate="last", **step)["up"] == [(now, True)]
    assert series.query("node", ["os"], aggregate="count", **step)["os"] == [(now, 2.0)]
    refused: list[Aggregate] = ["mean", "max", "min", "sum"]
    for field, aggregate in itertools.product(("os", "up"), refused):
        with pytest.raises(BadQuery, match=field):
            series.query("node", [field], aggregate=aggregate, **step)


def test_a_field_that_nobody_wrote_has_an_empty_line(series: Series, now: int) -> None:
    assert series.query("node", ["nothing"], start=now, end=now + 1) == {"nothing": []}
    series.write([cpu("n1", now, 1.0)])
    assert series.query("node", ["nothing"], start=now, end=now + 1, step=1) == {"nothing": []}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_tag_values_are_data(series: Series, now: int, text: str) -> None:
    series.write([cpu(text, now, 1.0, disk=text), cpu("other", now, 2.0), cpu("x" + text, now, 3.0)])
    assert read(series, now, now + 1, tags={"node": text}) == [(now, 1.0)]
    assert read(series, now, now + 1, tags={"node": text, "disk": text}) == [(now, 1.0)]
    latest = series.latest("node", {"node": text})
    kept = text.replace("\0", "\u2400")
    assert latest == Point("node", {"node": kept, "disk": kept}, {"cpu": 1.0}, time=now)
    assert len(read(series, now, now + 1)) == 3


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    tag=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    number=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_tag_and_field_come_back_as_they_were(root: Series, now: int, tag: str, text: str, number: float) -> None:
    series = root.namespace("any")
    series.write([Point("node", {"node": tag}, {"t": text, "f": number}, time=now)])
    latest = series.latest("node", {"node": tag})
    assert latest is not None
    assert latest.tags["node"] == tag.replace("\0", "\u2400")
    assert latest.fields == {"t": text.replace("\0", "\u2400"), "f": number}
    root.drop_namespace("any")


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (Point("other", {}, {"a": 1.0}, time=1), "'other' is not declared: jobs, node"),
        (Point("node", {"job": "0199"}, {"a": 1.0}, time=1), r"tag 'job' is not declared \(node, disk\)"),
        (Point("node", {"node": ""}, {"a": 1.0}, time=1), "1 to 256"),
        (Point("node", {"node": "x" * 257}, {"a": 1.0}, time=1), "1 to 256"),
        (Point("node", {}, {"node": 1.0}, time=1), "'node' names a tag"),
        (Point("node", {}, {"time": 1.0}, time=1), "'time' names"),
        (Point("node", {}, {"a": "x" * 60_001}, time=1), "60,000 bytes"),
        (Point("node", {}, {"a": 1.0}, time=-1), "nanoseconds since 1970"),
        (Point("node", {}, {"a": 1.0}, time=2**63), "nanoseconds since 1970"),
    ],
)
def test_a_point_outside_of_the_declarations_is_refused_before_anything_is_written(
    series: Series, now: int, point: Point, says: str
) -> None:
    with pytest.raises(BadPoint, match=says):
        series.write([cpu("n1", now, 1.0), point])
    assert series.measurements() == []


def test_a_bad_field_name_is_refused(series: Series, now: int) -> None:
    with pytest.raises(BadName):
        series.write([Point("node", {}, {'a" OR "b': 1.0}, time=now)])


def test_values_that_are_no_numbers_are_left_out(series: Series, now: int) -> None:
    series.write([cpu("n1", now, float("nan")), cpu("n1", now + 1, float("inf"))])
    series.write([Point("node", {}, {"cpu": float("-inf"), "memory": 1.0}, time=now + 2)])
    assert read(series, now, now + 9) == []
    assert series.query("node", ["memory"], start=now, end=now + 9)["memory"] == [(now + 2, 1.0)]


def test_a_field_keeps_its_type_and_the_other_points_are_written(series: Series, now: int) -> None:
    series.write([cpu("n1", now, 1.0)])
    with pytest.raises(BadPoint, match="cpu"):
        series.write([cpu("n1", now + 1, "high"), cpu("n1", now + 2, 2.0), cpu("n1", now + 3, True)])
    assert read(series, now, now + 9) == [(now, 1.0), (now + 2, 2.0)]


def test_what_is_too_old_to_be_kept_is_counted_and_not_written(series: Series, clock: Clock, now: int) -> None:
    old = int((clock.now - 8 * DAY) * 1e9)
    points = [Point(name, {}, {"a": 1.0}, time=moment) for name in ("node", "jobs") for moment in (old, now)]
    assert series.write(points) == 1
    assert series.query("jobs", ["a"], start=0, end=now + 1)["a"] == [(now, 1.0)]
    assert series.query("node", ["a"], start=0, end=now + 1)["a"] == [(old, 1.0), (now, 1.0)]


def test_the_latest_point_is_found_by_its_tags(series: Series, now: int) -> None:
    assert series.latest("node") is None
    series.write([cpu("n1", now + 5, 1.0), cpu("n2", now + 7, 2.0, disk="sda"), cpu("n1", now, 3.0)])
    series.write([Point("node", {"node": "n1"}, {"memory": 4.0}, time=now + 6)])
    assert series.latest("node") == cpu("n2", now + 7, 2.0, disk="sda")
    assert series.latest("node", {"node": "n1"}) == Point("node", {"node": "n1"}, {"memory": 4.0}, time=now + 6)
    assert series.latest("node", {"node": "n9"}) is None


def test_namespaces_are_apart_and_dropping_one_leaves_the_rest(root: Series, now: int) -> None:
    one, two = root.namespace("gen-1"), root.namespace("gen-10")
    root.write([cpu("n1", now, 0.0)])
    one.write([cpu("n1", now, 1.0), Point("jobs", {}, {"a": 1.0}, time=now)])
    two.write([cpu("n1", now, 2.0)])
    assert one.measurements() == ["jobs", "node"]
    assert [read(series, now, now + 1)[0][1] for series in (root, one, two)] == [0.0, 1.0, 2.0]
    root.drop_namespace("gen-1")
    root.drop_namespace("gen-1")
    assert one.measurements() == []
    assert read(one, now, now + 1) == []
    assert [read(series, now, now + 1)[0][1] for series in (root, two)] == [0.0, 2.0]
    one.write([cpu("n1", now, 3.0)])
    assert read(one, now, now + 1) == [(now, 3.0)]
    for name in ("gen-1", "gen-10"):
        root.drop_namespace(name)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"measurement": "other"}, "not declared"),
        ({"tags": {"job": "1"}}, "no tag of node"),
        ({"step": 0}, "step 0"),
        ({"step": 1, "end": 10**18}, "100,000 steps"),
        ({"aggregate": "median"}, "no aggregate"),
        ({"limit": 0}, "limit 0"),
        ({"limit": 100_001}, "limit"),
        ({"start": -1}, "nanoseconds since 1970"),
        ({"end": 2**64}, "nanoseconds since 1970"),
    ],
)
def test_a_query_that_cannot_be_is_refused(series: Series, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadQuery, match=says):
        series.query(**{"measurement": "node", "fields": ["cpu"], "start": 0, "end": 1, **changes})


@pytest.mark.parametrize("field", ['a" FROM node; --', "", "a.b", "*"])
def test_a_field_name_is_never_a_part_of_the_statement(series: Series, now: int, field: str) -> None:
    series.write([cpu("n1", now, 1.0)])
    assert series.query("node", [field], start=now, end=now + 1) == {field: []}


def test_large_writes_are_taken_in_batches(series: Series, now: int) -> None:
    series.write(cpu(f"n{n % 10}", now + n, float(n)) for n in range(12_000))
    assert len(read(series, now, now + 12_000, limit=20_000)) == 12_000
    counts = read(series, now, now + 12_000, step=SECOND, aggregate="count", tags={"node": "n3"})
    assert counts == [(now, 1200.0)]


@pytest.mark.parametrize(
    "measurements",
    [
        [NODE, NODE],
        [Measurement("a", (), keep=60)],
        [Measurement("a b", (), keep=DAY)],
        [Measurement("a", ("x y",), keep=DAY)],
    ],
    ids=repr,
)
def test_declarations_that_cannot_be_kept_are_refused(series_url: str, measurements: list[Measurement]) -> None:
    with pytest.raises(Misuse):
        open_series(series_url, measurements)


def test_opening_again_with_a_longer_retention_keeps_the_points(
    series_url: str, root: Series, clock: Clock, now: int
) -> None:
    root.namespace("longer").write([cpu("n1", now, 1.0)])
    other = open_at(series_url, [Measurement("node", NODE.tags, keep=60 * DAY)], clock)
    there = other.namespace("longer")
    there.write([cpu("n1", now - int(40 * DAY) * SECOND, 0.0)])
    assert [value for _, value in read(there, 0, now + 1)] == [0.0, 1.0]
    other.ping()
    other.drop_namespace("longer")
    other.close()
    other.close()


def test_expired_points_are_removed_by_later_writes(tmp_path: Path) -> None:
    clock = Clock()
    series = SqliteSeries(tmp_path / "series.db", [NODE, JOBS], clock)
    then = int(clock.now) * SECOND
    for name in ("node", "jobs"):
        series.namespace("live").write([Point(name, {}, {"a": 1.0}, time=then)])
    clock.now += 8 * DAY
    series.write([])
    assert series.namespace("live").measurements() == ["node"]
    series.close()


@pytest.mark.parametrize(
    "url",
    [
        "influxdb://u:secret@h:8086",
        "influxdb://u:secret@h:port/db",
        "influxdb://u:secret@h/a/b",
        "influxdb://u:secret@h/db?x",
        "postgresql://u:secret@h/db",
        "sqlite://series.db",
    ],
)
def test_a_url_that_names_no_storage_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadUrl) as refused:
        open_series(url, [NODE])
    assert "secret" not in str(refused.value)
