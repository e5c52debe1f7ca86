"""`python -m benchmarks.report`: puts the figures of runs into docs/performance.md, and draws its charts.

The page's prose is written by hand and its figures are not: what stands between `<!-- WHAT -->` and `<!-- end -->` is
made from the JSON files of docs/performance-data, where WHAT is `machine`, `goals`, a chart's file, or the beginning of
tables' titles.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from benchmarks.charts import Bar, Point, bars, curves
from benchmarks.goals import Verdict, Wanted, verdicts
from benchmarks.measure import Table

DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "performance-data"
PAGE = DOCS / "performance.md"
_BLOCK = re.compile(r"<!-- (?!end)([^>]+?) -->\n.*?<!-- end -->", re.DOTALL)


class Report(Struct, frozen=True, kw_only=True):
    """A run of the benchmarks: when, where, with what, and what came out."""

    began: str
    machine: dict[str, str]
    tables: list[Table]


class Growth(Struct, frozen=True):
    """A chart of figures over the size that the contestants' names begin with, each as a multiple of the smallest."""

    file: str
    title: str
    table: str
    x: str
    figures: tuple[str, ...]


GROWTHS = (
    Growth(
        "growth-log.svg",
        "What grows with the log: times the figure at the smallest log",
        "Growth with the log",
        "events in the log",
        ("start of handlers", "start of projections", "memory of handlers", "memory of projections", "round trip p50"),
    ),
    Growth(
        "growth-fleet.svg",
        "What grows with the fleet: times the figure at the smallest fleet",
        "A job on every node",
        "agents",
        ("last answer", "broker, resident", "processor of handlers", "processor of the broker"),
    ),
)


def read(data: Path = DATA) -> list[Report]:
    return [msgspec.json.decode(path.read_bytes(), type=Report) for path in sorted(data.glob("*.json"))]


def write(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def render(page: str, reports: Sequence[Report]) -> str:
    """The page with its figures put in anew."""
    return _BLOCK.sub(lambda found: f"<!-- {found[1]} -->\n{_block(found[1], reports)}<!-- end -->", page)


def charts(reports: Sequence[Report]) -> dict[str, str]:
    """Name of the file -> SVG; of what was not measured there is none."""
    tables = [table for report in reports for table in report.tables]
    found = {"goals.svg": bars("What was reached of each goal (logarithmic)", list(_bars(tables)))}
    for growth in GROWTHS:
        table = next((table for table in tables if table.title.startswith(growth.table)), None)
        if table is not None:
            lines = {name: _line(table, name) for name in growth.figures}
            found[growth.file] = curves(growth.title, growth.x, "times", lines)
    return found


def _block(what: str, reports: Sequence[Report]) -> str:
    tables = [table for report in reports for table in report.tables]
    if what == "machine":
        return _machine(reports)
    if what == "goals":
        return _goals(tables)
    if what.endswith(".svg"):
        return _chart(what, reports)
    fitting = [_table(table) for table in tables if table.title.startswith(what)]
    return "\n".join(fitting) or "Not measured.\n"


def _chart(name: str, reports: Sequence[Report]) -> str:
    titles = {"goals.svg": "What was reached of each goal", **{growth.file: growth.title for growth in GROWTHS}}
    return f"![{titles[name]}]({DATA.name}/{name})\n" if name in charts(reports) else "Not measured.\n"


def _machine(reports: Sequence[Report]) -> str:
    merged: dict[str, list[str]] = {}
    for report in reports:
        for key, value in report.machine.items():
            known = merged.setdefault(key, [])
            if value not in known:
                known.append(value)
    days = sorted({report.began[:10] for report in reports})
    merged = {"measured on": days, **merged}
    return _rows(["", ""], [[key, ", ".join(values)] for key, values in merged.items()])


def _goals(tables: Sequence[Table]) -> str:
    rows = []
    for wanted, found in verdicts(tables):
        goal = _wish(wanted)
        if not found:
            rows.append([wanted.what, goal, "", "", "not measured"])
        for verdict in found:
            unit = " x" if wanted.peer else f" {wanted.unit}"
            spread = f"{_number(verdict.found.low)} to {_number(verdict.found.high)}"
            met = "met" if verdict.met else "**missed**"
            what = wanted.what if len(found) == 1 else f"{wanted.what}: {verdict.title}"
            rows.append([what, goal, f"{_number(verdict.value)}{unit}", spread, met])
    return _rows(["figure", "goal", "measured", "spread", ""], rows)


def _wish(wanted: Wanted) -> str:
    words = f"{wanted.sign} {_number(wanted.bound)}"
    return f"{words} x {wanted.peer}" if wanted.peer else f"{words} {wanted.unit}" + (", always" * wanted.always)


def _table(table: Table) -> str:
    figures = [[f.name, f.contestant, *map(_number, (f.median, f.low, f.high)), f.unit] for f in table.figures]
    text = f"*{table.title}*\n\n" + _rows(["figure", "of", "median", "lowest", "highest", "unit"], figures)
    if table.ratios:
        ratios = [[r.name, r.peer, *map(_number, (r.median, r.low, r.high)), r.goal] for r in table.ratios]
        text += "\n" + _rows(["figure", "beside", "ratio", "lowest", "highest", "goal"], ratios)
    return text


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _bars(tables: Sequence[Table]) -> Iterator[Bar]:
    for wanted, found in verdicts(tables):
        for verdict in found:
            beside = f" / {wanted.peer.partition(',')[0]}" if wanted.peer else ""
            which = "" if len(found) == 1 else verdict.title.rpartition(" ")[2] + ": "
            yield Bar(f"{which}{wanted.what}{beside}"[:52], verdict.share, _said(wanted, verdict), verdict.met)


def _said(wanted: Wanted, verdict: Verdict) -> str:
    return f"{_number(verdict.value)} ({wanted.sign} {_number(wanted.bound)})"


def _line(table: Table, name: str) -> list[Point]:
    sizes = {f: int(f.contestant.split()[0].replace(",", "")) for f in table.figures if f.name == name}
    # there is no place for nothing on a logarithmic axis
    sized = {size: figure.median for figure, size in sizes.items() if size and figure.median}
    smallest = sized[min(sized)]
    return [Point(size, value / smallest) for size, value in sorted(sized.items())]


@click.command()
def main() -> None:
    """Put the figures of docs/performance-data into docs/performance.md."""
    reports = read()
    PAGE.write_text(render(PAGE.read_text(), reports))
    for name, chart in charts(reports).items():
        (DATA / name).write_text(chart)
    click.echo(f"{PAGE}: {sum(len(report.tables) for report in reports)} tables")


if __name__ == "__main__":
    main()
