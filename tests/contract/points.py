"""What the contract tests of series measure."""

from typing import Any

from projections.osis.series import SECOND, Measurement, Point, Series

DAY = 86_400.0
MINUTE = 60 * SECOND
NODE = Measurement("node", tags=("node", "disk"), keep=30 * DAY)
JOBS = Measurement("jobs", tags=("state",), keep=7 * DAY)


def cpu(node: str, time: int, value: float | str | bool, **tags: str) -> Point:
    return Point("node", {"node": node, **tags}, {"cpu": value}, time=time)


def read(series: Series, start: int, end: int, **how: Any) -> list[tuple[int, Any]]:
    return series.query("node", ["cpu"], start=start, end=end, **how)["cpu"]
