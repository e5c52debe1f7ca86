"""`fleetbus emulate`: many agents that are only played, to see how a broker and the services bear a large fleet."""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from fleetbus.commands.options import output_options
from fleetbus.errors import Failure, NotReached, Wrong
from fleetbus.output import Printer
from fleetbus.settings import Settings, from_environment, masked

if TYPE_CHECKING:
    from fleetbus.emulation import Place, Players

#: Seconds between two lines about how it goes.
SAY_EVERY = 5.0
#: The longest prefix: a dash and five digits follow, and a node's id has at most 63 characters.
LONGEST_PREFIX = 57


@click.command(
    "emulate",
    epilog="Reads FLEETBUS_BUS_URL (its user does not matter) and FLEETBUS_MANAGEMENT_URL; `fleetbus --help` says what "
    "they are.",
)
@click.option("--agents", type=click.IntRange(1, 99_999), required=True, help="How many.")
@click.option("--role", "roles", multiple=True, help="A role that each of them has. May be given again.")
@click.option("--prefix", default="emulated", show_default=True, help="What their nodes' ids begin with.")
@click.option(
    "--processes", type=click.IntRange(1, 64), default=None, help="Processes that play them.  [default: cores]"
)
@click.option(
    "--lose-every",
    type=click.FloatRange(0),
    default=0.0,
    help="Each agent loses its connection after this many seconds on average, and comes back; 0: never.",
    show_default=True,
)
@click.option("--seconds", type=click.FloatRange(0), default=0.0, help="End after so long; 0: at Ctrl-C.")
@output_options
def emulate(
    *,
    out: Printer,
    agents: int,
    roles: Sequence[str],
    prefix: str,
    processes: int | None,
    lose_every: float,
    seconds: float,
) -> None:
    """Play AGENTS agents on a RabbitMQ: they connect, beat, take jobs and answer at once, without running anything.

    Each has a broker user and an inbox of its own, which are made first and removed at the end. The nodes stay in the
    views, offline: use a virtual host that is thrown away afterwards.
    """
    from bus.errors import BusError
    from fleetbus import emulation, logs
    from fleetbus.progress import progress
    from nodeagent.emulator import Team

    logs.only_trouble("emulate")
    place = _place(from_environment())
    _check(prefix, roles)
    nodes = emulation.node_ids(prefix, agents)
    try:
        try:
            with progress("making users") as tell:
                members = emulation.make_users(place, nodes, tell)
            team = Team(members=members, roles=tuple(roles), lose_every=lose_every)
            with emulation.players(team, processes or os.cpu_count() or 1) as players:
                _watch(out, players, seconds)
            _say(out, players)
        finally:
            with progress("removing users") as tell:
                emulation.remove_users(place, nodes, tell)
    except BusError as error:
        raise NotReached(masked(str(error))) from None


def _place(settings: Settings) -> "Place":
    from fleetbus.emulation import Place

    if urlsplit(settings.bus_url).scheme not in ("amqp", "amqps"):
        raise Wrong("FLEETBUS_BUS_URL: agents are emulated on RabbitMQ only; right would be amqp://HOST:PORT/VHOST")
    if not settings.management_url:
        raise Wrong("FLEETBUS_MANAGEMENT_URL is not set; each emulated agent gets a broker user of its own through it")
    return Place(settings.bus_url, settings.management_url)


def _check(prefix: str, roles: Sequence[str]) -> None:
    import re

    from events.names import NODE_PATTERN, ROLE_PATTERN

    if not re.match(NODE_PATTERN, prefix) or len(prefix) > LONGEST_PREFIX:
        raise Wrong(f"--prefix {prefix}: right would be 1 to {LONGEST_PREFIX} of a-z, 0-9 and -")
    for role in roles:
        if not re.match(ROLE_PATTERN, role):
            raise Wrong(f"--role {role}: right would be words of a-z, 0-9 and - with dots between them")


def _watch(out: Printer, players: "Players", seconds: float) -> None:
    """Says how it goes until Ctrl-C, or until the time is over. Raises `Failure` when a process has died."""
    ends = time.monotonic() + (seconds or float("inf"))
    said_at = 0.0
    try:
        while time.monotonic() < ends:
            if players.dead:
                raise Failure("a process that plays agents has ended; what it wrote above says why")
            if time.monotonic() - said_at >= SAY_EVERY:
                said_at = time.monotonic()
                _say(out, players)
            time.sleep(0.2)
    except KeyboardInterrupt:
        return


def _say(out: Printer, players: "Players") -> None:
    import msgspec

    counts = players.counts
    trouble = f" · {counts.trouble}" if counts.trouble and counts.connected < counts.agents else ""
    if out.for_eyes:
        click.echo(
            f"{counts.connected:,} of {counts.agents:,} connected · {counts.jobs:,} jobs ended · "
            f"{counts.lost:,} connections lost{trouble}"
        )
    else:
        out.line(msgspec.to_builtins(counts))
