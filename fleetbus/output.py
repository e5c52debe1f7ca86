"""What commands print: tables for eyes, JSON and YAML for programs. Answers go to stdout, words on them to stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console

Form = Literal["table", "json", "yaml"]
FORMS: tuple[Form, ...] = ("table", "json", "yaml")
Document = Mapping[str, Any]
#: A title, and what stands below it for one document.
Column = tuple[str, Callable[[Document], str]]

#: How the states of jobs and nodes look.
STATE_STYLES = {
    "succeeded": "green",
    "online": "green",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "offline": "red",
    "removed": "dim",
    "cancelled": "yellow",
    "expired": "yellow",
    "started": "cyan",
}
#: Columns of a table that nobody looks at: a program that reads it must not find its lines wrapped.
UNSEEN_WIDTH = 10_000


class Printer:
    """Prints in the form that was asked for."""

    def __init__(self, form: Form) -> None:
        self.form = form

    @property
    def for_eyes(self) -> bool:
        return self.form == "table"

    def document(self, document: Any) -> None:
        """One document, whole."""
        if self.form == "json":
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            click.echo(as_yaml(document), nl=False)

    def line(self, document: Any) -> None:
        """One of several documents that come one by one: a line of JSON, or a YAML document."""
        if self.form == "json":
            click.echo(json.dumps(document, ensure_ascii=False))
        else:
            click.echo("---\n" + as_yaml(document), nl=False)

    def items(self, items: Iterable[Document], columns: Sequence[Column], none: str) -> None:
        """A list. For eyes, these columns, and the words `none` when it is empty."""
        if not self.for_eyes:
            self.document(list(items))
            return
        rows = [[cell(item) for _, cell in columns] for item in items]
        if rows:
            table([title for title, _ in columns], rows)
        else:
            click.echo(none, err=True)

    def fields(self, document: Document, pairs: Sequence[tuple[str, str]]) -> None:
        """One document. For eyes, these names and values; those without a value are left out."""
        if not self.for_eyes:
            self.document(document)
            return
        shown = [(name, value) for name, value in pairs if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            text = value.replace("\n", "\n" + " " * (width + 2))
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {text}")

    def done(self, text: str, document: Any) -> None:
        """What a command came to: words for eyes, the answer itself for programs."""
        if self.for_eyes:
            click.echo(text)
        else:
            self.document(document)


def as_yaml(document: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1_000)
    return text.removesuffix("...\n")


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def console(*, err: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(
        file=stream, width=None if stream.isatty() else UNSEEN_WIDTH, highlight=False, emoji=False, markup=False
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        # an id that is cut is of no use
        shown.add_column(title, overflow="fold" if title == "ID" else "ellipsis", no_wrap=title == "ID")
    for row in rows:
        shown.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    console().print(shown)


def state(text: str) -> str:
    """A state, in its colour."""
    colour = STATE_STYLES.get(text)
    return click.style(text, fg=None if colour == "dim" else colour, dim=colour == "dim")


def moment(text: str | None) -> str:
    """A moment of a document as a person here reads it: local time, without the date when it is today."""
    if not text:
        return ""
    at = datetime.fromisoformat(text).astimezone()
    today = datetime.now(UTC).astimezone().date() == at.date()
    return f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d %H:%M:%S}"


def seconds(value: float | None) -> str:
    """A duration, short."""
    if value is None:
        return ""
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return age(value)


def age(value: float) -> str:
    """A time that goes by, in whole seconds."""
    minutes, rest = divmod(int(value), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def no_colour() -> bool:
    """Whether the person wants none (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))
