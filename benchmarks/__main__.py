"""`python -m benchmarks [NAME…] [--runs N]`: all figures, or the named ones, as tables and as JSON."""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Sheet

from benchmarks import (
    appends,
    archive,
    fleet,
    growth,
    hops,
    jobs,
    lists,
    memory,
    reads,
    rebuild,
    salt_round_trips,
    watchers,
)
from benchmarks.measure import Table
from benchmarks.place import Place, Progress
from benchmarks.report import DATA, Report, write
from fleetbus import logs
from tests.servers.services import DEFAULT_DIRECTORY, Services

#: What can be measured, in the order of the page. Each module says in its docstring what its figures mean.
FIGURES: dict[str, Callable[[Place, int, Progress], list[Table]]] = {
    "appends": appends.tables,
    "reads": reads.tables,
    "jobs": jobs.tables,
    "hops": hops.tables,
    "salt": salt_round_trips.tables,
    "fleet": fleet.tables,
    "rebuild": rebuild.tables,
    "lists": lists.tables,
    "watchers": watchers.tables,
    "archive": archive.tables,
    "growth": growth.tables,
    "memory": memory.tables,
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
@click.option(
    "--into",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(tempfile.gettempdir()) / "fleetbus-bench",
    show_default=True,
    help="Folder that gets the figures, a JSON file for each name.",
)
@click.option(
    "--services",
    "directory",
    type=click.Path(path_type=Path),
    default=DEFAULT_DIRECTORY,
    help="Folder of the servers.  [default: .services]",
)
def main(names: tuple[str, ...], runs: int, quick: bool, folder: Path, directory: Path) -> None:
    """Measure fleetbus beside what people would use instead."""
    if quick and folder.resolve() == DATA:
        raise click.UsageError("--quick is no measurement: its figures are not for the page; choose another --into")
    logs.only_trouble("benchmarks")
    console, services = Console(), Services(directory)
    with services.in_use():
        place = Place(services, quick=quick)
        for name in names or FIGURES:
            began = datetime.now(UTC).isoformat(timespec="seconds")
            with console.status(f"{name} …") as status:
                tables = FIGURES[name](place, runs, status.update)
            for table in tables:
                show(console, table)
            write(Report(began=began, machine=place.machine(), tables=tables), folder / f"{name}.json")
        console.print(", ".join(f"{key} {value}" for key, value in place.machine().items()))
    console.print(f"as JSON: {folder}")


if __name__ == "__main__":
    main()
