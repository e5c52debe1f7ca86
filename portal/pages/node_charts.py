"""The charts of a node: what its agent measured, over a stretch of time. Blocking, for it reads series."""

from collections.abc import Callable
from datetime import datetime
from types import MappingProxyType

from markupsafe import Markup
from msgspec import Struct

from portal.pages import wording
from portal.pages.charts import Line, line_chart
from projections.osis.series import SECOND, Series

MEASUREMENT = "node"
#: Stretches of time to choose from, in seconds, and the steps of their charts.
RANGES = MappingProxyType({"1h": (3_600, 30), "6h": (21_600, 180), "24h": (86_400, 600), "7d": (604_800, 3_600)})


class Plan(Struct, frozen=True):
    """A chart: its title, its fields with the names of their lines, how values are written, its top if it is known."""

    title: str
    fields: tuple[tuple[str, str], ...]
    write: Callable[[float], str]
    #: A field that holds the top of the scale, or a number.
    ceiling: str | float | None = None


class Chart(Struct, frozen=True):
    title: str
    #: The last value of each line, in words.
    now: list[tuple[str, str]]
    picture: Markup


def percent(value: float) -> str:
    return f"{value:.0f} %"


def plainly(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 10 else f"{value:.2g}"


def per_second(value: float) -> str:
    return f"{wording.size(value)}/s"


PLANS = (
    Plan("CPU", (("cpu_percent", "busy"),), percent, 100.0),
    Plan("Load", (("load1", "1 min"), ("load5", "5 min"), ("load15", "15 min")), plainly),
    Plan("Memory", (("memory_used_bytes", "used"), ("swap_used_bytes", "swap")), wording.size, "memory_total_bytes"),
    Plan("Disk /", (("disk_used_bytes", "used"),), wording.size, "disk_total_bytes"),
    Plan(
        "Disk traffic",
        (("disk_read_bytes_per_second", "read"), ("disk_written_bytes_per_second", "written")),
        per_second,
    ),
    Plan("Network", (("net_received_bytes_per_second", "received"), ("net_sent_bytes_per_second", "sent")), per_second),
    Plan("Processes", (("processes", "processes"),), plainly),
    Plan("Jobs", (("jobs_running", "running"), ("jobs_accepted", "waiting")), plainly),
)


def charts_of(series: Series, node: str, wanted: str, now: datetime) -> list[Chart]:
    """The charts for which there are values."""
    seconds, step = RANGES[wanted]
    end = int(now.timestamp()) * SECOND
    start = end - seconds * SECOND
    names = sorted({name for plan in PLANS for name, _ in plan.fields} | {"memory_total_bytes", "disk_total_bytes"})
    lines = series.query(MEASUREMENT, names, start=start, end=end, tags={"node": node}, step=step * SECOND)
    values = {
        name: [(time, float(value)) for time, value in line if isinstance(value, int | float)]
        for name, line in lines.items()
    }
    return [_chart(plan, values, start, end) for plan in PLANS if any(values[name] for name, _ in plan.fields)]


def _chart(plan: Plan, values: dict[str, list[tuple[int, float]]], start: int, end: int) -> Chart:
    lines = [Line(label, values[name]) for name, label in plan.fields if values[name]]
    ceiling = plan.ceiling
    if isinstance(ceiling, str):
        ceiling = max((value for _, value in values[ceiling]), default=None)
    now = [(line.label, plan.write(line.points[-1][1])) for line in lines]
    return Chart(plan.title, now, line_chart(lines, start, end, plan.write, ceiling=ceiling))
