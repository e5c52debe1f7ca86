"""One running portal: its parts are made, its threads follow the log, uvicorn serves; all of it ends in good order."""

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import structlog
import uvicorn
import uvloop

from bus.broker import Broker
from bus.clock import Clock, SystemClock
from bus.ports import Bus
from bus.progress import Progress
from portal.accounts import Accounts
from portal.app import create_app
from portal.commands import Commands
from portal.consumers import Consumers
from portal.follower import Follower
from portal.hub import Hub
from portal.limits import Limiter
from portal.lists import Lists
from portal.log import Log
from portal.metrics import Metrics
from portal.offload import Offload
from portal.parts import Parts
from portal.past import Moments
from portal.tails import Tails
from portal.views import Views, load_begin
from projections.osis.documents import Documents
from projections.osis.live import Live
from projections.osis.series import Series
from projections.projection import AnyProjection
from projections.registry import PROJECTIONS

#: Seconds that an idle connection is kept, as long as nginx keeps them. After uvicorn's own 5 seconds, clients that
#: keep connections too often send on one that is just being closed, and a POST is not sent again by itself.
KEEP_ALIVE_SECONDS = 75
#: Seconds after which a thread that computes gives way to another. Python's own five milliseconds are waited for at
#: some ten places of one list: after each statement of the storage, and each time that the event loop wakes.
SWITCH_SECONDS = 0.001
#: Seconds that requests may take to end when the portal stops.
GRACE_SECONDS = 10

log = structlog.get_logger("portal.server")


def places_of(clock: Clock) -> dict[str, Progress]:
    """Where the portal's two followers say how far they are."""
    return {"portal": Progress("portal", clock), "tails": Progress("tails", clock, "telemetry")}


def make_parts(
    bus: Bus,
    documents: Documents,
    series: Series,
    live: Live,
    *,
    credentials_for: Callable[[str], str],
    forget_node: Callable[[str], None] | None = None,
    projections: tuple[AnyProjection, ...] = PROJECTIONS,
    public_url: str = "",
    clock: Clock | None = None,
    places: Mapping[str, Progress] | None = None,
    broker: Broker | None = None,
) -> Parts:
    """The working parts over these adapters; nothing runs yet."""
    clock = clock or SystemClock()
    hub, offload = Hub(), Offload()
    views = Views(documents, hub, offload)
    reader = Log(bus)
    return Parts(
        bus=bus,
        documents=documents,
        series=series,
        live=live,
        hub=hub,
        views=views,
        lists=Lists(views, clock),
        log=reader,
        moments=Moments(bus, documents, clock, projections),
        commands=Commands(bus, reader, hub, views, offload, clock),
        accounts=Accounts(documents, clock),
        limiter=Limiter(live),
        metrics=Metrics(),
        offload=offload,
        consumers=Consumers(clock),
        progress=places_of(clock) if places is None else places,
        broker=broker,
        clock=clock,
        public_url=public_url.rstrip("/"),
        credentials_for=credentials_for,
        forget_node=forget_node or bus.remove_inbox,
    )


def run_portal(
    bus: Bus,
    documents: Documents,
    series: Series,
    live: Live,
    *,
    host: str,
    port: int,
    stop: threading.Event,
    credentials_for: Callable[[str], str],
    forget_node: Callable[[str], None] | None = None,
    projections: tuple[AnyProjection, ...] = PROJECTIONS,
    public_url: str = "",
    ready: Callable[[int], None] | None = None,
    clock: Clock | None = None,
    places: Mapping[str, Progress] | None = None,
    broker: Broker | None = None,
) -> None:
    """Serves until `stop` is set. `ready` is called with the port once it answers (port 0 takes a free one).

    `credentials_for` makes an account on the bus for a node that has joined, and returns its bus URL; it may block.
    `forget_node` takes the account and the inbox of a removed node off the bus; without it, the inbox alone.
    `places`: where the followers say how far they are (`places_of`). `broker` looks at the broker for health, if it
    can be looked at.
    `projections` make views of the past.
    The adapters stay open: they are the caller's. Raises `OSError` when the port cannot be had.
    """
    parts = make_parts(
        bus,
        documents,
        series,
        live,
        credentials_for=credentials_for,
        forget_node=forget_node,
        projections=projections,
        public_url=public_url,
        clock=clock,
        places=places,
        broker=broker,
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(parts, host, port, stop, ready))
    finally:
        parts.moments.close()
        parts.offload.close()


async def _serve(
    parts: Parts, host: str, port: int, stop: threading.Event, ready: Callable[[int], None] | None
) -> None:
    sockets = [_bind(host, port)]
    follower = Follower(parts.bus, parts.hub, lambda: load_begin(parts.documents), parts.progress["portal"])
    tails = Tails(parts.bus, parts.live, parts.clock, parts.consumers, parts.progress["tails"])
    server = _Server(
        uvicorn.Config(
            create_app(parts),
            log_config=None,
            access_log=False,
            server_header=False,
            http="httptools",
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    follower.start(asyncio.get_running_loop())
    tails.start()
    serving = asyncio.create_task(server.serve(sockets))
    try:
        await _until(lambda: server.started or serving.done())
        if ready is not None and server.started:
            ready(sockets[0].getsockname()[1])
        await _until(lambda: stop.is_set() or serving.done())
    finally:
        # streams end first, with a place to resume at: uvicorn waits for them
        parts.hub.stop()
        follower.stop()
        tails.stop()
        server.should_exit = True
        await serving
        await asyncio.to_thread(_join, follower, tails)


def _join(follower: Follower, tails: Tails) -> None:
    follower.join()
    tails.join()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for happens in other threads, and in uvicorn
        await asyncio.sleep(0.02)


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises `OSError` before anything was started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol named: asyncio sets TCP_NODELAY only where it sees TCP, and without it each answer waits 40 ms
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


class _Server(uvicorn.Server):
    """Leaves signals to the program around it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
