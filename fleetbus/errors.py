"""How a command of the command line ends when it does not end well. Nobody meets a traceback of ours.

1  the job or the check failed
2  wrong usage: a name that does not exist, a value that does not fit
3  cannot reach the fleet, or not allowed
4  a service only: it was connected, had something to read, and did not read it
"""

from collections.abc import Sequence
from typing import IO, Any

import click

from fleetbus.output import no_colour

FAILED, WRONG, NOT_REACHED, STALLED = 1, 2, 3, 4


class Failure(click.ClickException):
    """Ends the program, with the code of its class unless another is given.

    `message` says what was wrong and where, `hints` what would be right.
    """

    usual_code = FAILED

    def __init__(self, message: str, *hints: str, code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = self.usual_code if code is None else code  # type: ignore[misc]  # click has one for a class
        self.hints: Sequence[str] = [hint for hint in hints if hint]

    def show(self, file: IO[Any] | None = None) -> None:
        # the context that knows about colours is gone by now
        colour = False if no_colour() else None
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=True, color=colour)
        for hint in self.hints:
            click.echo(f"  {hint}", file=file, err=True)


class Wrong(Failure):
    """What was asked for cannot be: a name that does not exist, a value that does not fit."""

    usual_code = WRONG


class NotReached(Failure):
    """The fleet does not answer, or says that this is not allowed."""

    usual_code = NOT_REACHED
