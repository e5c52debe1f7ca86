"""Puts the services together: the one place that names real parts and the addresses they are at."""

import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import click
import structlog

from bus.archive.folder import Archive
from bus.archive.stream import ArchivedBus
from bus.broker import Broker
from bus.clock import SystemClock
from bus.errors import Refused
from bus.ports import Bus
from bus.progress import Progress, Watch
from bus.wiring import open_bus
from events.actors import ARCHIVER, HANDLERS, PORTAL, PROJECTIONS, agent_user
from fleetbus.address import check_free
from fleetbus.errors import Wrong
from fleetbus.metrics import Gauges, Metric, measured
from fleetbus.service import end_stalled
from fleetbus.settings import Settings, located, missing
from projections.osis.documents import Documents
from projections.osis.open import open_documents, open_series
from projections.osis.series import Series
from projections.projection import AnyProjection
from projections.registry import kept_for
from projections.retention import kept

if TYPE_CHECKING:
    from bus.archive.archiver import OnSealed

SNAPSHOT = "handlers.snapshot"

log = structlog.get_logger("fleetbus.wiring")


@contextmanager
def bus_of(
    settings: Settings, user: str, folder: Path | None = None, gauges: Gauges = dict, archive: Path | None = None
) -> Iterator[Bus]:
    """The bus, open as `user`; with an `archive`, its log begins there. Raises `Wrong` when the settings name none, or
    another user.
    """
    if not settings.bus_url:
        raise missing("FLEETBUS_BUS_URL")
    with closing(open_bus(settings.bus_url, user, folder, settings.stream_url)) as bus:
        if bus.user != user:
            raise Wrong(
                f"FLEETBUS_BUS_URL connects as {bus.user!r}, and nobody would listen: this service must be {user!r}",
                f"right would be amqp://{user}:PASSWORD@HOST:PORT/VHOST",
            )
        with measured(bus, settings.statsd_url, user.partition(".")[0], gauges) as counted:
            yield counted if archive is None else ArchivedBus(counted, Archive(archive))


def run_handlers(settings: Settings, stop: threading.Event) -> None:
    """Decides and delivers. On RabbitMQ it makes sure first that everything is there that a bus consists of."""
    from handlers.loop import run_handlers as run

    settings = located(settings)
    if urlsplit(settings.bus_url).scheme in ("amqp", "amqps"):
        from bus import topology

        kept = topology.apply(settings.bus_url, settings.durability or None)
        if kept is not None:
            log.warning("the archive's queue is kept", action="durability.kept", messages=kept.messages)
    snapshot, clock = settings.data / SNAPSHOT if settings.data else None, SystemClock()
    place = Progress("handlers", clock)
    with (
        bus_of(settings, HANDLERS, gauges=lambda: _lags([place]), archive=settings.archive) as bus,
        _aside(settings, bus) as questions,
        Watch(questions, [place], clock, end_stalled),
    ):
        run(bus, clock, snapshot, stop, place)


@contextmanager
def _aside(settings: Settings, bus: Bus) -> Iterator[Bus]:
    """A connection for questions alone. RabbitMQ 3.10 closes the connection of whoever asks where a stream ends while
    its writer is busy for more than 5 seconds, and the connection of the handlers holds the seat.
    """
    if urlsplit(settings.bus_url).scheme in ("amqp", "amqps"):
        with closing(open_bus(settings.bus_url, HANDLERS, stream_url=settings.stream_url)) as questions:
            yield questions
    else:
        yield bus


def run_projections(settings: Settings, stop: threading.Event) -> None:
    """Keeps the views."""
    from projections.metrics import Metrics
    from projections.service import places_of
    from projections.service import run_projections as run

    settings, metrics, clock = located(settings), Metrics(), SystemClock()
    places = places_of(clock)

    def gauges() -> dict[Metric, float]:
        return {
            "views.lag": metrics.lag,
            "views.documents": metrics.documents,
            "views.set_aside": metrics.set_aside,
            "views.left_alone": metrics.left_alone,
            "views.restarts": metrics.restarts,
            **_lags(places.values()),
        }

    with (
        bus_of(settings, PROJECTIONS, gauges=gauges, archive=settings.archive) as bus,
        _documents(settings) as documents,
        _series(settings) as series,
        Watch(bus, list(places.values()), clock, end_stalled),
    ):
        run(bus, documents, series, clock, stop, metrics, places, kept(settings.retention))


def _lags(places: Iterable[Progress]) -> dict[Metric, float]:
    """Of the consumer that is furthest behind."""
    lags = [place.lag() for place in places]
    found: dict[Metric, float] = {
        "consumer.lag": max(lag.records for lag in lags),
        "consumer.lag_seconds": max(lag.seconds for lag in lags),
    }
    trips = [lag.round_trip for lag in lags if lag.round_trip is not None]
    return {**found, "consumer.round_trip": max(trips)} if trips else found


def views_of(settings: Settings) -> tuple[AnyProjection, ...]:
    """The projections, each keeping its documents as long as it is set."""
    return kept_for(kept(settings.retention))


@contextmanager
def log_and_views(settings: Settings) -> Iterator[tuple[Bus, Documents]]:
    """What replay needs: it reads the one and writes the other."""
    settings = located(settings)
    with bus_of(settings, PROJECTIONS, archive=settings.archive) as bus, _documents(settings) as documents:
        yield bus, documents


def run_archiver(settings: Settings, stop: threading.Event) -> None:
    """Archives the log. The first start of all makes the key that signs."""
    from bus.archive.archiver import Archiver, Limits
    from bus.archive.keys import PRIVATE, BadKey, ensure_key

    settings = located(settings)
    if settings.data is None or settings.archive is None:
        raise missing("FLEETBUS_DATA")
    _check_key(settings.archive, settings.data / PRIVATE)
    try:
        key = ensure_key(settings.data)
    except BadKey as error:
        raise Wrong(str(error)) from None
    limits = Limits(records=settings.archive_records, seconds=settings.archive_seconds)
    archivers: list[Archiver] = []

    def gauges() -> dict[Metric, float]:
        return {"archive.unsealed": sum(archiver.unsealed for archiver in archivers), **_lags([place])}

    clock = SystemClock()
    place = Progress("archiver", clock)
    with (
        bus_of(settings, ARCHIVER, gauges=gauges) as bus,
        _archive_queue(settings) as sealed,
        Watch(bus, [place], clock, end_stalled),
    ):
        archivers.append(Archiver(bus, settings.archive, key, clock, limits=limits, on_sealed=sealed, progress=place))
        archivers[0].run(stop)


@contextmanager
def _archive_queue(settings: Settings) -> "Iterator[OnSealed | None]":
    """Who is to hear of each segment; on RabbitMQ the queue that keeps what `fsync` promised until it is sealed."""
    if urlsplit(settings.bus_url).scheme not in ("amqp", "amqps"):
        yield None
        return
    from bus.rabbitmq.archive_queue import ArchiveQueue

    with closing(ArchiveQueue(settings.bus_url)) as queue:
        yield lambda sealed: queue.sealed(sealed.digests)


def _check_key(archive: Path, key: Path) -> None:
    """A new key would take the place of the public half that auditors need for what is sealed already."""
    if Archive(archive).last() is not None and not key.exists():
        raise Wrong(
            f"there is an archive in {archive}, but its key {key} is gone",
            "put the key back; or begin another archive, in another folder, with FLEETBUS_ARCHIVE",
        )


def run_portal(settings: Settings, stop: threading.Event) -> None:
    """Serves. The first start of all makes an account, and says its password on stderr, this once."""
    from portal.accounts import ADMIN, Accounts
    from portal.server import places_of
    from portal.server import run_portal as run
    from projections.osis.open import open_live

    settings, clock = located(settings), SystemClock()
    places = places_of(clock)
    check_free(settings.host, settings.port)
    with (
        bus_of(settings, PORTAL, gauges=lambda: _lags(places.values()), archive=settings.archive) as bus,
        _documents(settings) as documents,
        _series(settings) as series,
        closing(open_live(settings.live_url)) as live,
        Watch(bus, list(places.values()), clock, end_stalled),
    ):
        if password := Accounts(documents).first_start():
            click.echo(f"account {ADMIN}, password {password} (shown this once)", err=True)
        run(
            bus,
            documents,
            series,
            live,
            host=settings.host,
            port=settings.port,
            stop=stop,
            credentials_for=lambda node: credentials_for(settings, node),
            forget_node=lambda node: forget_node(settings, bus, node),
            public_url=settings.public_url,
            clock=clock,
            places=places,
            broker=_broker(settings),
            projections=views_of(settings),
            ready=lambda port: log.info("the portal answers", action="portal.ready", host=settings.host, port=port),
        )


def _broker(settings: Settings) -> Broker | None:
    """What health asks; None on the embedded side, and where no management API is known."""
    at = urlsplit(settings.bus_url)
    if at.scheme not in ("amqp", "amqps") or not settings.management_url:
        return None
    return Broker(settings.management_url, unquote(at.path[1:]) or "/")


@contextmanager
def _documents(settings: Settings) -> Iterator[Documents]:
    if not settings.documents_url:
        raise missing("FLEETBUS_DOCUMENTS_URL")
    with closing(open_documents(settings.documents_url)) as documents:
        yield documents


@contextmanager
def _series(settings: Settings) -> Iterator[Series]:
    from projections.telemetry import measurements

    if not settings.series_url:
        raise missing("FLEETBUS_SERIES_URL")
    with closing(open_series(settings.series_url, measurements(kept(settings.retention)))) as series:
        yield series


def run_agent(
    settings: Settings,
    stop: threading.Event,
    *,
    node: str,
    roles: tuple[str, ...],
    allow: tuple[str, ...],
    data: Path,
    grace: float,
) -> int:
    """Runs jobs as `node`; returns the exit code."""
    from nodeagent.wiring import run_agent as run

    with bus_of(settings, agent_user(node), data) as bus:
        return run(
            bus=bus,
            node=node,
            roles=roles,
            data=data,
            stop=stop,
            allows=frozenset(allow),
            clock=SystemClock(),
            grace=grace,
        )


def credentials_for(settings: Settings, node: str) -> str:
    """Gives a node that has joined a user of its own on the bus, and returns the bus' URL for it.

    Embedded, it is the folder, which only processes on this machine can use. Raises `Refused`, `Unreachable`.
    """
    at = urlsplit(settings.agents_bus_url or settings.bus_url)
    if at.scheme == "sqlite":
        return settings.bus_url
    if not settings.management_url:
        raise Refused("FLEETBUS_MANAGEMENT_URL is not set, so the portal cannot make a user for a node on the broker")
    from bus.users import ensure_user

    user, password = agent_user(node), secrets.token_urlsafe(24)
    ensure_user(settings.management_url, unquote(at.path[1:]) or "/", user, password)
    host = at.netloc.rpartition("@")[2]
    return f"{at.scheme}://{quote(user)}:{quote(password)}@{host}{at.path}"


def forget_node(settings: Settings, bus: Bus, node: str) -> None:
    """Takes a removed node's user and inbox off the bus. Harmless when they are gone. Raises `bus.errors.BusError`."""
    at = urlsplit(settings.bus_url)
    if at.scheme == "sqlite":
        bus.remove_inbox(node)
        return
    user = agent_user(node)
    if not settings.management_url:
        raise Refused(f"FLEETBUS_MANAGEMENT_URL is not set, so the portal cannot delete the user {user} on the broker")
    from bus.users import delete_user

    agents = urlsplit(settings.agents_bus_url or settings.bus_url)
    delete_user(settings.management_url, unquote(agents.path[1:]) or "/", user)
