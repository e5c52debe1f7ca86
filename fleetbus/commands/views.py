"""`fleetbus views check`: the live views compared with what the log makes of them, directly on bus and documents."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fleetbus.commands.direct import log_and_views
from fleetbus.commands.options import data_option, output_options
from fleetbus.output import Printer, table

if TYPE_CHECKING:
    from projections.check import CheckReport, Difference, ViewCheck

#: Characters of a value that the table shows; --json has all of it.
SHOWN = 200


@click.group("views")
def views() -> None:
    """Look after the views."""


@views.command("check")
@data_option
@click.option("--projection", "names", multiple=True, metavar="NAME", help="Only this view; may be given again.")
@output_options
def check(*, out: Printer, data: str | None, names: Sequence[str]) -> None:
    """Compare the live views with what the log makes of them now. Ends with 1 when they differ.

    They are built anew beside the live ones, compared document by document, and dropped again. The services may go on
    meanwhile. Works on FLEETBUS_BUS_URL and FLEETBUS_DOCUMENTS_URL, or in the folder of `fleetbus up`.
    """
    import msgspec

    from projections.check import check as run

    with log_and_views(data, "views check") as (bus, documents, made_by, tell):
        report = run(bus, documents, projections=names or None, progress=tell, views=made_by)
    found = msgspec.to_builtins(report) | {"equal": report.equal}
    if out.for_eyes:
        _show(report)
    else:
        out.document(found)
    if not report.equal:
        raise SystemExit(1)


def _show(report: "CheckReport") -> None:
    titles = ("VIEW", "DOCUMENTS", "", "LIVE", "REBUILT")
    table(titles, [_row(view) for view in report.views])
    for view in report.views:
        if view.first is not None:
            click.echo(f"\n{view.view}: {view.differences:,} documents differ. The first is {_in_words(view.first)}")
    end = f"{report.records:,} records of the log in {report.seconds:.1f} s, up to offset {report.next_offset:,}"
    click.echo(f"\n{'equal' if report.equal else 'different'}; {end}")


def _row(view: "ViewCheck") -> tuple[str, ...]:
    asides = [
        "" if view.equal else "different",
        f"{view.expired:,} expired" if view.expired else "",
        f"{view.unsettled:,} changed too fast" if view.unsettled else "",
    ]
    how = ", ".join(filter(None, asides)) or "equal"
    return view.view, f"{view.documents:,}", how, view.live_digest[:12], view.rebuilt_digest[:12]


def _in_words(first: "Difference") -> str:
    aside = "\n  it is set aside: a projection failed on it, and a replay would mend it" if first.set_aside else ""
    where = f", in its field {first.field}" if first.field else ""
    return f"{first.id}{where}:\n  live     {_value(first.live)}\n  rebuilt  {_value(first.rebuilt)}{aside}"


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
