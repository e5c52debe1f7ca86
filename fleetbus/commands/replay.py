"""`fleetbus replay`: the views made anew from the log, directly on bus and documents; nothing else need run."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from fleetbus.commands.options import data_option, output_options
from fleetbus.errors import Failure, NotReached, Wrong
from fleetbus.output import Printer

if TYPE_CHECKING:
    from fleetbus.settings import Settings
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

    from bus.errors import BadUrl, BusError
    from fleetbus import logs, wiring
    from fleetbus.progress import progress
    from fleetbus.settings import masked
    from projections.generation import Dropped
    from projections.osis.errors import BadUrl as BadStorageUrl
    from projections.osis.errors import OsisError
    from projections.replay import ReplayRefused
    from projections.replay import replay as run

    logs.only_trouble("replay")
    last = None if until is None else _moment(until)
    try:
        with wiring.log_and_views(_settings(data)) as (bus, documents), progress("replay") as tell:
            report = run(
                bus,
                documents,
                until=last,
                projections=names or None,
                progress=lambda done, total, _rate: tell(done, total),
            )
    except ReplayRefused as error:
        raise Wrong(str(error)) from None
    except (BadUrl, BadStorageUrl) as error:
        raise Wrong(masked(str(error))) from None
    except Dropped as error:
        raise Failure(str(error), "run it again") from None
    except (BusError, OsisError) as error:
        raise NotReached(masked(str(error))) from None
    out.done(_in_words(report), msgspec.to_builtins(report) | {"rate": round(report.rate)})


def _settings(data: str | None) -> "Settings":
    """Those of the environment; where they name no storage, the folder of `fleetbus up`."""
    from fleetbus.datafolder import DataFolder
    from fleetbus.settings import default_data, from_environment

    settings = from_environment()
    if settings.bus_url and settings.documents_url and data is None:
        return settings
    folder = DataFolder(Path(data).expanduser() if data else settings.data or default_data())
    if not settings.bus_url and not (folder.path / "bus" / "bus.db").is_file():
        raise Wrong(
            f"there is no log in {folder.path}",
            "name the folder of a `fleetbus up` with --data, or set FLEETBUS_BUS_URL and FLEETBUS_DOCUMENTS_URL",
        )
    return replace(settings, data=folder.path)


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
