"""`fleetbus handlers | projections | archiver | portal | agent`: one service each, as the environment says."""

import threading
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from fleetbus.commands.options import data_option
from fleetbus.settings import Settings

#: Seconds that running jobs have when an agent is told to stop.
GRACE = 30.0


def _epilog(*names: str) -> str:
    return "Reads " + ", ".join(f"FLEETBUS_{name}" for name in names) + "; `fleetbus --help` says what they are."


def _with(settings: Settings, data: str | None) -> Settings:
    return settings if data is None else replace(settings, data=Path(data).expanduser().absolute())


@click.command("handlers", epilog=_epilog("BUS_URL", "STREAM_URL", "STATSD_URL", "DATA", "LOG"))
@data_option
def handlers(data: str | None) -> None:
    """Decide what commands come to, and deliver it. Several may run; one of them decides at a time."""
    from fleetbus import wiring
    from fleetbus.service import serve

    serve("handlers", lambda settings, stop: wiring.run_handlers(_with(settings, data), stop))


@click.command(
    "projections", epilog=_epilog("BUS_URL", "STREAM_URL", "DOCUMENTS_URL", "SERIES_URL", "STATSD_URL", "DATA", "LOG")
)
@data_option
def projections(data: str | None) -> None:
    """Keep the views: fold what the log says into documents, and measurements into series."""
    from fleetbus import wiring
    from fleetbus.service import serve

    serve("projections", lambda settings, stop: wiring.run_projections(_with(settings, data), stop))


@click.command(
    "archiver",
    epilog=_epilog(
        "BUS_URL", "STREAM_URL", "ARCHIVE", "ARCHIVE_RECORDS", "ARCHIVE_SECONDS", "STATSD_URL", "DATA", "LOG"
    ),
)
@data_option
def archiver(data: str | None) -> None:
    """Archive the log in sealed segments that anybody can verify. One runs for one folder."""
    from fleetbus import wiring
    from fleetbus.service import serve

    serve("archiver", lambda settings, stop: wiring.run_archiver(_with(settings, data), stop))


@click.command(
    "portal",
    epilog=_epilog(
        *(
            "BUS_URL",
            "STREAM_URL",
            "DOCUMENTS_URL",
            "SERIES_URL",
            "LIVE_URL",
            "HOST",
            "PORT",
            "PUBLIC_URL",
            "AGENTS_BUS_URL",
        ),
        *("MANAGEMENT_URL", "STATSD_URL", "DATA", "LOG"),
    ),
)
@data_option
@click.option("--host", default=None, help="Where it listens. [FLEETBUS_HOST, 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Its port. [FLEETBUS_PORT, 8000]")
def portal(data: str | None, host: str | None, port: int | None) -> None:
    """Serve the pages and the REST API."""
    from fleetbus import wiring
    from fleetbus.service import serve

    def run(settings: Settings, stop: threading.Event) -> None:
        at = replace(settings, host=host or settings.host, port=port or settings.port)
        wiring.run_portal(_with(at, data), stop)

    serve("portal", run)


@click.command("agent", epilog=_epilog("BUS_URL", "NODE", "ROLES", "ALLOW", "STATSD_URL", "DATA", "LOG"))
@click.option("--node", default=None, help="The node's id. [FLEETBUS_NODE, this machine's name at first]")
@click.option("--role", "roles", multiple=True, help="A role that it holds when it is first seen; may be given again.")
@click.option("--allow", multiple=True, help="What its owner allows, such as shell; may be given again.")
@data_option
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE,
    show_default=True,
    help="Seconds that running jobs have when it stops.",
)
@click.option(
    "--join", "portal_url", metavar="URL", default=None, help="First join the fleet of this portal, by an invitation."
)
@click.option("--token", default=None, envvar="FLEETBUS_JOIN_TOKEN", help="The invitation. [FLEETBUS_JOIN_TOKEN]")
def agent(
    node: str | None,
    roles: Sequence[str],
    allow: Sequence[str],
    data: str | None,
    grace: float,
    portal_url: str | None,
    token: str | None,
) -> None:
    """Make this machine a node: run the jobs that the fleet has for it."""
    from fleetbus import joining, wiring
    from fleetbus.service import serve

    def run(settings: Settings, stop: threading.Event) -> int:
        folder = joining.agent_folder(_with(settings, data))
        settings = joining.identified(settings, folder, node)
        if portal_url is not None:
            settings = joining.join(settings, folder, portal_url, token)
        return wiring.run_agent(
            settings,
            stop,
            node=settings.node,
            roles=tuple(roles) or settings.roles,
            allow=tuple(allow) or settings.allow,
            data=folder,
            grace=grace,
        )

    serve("agent", run)
