"""`fleetbus log`: copy moves a first look, kept on one machine, to RabbitMQ; recover brings back what a stream lost."""

import click

from fleetbus.commands.options import output_options
from fleetbus.errors import NotReached, Wrong
from fleetbus.output import Printer
from fleetbus.settings import BadValue, masked
from fleetbus.settings import url as read_url


@click.group("log")
def log() -> None:
    """The log itself."""


@log.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@output_options
def copy(*, out: Printer, source: str, target: str) -> None:
    """Copy a log FROM sqlite:///FOLDER TO amqp://USER:PASSWORD@HOST:PORT/VHOST.

    The target must have no log yet, or the beginning of this one, from a copy that was cut off. USER needs the right
    to declare, and for the copy the tag impersonator, because each record keeps the user who said it. Stop whatever
    uses the source first. Agents of the source join anew: the broker does not know them.
    """
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    from bus.embedded import EmbeddedBus
    from bus.errors import BadUrl, BusError
    from events.actors import HANDLERS
    from fleetbus import logcopy, logs

    logs.only_trouble("log copy")
    _check("FROM", source, "sqlite")
    _check("TO", target, "amqp", "amqps")
    folder = Path(unquote(urlsplit(source).path))
    if not (folder / "bus.db").is_file():
        raise Wrong(
            f"FROM: there is no bus in {folder}", "`fleetbus up` keeps its own in the folder bus of its data folder"
        )
    bus = EmbeddedBus(folder, HANDLERS)
    try:
        counts = logcopy.copy(bus, target)
    except BadUrl as error:
        raise Wrong(f"TO: {masked(str(error))}") from None
    except BusError as error:
        raise NotReached(masked(str(error))) from None
    finally:
        bus.close()
    out.done(f"copied and compared: {counts['log']} records, {counts['blobs']} chunks of blobs", counts)


@log.command("recover")
@click.argument("url", metavar="URL")
@output_options
def recover(*, out: Printer, url: str) -> None:
    """Append to the log at URL what was confirmed under `fsync` and is not in it any more.

    For the time after a power cut, before the handlers start. URL is amqp://USER:PASSWORD@HOST:PORT/VHOST; USER needs
    all rights there and the tag impersonator, because each event keeps the user who said it. What the log has leaves
    the queue of the archive once it is two minutes old. Harmless when nothing was lost.
    """
    from bus.errors import BadUrl, BusError
    from bus.rabbitmq.recovery import recover as bring_back
    from fleetbus import logs
    from fleetbus.progress import progress

    logs.only_trouble("log recover")
    _check("URL", url, "amqp", "amqps")
    try:
        with progress("comparing") as tell:
            found = bring_back(url, tell)
    except BadUrl as error:
        raise Wrong(f"URL: {masked(str(error))}") from None
    except BusError as error:
        raise NotReached(masked(str(error))) from None
    text = f"{found.in_log} confirmed events are in the log, {found.appended} were lost and are appended again"
    counts = {"in_log": found.in_log, "appended": found.appended, "left": found.left}
    out.done(text + (f"; {found.left} stay in the queue until they are older" if found.left else ""), counts)


def _check(name: str, value: str, *schemes: str) -> None:
    try:
        read_url(*schemes)(value)
    except BadValue as error:
        raise Wrong(f"{name} {error}") from None
