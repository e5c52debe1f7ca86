"""The fault suite: `python -m tests.chaos run --runs 26 --seed 1 --out DIR`, and `plans` for what there is to choose.

A run with the same seed and plan makes the same choices: the same faults on the same processes for the same time, and
the same commands. What the machine does in between is its own.
"""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from tests.chaos import nemesis
from tests.chaos.checkers import CHECKERS
from tests.chaos.fleet import ChaosFleet
from tests.chaos.trial import Result, Trials, trials

#: Runs after which a fleet is made anew, so that neither log nor disks grow without end.
RUNS_OF_A_FLEET = 60


@click.group()
def main() -> None:
    """Break fleetbus, and see what it promised."""


@main.command()
def plans() -> None:
    """Name the faults and pairs."""
    click.echo("\n".join(list(nemesis.PLANS)))


@main.command()
@click.option("--seed", default=1, show_default=True, help="Of the first run; each further run has the next one.")
@click.option("--runs", default=len(nemesis.PLANS), show_default="once each plan", help="How many.")
@click.option("--plan", "only", multiple=True, type=click.Choice(list(nemesis.PLANS)), help="Only these.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder in which the result of each run is kept.")
@click.option("--minutes", type=float, default=None, help="Begin no further run after so long.")
def run(seed: int, runs: int, only: tuple[str, ...], out: Path | None, minutes: float | None) -> None:
    """Run, and print what was found. Ends with 1 when anything was."""
    chosen = list(only) or list(nemesis.PLANS)
    # whoever ends this ends the fleet with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    out = out or Path(tempfile.mkdtemp(prefix="fleetbus-chaos-"))
    out.mkdir(parents=True, exist_ok=True)
    todo = [(one, chosen[one % len(chosen)]) for one in range(seed, seed + runs)]
    results: list[Result] = []
    while todo and time.monotonic() < until:
        results += _on_one_fleet(todo, out, until)
    _show(results, out)
    sys.exit(0 if all(result.passed for result in results) else 1)


def _on_one_fleet(todo: list[tuple[int, str]], out: Path, until: float) -> Iterator[Result]:
    """Takes runs from `todo`, until the fleet is old, or one of them found something."""
    folder = Path(tempfile.mkdtemp(prefix="fleetbus-chaos-fleet-"))
    try:
        with trials(folder) as (fleet, made):
            click.echo(f"a new fleet in {folder}, on {fleet.network.kind}")
            for _ in range(RUNS_OF_A_FLEET):
                if not todo or time.monotonic() > until:
                    return
                result = made.run(*todo.pop(0))
                _keep(result, made, fleet, out)
                yield result
                if not result.passed:
                    return
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(result: Result, made: Trials, fleet: ChaosFleet, out: Path) -> None:
    """The result; and of a run that found something, the log and what the processes said."""
    (out / f"{result.seed}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    click.echo(f"{result.seed:>6}  {result.plan:<22} {result.seconds:5.1f} s  {'; '.join(result.done)}")
    if result.passed:
        return
    for name, complaints in result.complaints.items():
        for complaint in complaints[:5]:
            click.echo(f"        {name}: {complaint}")
    kept = out / str(result.seed)
    kept.mkdir(exist_ok=True)
    (kept / "log.jsonl").write_bytes(made.records_since(0))
    (kept / "watched.json").write_bytes(msgspec.json.encode([made.watcher.connections, made.watcher.seen]))
    for path in fleet.folder.glob("*.log"):
        shutil.copy(path, kept)


def _show(results: list[Result], out: Path) -> None:
    table = Table(title=f"{len(results)} runs, results in {out}")
    for title in ("plan", "runs", "commands", "jobs", "recovered", "back after, s", *CHECKERS):
        table.add_column(title, justify="left" if title == "plan" else "right")
    for plan in [*dict.fromkeys(result.plan for result in results), "all"]:
        these = [result for result in results if plan in ("all", result.plan)]
        table.add_row(plan, *_row(these))
    Console(width=200).print(table)


def _row(results: list[Result]) -> list[str]:
    sums = [len(results), *(sum(getattr(one, name) for one in results) for name in ("commands", "jobs", "recovered"))]
    slowest = max((result.back_after for result in results), default=0.0)
    found = [sum(len(result.complaints[name]) for result in results) for name in CHECKERS]
    return [*map(str, sums), f"{slowest:.1f}", *map(str, found)]


if __name__ == "__main__":
    main()
