"""What `fleetbus up` shows while it runs: a table that changes on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Protocol, Self

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleetbus.output import age, console
from fleetbus.startup import Startup
from fleetbus.supervisor import Child

_STYLES = {"runs": "green", "pauses": "yellow", "gave up": "red", "stopped": "dim"}


class Status(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, children: Sequence[Child], startup: Startup) -> None:
        """How everything is now; called several times a second."""
        ...

    def happened(self, child: Child) -> None:
        """A child ended, or was started again."""
        ...

    def stopping(self) -> None: ...


class Plain:
    """Lines, one when something changes."""

    def __init__(self) -> None:
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, children: Sequence[Child], startup: Startup) -> None:
        text = _stage(startup)
        if text != self._said:
            self._said = text
            click.echo(text)

    def happened(self, child: Child) -> None:
        click.echo(_event(child))

    def stopping(self) -> None:
        click.echo("stopping")


class Drawn:
    """A table that is drawn anew when it changed, once a second at most for the time that goes by."""

    def __init__(self) -> None:
        self._live = Live(console=console(), auto_refresh=False)
        self._drawn: object = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, children: Sequence[Child], startup: Startup) -> None:
        rows = [_row(child) for child in children]
        stage = _stage(startup)
        if (rows, stage) == self._drawn:
            return
        self._drawn = (rows, stage)
        table = Table.grid(padding=(0, 3, 0, 0))
        for child, row in zip(children, rows, strict=True):
            name, state, *rest = row
            table.add_row(name, Text(state, style=_STYLES[child.state]), *rest)
        hint = "`fleetbus run facts` in another terminal; Ctrl-C here stops everything"
        shown = Text(stage, style="bold" if startup.ready.is_set() else "dim")
        self._live.update(Group(Text(), table, Text(), shown, Text(hint, style="dim")), refresh=True)

    def happened(self, child: Child) -> None:
        self._live.console.print(Text(_event(child), style=_STYLES[child.state]))

    def stopping(self) -> None:
        self._live.console.print("stopping")


def _row(child: Child) -> tuple[str, ...]:
    if not child.pid:
        return child.name, child.state, "", "", ""
    again = f"started again {child.restarts} times" if child.restarts > 1 else "started again" if child.restarts else ""
    return child.name, child.state, f"process {child.pid}", age(time.monotonic() - child.started_at), again


def for_terminal() -> Status:
    return Drawn()


def _stage(startup: Startup) -> str:
    if not startup.ready.is_set():
        return f"starting: {startup.doing}"
    return startup.summary()


def _event(child: Child) -> str:
    if child.state == "runs":
        return f"{child.name} was started again"
    if child.code is not None and child.code < 0:
        return f"{child.name} was killed by signal {-child.code}"
    return f"{child.name} ended with {child.code}: {child.last_words()}"
