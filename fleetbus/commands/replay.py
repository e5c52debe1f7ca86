"""`fleetbus replay`: the views made anew from the log, directly on bus and documents; nothing else need run."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from fleetbus.commands.direct import log_and_views
from fleetbus.commands.options import data_option, output_options
from fleetbus.errors import Wrong
from fleetbus.output import Printer

if TYPE_CHECKING:
    from projections.replay import ReplayReport


@click.command("replay")
@data_option
@click.option("--until", metavar="TIME|OFFSET", help="Views of an earlier time, beside the live ones, which stay.")
@click.option("--projection", "names", multiple=True, metavar="NAME", help="Only this view; may be given again.")
@output_options
def replay(*, out: Printer, data: str | None, until: str | None, names: Sequence[str]) -> None:
    """Make the views anew from the log. Whoever reads them sees the old ones until the new ones have caught up.

    Works on FLEETBUS_BUS_URL and FLEETBUS_DOCUMENTS_URL, or in the folder of `fleetbus up`.
    """
    import msgspec

    from projections.replay import replay as run

    last = None if until is None else _moment(until)
    with log_and_views(data, "replay") as (bus, documents, made_by, tell):
        report = run(bus, documents, until=last, projections=names or None, progress=tell, views=made_by)
    out.done(_in_words(report), msgspec.to_builtins(report) | {"rate": round(report.rate)})


def _moment(text: str) -> datetime | int:
    """Raises `Wrong`."""
    if text.isdecimal():
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Wrong(
            f"--until is {text!r}; right would be a moment such as 2026-01-31T12:00:00Z, or an offset such as 1200"
        ) from None


def _in_words(report: "ReplayReport") -> str:
    aside = f"; {report.set_aside} documents are set aside, because a projection failed" if report.set_aside else ""
    which = "the views are live" if report.live else f"the views are in the namespace {report.generation}"
    return f"{report.records:,} records in {report.seconds:.1f} s ({report.rate:,.0f} a second); {which}{aside}"
