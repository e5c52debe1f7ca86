"""`python -m benchmarks [NAME…] [--runs N]`: all figures, or the named ones, as tables and as JSON."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table as Sheet

from benchmarks import appends, archive, growth, hops, jobs
from benchmarks.measure import Table
from benchmarks.place import Place, Progress
from benchmarks.report import Report
from fleetbus import logs
from tests.servers.services import DEFAULT_DIRECTORY, Services

#: What can be measured, in the order of the page. Each module says in its docstring what its figures mean.
FIGURES: dict[str, Callable[[Place, int, Progress], list[Table]]] = {
    "appends": appends.tables,
    "jobs": jobs.tables,
    "hops": hops.tables,
    "archive": archive.tables,
    "growth": growth.tables,
}


def show(console: Console, table: Table) -> None:
    sheet = Sheet(title=table.title)
    for column in ("figure", "contestant", "median", "lowest", "highest", "unit"):
        sheet.add_column(column, justify="right" if column in ("median", "lowest", "highest") else "left")
    for row in table.figures:
        sheet.add_row(row.name, row.contestant, *(f"{n:,.1f}" for n in (row.median, row.low, row.high)), row.unit)
    console.print(sheet)
    for ratio in table.ratios:
        spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
        console.print(f"{ratio.name}: {ratio.median:.2f} x {ratio.peer} ({spread}); goal {ratio.goal}")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(FIGURES)))
@click.option("--runs", default=5, show_default=True, help="Runs of each contestant, in turn.")
@click.option("--quick", is_flag=True, help="A look instead of a measurement: small sizes, figures that say little.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Where the figures go as JSON.")
@click.option(
    "--services",
    "directory",
    type=click.Path(path_type=Path),
    default=DEFAULT_DIRECTORY,
    help="Folder of the servers.  [default: .services]",
)
def main(names: tuple[str, ...], runs: int, quick: bool, path: Path | None, directory: Path) -> None:
    """Measure fleetbus beside what people would use instead."""
    logs.only_trouble("benchmarks")
    console, services = Console(), Services(directory)
    path = path or Path(tempfile.gettempdir()) / "fleetbus-bench.json"
    with services.in_use():
        place, found = Place(services, quick=quick), list[Table]()
        for name in names or FIGURES:
            with console.status(f"{name} …") as status:
                tables = FIGURES[name](place, runs, status.update)
            for table in tables:
                show(console, table)
            # after each, so that a run that is stopped has left what it found
            found += tables
            report = Report(machine=place.machine(), tables=found)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        console.print(", ".join(f"{key} {value}" for key, value in place.machine().items()))
    console.print(f"as JSON: {path}")


if __name__ == "__main__":
    main()
