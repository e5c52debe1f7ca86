"""Progress of long work: a bar on a terminal, a line of JSON now and then elsewhere. Both go to stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from fleetbus.output import console

#: Says how much is done and how much there is by now.
Tell = Callable[[int, int], None]
#: Seconds between two lines of JSON.
LINE_EVERY = 2.0


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """While work goes on, it tells how far it is."""
    if sys.stderr.isatty():
        with _bar(what) as tell:
            yield tell
    else:
        with _lines(what) as tell:
            yield tell


@contextmanager
def _bar(what: str) -> Iterator[Tell]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(err=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(what: str) -> Iterator[Tell]:
    said_at, last = 0.0, (0, 0)

    def say() -> None:
        done, total = last
        click.echo(json.dumps({"progress": what, "done": done, "total": total}), err=True)

    def tell(done: int, total: int) -> None:
        nonlocal said_at, last
        last = (done, total)
        if time.monotonic() - said_at >= LINE_EVERY:
            said_at = time.monotonic()
            say()

    yield tell
    say()
