"""`python -m benchmarks [NAME…] [--runs N]`: all figures, or the named ones, as a table and as JSON."""

import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table as Sheet

from benchmarks import appends, archive, growth, hops, jobs
from benchmarks.measure import Table, compare, compare_once
from bus import topology
from bus.wiring import open_bus
from events.actors import HANDLERS, PORTAL, agent_user
from tests.contract.bus_contract import RabbitEngine
from tests.servers.management import Management
from tests.servers.services import Services

FIGURES = ("appends", "jobs", "archive", "growth")
LIBRARIES = ("pika", "kombu", "celery", "redis", "msgspec", "pyzmq")


class Report(Struct, frozen=True):
    """A run of the benchmarks: where, with what, and what came out."""

    machine: dict[str, str]
    tables: list[Table]


def machine() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    return {**found, **versions}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def measure(names: tuple[str, ...], runs: int, sizes: tuple[int, ...], console: Console) -> list[Table]:
    tables = _on_servers(names, runs, console) if {"appends", "jobs"} & set(names) else []
    tables += _of_archive(runs, console) if "archive" in names else []
    return tables + _of_growth(runs, sizes, console) if "growth" in names else tables


def _of_archive(runs: int, console: Console) -> list[Table]:
    with tempfile.TemporaryDirectory(prefix="fleetbus-archive-") as folder, console.status("archive …") as status:
        contestants = archive.contestants(Path(folder), status.update)
        return [compare(archive.TITLE, contestants, archive.UNITS, (), runs, status.update)]


def _of_growth(runs: int, sizes: tuple[int, ...], console: Console) -> list[Table]:
    with tempfile.TemporaryDirectory(prefix="fleetbus-growth-") as folder, console.status("growth …") as status:
        fleets = growth.contestants(Path(folder), sizes, status.update)
        first = compare_once("First starts", {name: fleet.first for name, fleet in fleets.items()}, growth.FIRST_UNITS)
        later = compare(
            "Growth with the log", growth.runs_of(fleets), growth.UNITS, growth.goals(sizes), runs, status.update
        )
    return [first, later]


def _on_servers(names: tuple[str, ...], runs: int, console: Console) -> list[Table]:
    services = Services()
    with services.in_use(), console.status("servers …") as status:
        services.start(services.rabbitmq)
        services.start(services.redis)
        management = Management(services.rabbitmq.management_url, services.rabbitmq.url)
        vhosts = ("bench", "bench-fsync")
        engine, durable = (RabbitEngine(management, management.add_vhost(name)) for name in vhosts)
        topology.make_durable(durable.url(HANDLERS), "fsync")
        try:
            return _tables(names, runs, engine, durable, services, status.update)
        finally:
            for one, name in zip((engine, durable), vhosts, strict=True):
                one.close()
                management.delete_vhost(name)


def _tables(  # type: ignore[no-untyped-def]
    names: tuple[str, ...], runs: int, engine: RabbitEngine, durable: RabbitEngine, services: Services, progress
) -> list[Table]:
    tables = []
    bus = open_bus(engine.url(PORTAL), PORTAL)
    if "appends" in names:
        url = engine.url("service.bench")
        own = open_bus(url, "service.bench")
        lasting = open_bus(durable.url("service.bench"), "service.bench")
        contestants = appends.contestants(own, url, lasting)
        tables.append(compare("Confirmed appends", contestants, appends.UNITS, appends.GOALS, runs, progress))
        own.close()
        lasting.close()
    if "jobs" in names:
        engine.invite(jobs.NODE)
        urls = {"handlers": engine.url(HANDLERS), "agent": engine.url(agent_user(jobs.NODE))}
        with jobs.processes(urls, services.rabbitmq.url, services.redis.url):
            caller = jobs.Caller(bus)
            caller.publish_script()
            tables.append(compare("Empty jobs", jobs.contestants(caller), jobs.UNITS, jobs.GOALS, runs, progress))
            tables += hops.tables(caller)
    bus.close()
    return tables


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
@click.argument("names", nargs=-1, type=click.Choice(FIGURES))
@click.option("--runs", default=5, show_default=True, help="Runs of each contestant, in turn.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Where the figures go as JSON.")
@click.option(
    "--events", "sizes", default=growth.SIZES, multiple=True, help="For growth: sizes of logs, largest first."
)
def main(names: tuple[str, ...], runs: int, path: Path | None, sizes: tuple[int, ...]) -> None:
    """Measure fleetbus beside its rivals."""
    console = Console()
    tables = measure(names or FIGURES, runs, sizes, console)
    report = Report(machine(), tables)
    console.print(", ".join(f"{key} {value}" for key, value in report.machine.items()))
    for table in tables:
        show(console, table)
    path = path or Path(tempfile.gettempdir()) / "fleetbus-bench.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    console.print(f"as JSON: {path}")


if __name__ == "__main__":
    main()
