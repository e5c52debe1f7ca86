"""`fleetbus setup`: what RabbitMQ needs before services can come: a virtual host, users with rights, the topology."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

import click

from fleetbus.commands.options import output_options
from fleetbus.errors import NotReached, Wrong
from fleetbus.output import Printer
from fleetbus.settings import BY_NAME, Settings, from_environment, masked

if TYPE_CHECKING:
    from jumpscripts import Bundled

#: Namespace of the ids under which bundled scripts are published: each version has one, and happens once in a log.
SCRIPTS = UUID("3c0e9e4e-7a0f-5d0c-9b63-5f2f4a8a9d11")
ACTOR = "service:setup"
#: Seconds that the broker may take for one script.
PATIENCE = 30.0


@click.command(
    "setup",
    epilog="Reads FLEETBUS_BUS_URL (its user does not matter), FLEETBUS_MANAGEMENT_URL, FLEETBUS_USERS and "
    "FLEETBUS_DURABILITY; `fleetbus --help` says what they are.",
)
@click.option(
    "--user",
    "new",
    multiple=True,
    metavar="NAME",
    help="Give this user a new password and print its URL: handlers, projections, portal, archiver, node.ID or "
    "service.NAME. May be given again.",
)
@click.option("--scripts", is_flag=True, help="Publish the scripts that come with fleetbus, each version once.")
@output_options
def setup(*, out: Printer, new: Sequence[str], scripts: bool) -> None:
    """Prepare RabbitMQ: the virtual host, users and their rights; with the user handlers, the topology and the log.

    Users of FLEETBUS_USERS get the passwords that are there. Harmless when all of it is there already.
    """
    from bus.errors import BusError
    from fleetbus import logs

    logs.only_trouble("setup")
    settings = from_environment()
    _check(settings)
    passwords = _passwords(settings.users, new)
    if scripts and "portal" not in passwords:
        raise Wrong("--scripts speaks as the user portal, whose password is not known here", "add --user portal")
    try:
        urls = _users(settings, passwords)
        kept = _topology(urls["handlers"], settings) if "handlers" in urls else ""
        published = _publish(urls) if scripts else []
    except BusError as error:
        raise NotReached(masked(str(error))) from None
    _tell(out, settings, urls, new, published, kept)


def _check(settings: Settings) -> None:
    if settings.bus_url and urlsplit(settings.bus_url).scheme not in ("amqp", "amqps"):
        raise Wrong(
            "FLEETBUS_BUS_URL: only RabbitMQ needs a setup; right would be amqp://HOST:PORT/VHOST",
            "on the embedded side everything is made when it is first needed",
        )
    if not settings.bus_url:
        raise Wrong("FLEETBUS_BUS_URL is not set; right would be amqp://HOST:PORT/VHOST, where the services will be")
    if not settings.management_url:
        raise Wrong(f"FLEETBUS_MANAGEMENT_URL is not set: {BY_NAME['FLEETBUS_MANAGEMENT_URL'].descr}")


def _passwords(given: Mapping[str, str], new: Sequence[str]) -> dict[str, str]:
    """User -> password. Raises `Wrong` for a user that fleetbus does not know."""
    from bus.users import rights_of

    if twice := [user for user in new if user in given]:
        raise Wrong(f"--user {twice[0]}: its password is in FLEETBUS_USERS already")
    passwords = {**given, **{user: secrets.token_urlsafe(24) for user in new}}
    if not passwords:
        raise Wrong(
            "there is nobody to set up: name users with --user, or with their passwords in FLEETBUS_USERS",
            "--user handlers --user projections --user portal --user archiver makes those of the platform",
        )
    for user in passwords:
        try:
            rights_of(user)
        except ValueError as error:
            raise Wrong(str(error)) from None
    return passwords


def _users(settings: Settings, passwords: Mapping[str, str]) -> dict[str, str]:
    """User -> its URL, now that it is there."""
    from bus.users import ensure_user, ensure_vhost

    at = urlsplit(settings.bus_url)
    vhost, host = unquote(at.path[1:]) or "/", at.netloc.rpartition("@")[2]
    ensure_vhost(settings.management_url, vhost)
    urls = {}
    for user, password in passwords.items():
        ensure_user(settings.management_url, vhost, user, password)
        urls[user] = f"{at.scheme}://{quote(user)}:{quote(password, safe='')}@{host}/{quote(vhost, safe='')}"
    return urls


def _topology(url: str, settings: Settings) -> str:
    """What is to be said of the archive's queue; "" when it is as it should be."""
    from bus import topology

    kept = topology.apply(url, settings.durability or None)
    if kept is None:
        return ""
    return (
        f"confirms mean `stream` again; the queue fleetbus.archive keeps {kept.messages} messages that are not in an "
        "archive yet: `fleetbus log recover` empties it, then run setup again"
    )


def _publish(urls: Mapping[str, str]) -> "list[Bundled]":
    """Says once, for each version of a bundled script, that it is to be published. A later version by hand stays."""
    from bus.ports import Message
    from bus.wiring import open_bus
    from events.actors import PORTAL
    from events.codec import encode
    from events.envelope import Event
    from events.routing import routing_key
    from events.script import PublishScript
    from jumpscripts import bundled

    scripts = bundled()
    bus = open_bus(urls[PORTAL], PORTAL)
    try:
        for script in scripts:
            id = str(uuid5(SCRIPTS, f"{script.name}/{script.hash}"))
            event = Event(
                id=id,
                source="fleetbus/setup",
                type="command.script.publish",
                subject=script.name,
                time=datetime.now(UTC),
                actor=ACTOR,
                data=PublishScript(name=script.name, source=script.source),
                correlationid=id,
            )
            bus.publish(Message(routing_key(event), encode(event), event.id, event.type)).result(PATIENCE)
    finally:
        bus.close()
    return scripts


def _tell(
    out: Printer,
    settings: Settings,
    urls: Mapping[str, str],
    new: Sequence[str],
    published: "Sequence[Bundled]",
    kept: str,
) -> None:
    """Passwords that were made here are shown, this once; those that were given are not."""
    known = [user for user in urls if user not in new]
    lines = [urls[user] for user in new]
    lines += [f"{', '.join(known)}: as FLEETBUS_USERS says"] if known else []
    lines += [f"asked to publish: {', '.join(script.name for script in published)}"] if published else []
    lines += [kept] if kept else []
    shown = {
        "vhost": unquote(urlsplit(settings.bus_url).path[1:]) or "/",
        "users": {user: urls[user] if user in new else None for user in urls},
        "topology": "handlers" in urls,
        "durability": settings.durability or None,
        "scripts": [script.name for script in published],
    }
    out.done("\n".join(lines), shown)
