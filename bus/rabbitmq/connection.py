"""The one connection of a process: its I/O thread, and the one machine that reconnects.

pika runs on an asyncio loop in a thread of its own, so that heartbeats go out whatever the callers do, and so that
what the broker must be asked in order reads in order. Other threads hand work in with `wait` and `soon`.

                 opened            lost
    connecting ─────────▶ up ─────────────▶ waiting
        ▲ └────────────── failed ─────────────▲ │
        └──────────────── retry ────────────────┘
"""

import asyncio
import concurrent.futures
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import pika
import structlog

from bus.errors import BadUrl, BusError, Closed, Unreachable
from bus.rabbitmq.channel import Channel, ChannelGone, reason_of, tell
from bus.rabbitmq.link import Login
from bus.rabbitmq.wire import CLOSE_WITHIN, Wire

T = TypeVar("T")

State = Literal["idle", "connecting", "up", "waiting", "closed"]
Happening = Literal["start", "opened", "failed", "lost", "retry", "close"]

NEXT: dict[tuple[State, Happening], State] = {
    ("idle", "start"): "connecting",
    ("connecting", "opened"): "up",
    ("connecting", "failed"): "waiting",
    ("up", "lost"): "waiting",
    ("waiting", "retry"): "connecting",
    ("idle", "close"): "closed",
    ("connecting", "close"): "closed",
    ("up", "close"): "closed",
    ("waiting", "close"): "closed",
}

#: Its own source of chance: the reconnecting thread must not disturb who counts on `random`'s state.
CHANCE = random.SystemRandom()
#: Seconds of AMQP's heartbeat: each side sends every 2.5, and the broker drops a peer that was silent for 10 to 15.
HEARTBEAT = 5
#: Seconds without a sign of the broker after which the connection is given up: before the broker gives our seat to
#: another. (pika alone takes 10 to 20.)
SILENT_AFTER = 8.0
#: Seconds that a connection must have lasted for its loss not to count as one more failure.
PROVEN_AFTER = 1.0
#: Seconds until an attempt to connect is given up.
CONNECT_WITHIN = 10.0
#: Seconds before the first attempt after a failure, and at most between two.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: Seconds that a caller waits for an answer of the broker.
PATIENCE = 15.0
GOOD_URL = "a RabbitMQ URL looks like amqp://USER:PASSWORD@HOST:PORT/VHOST (the vhost / is written %2F)"

log = structlog.get_logger("bus.rabbitmq")

# pika reports at length and with tracebacks what this file says in one line
logging.getLogger("pika").setLevel(logging.CRITICAL)


def pause_after(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance`, from 0 to 1, spreads a fleet's agents in time."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 16))
    return longest * (0.5 + chance / 2)


def user_of(found: pika.URLParameters) -> str:
    assert isinstance(found.credentials, pika.PlainCredentials)
    return found.credentials.username


def parameters(url: str) -> pika.URLParameters:
    """What pika needs to know. Raises `BadUrl`; its text never holds the password."""
    try:
        parts = urlsplit(url)
        found = pika.URLParameters(url)
    except (ValueError, TypeError):
        raise BadUrl(GOOD_URL) from None
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname or not parts.username:
        raise BadUrl(GOOD_URL)
    found.heartbeat = HEARTBEAT
    found.connection_attempts = 1
    found.socket_timeout = found.stack_timeout = CONNECT_WITHIN
    found.client_properties = {"connection_name": f"fleetbus {user_of(found)} {os.getpid()}"}
    return found


class Part(Protocol):
    """What somebody may be waiting for when the bus is closed."""

    def end(self, error: BusError) -> None: ...


class Connection:
    """Starts at once, and tries until `close`."""

    def __init__(self, url: str) -> None:
        self._parameters = parameters(url)
        self.user = user_of(self._parameters)
        self._state: State = "idle"
        #: Why there is no connection, for error messages.
        self.trouble = "no answer yet"
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._parts: weakref.WeakSet[Part] = weakref.WeakSet()
        self._loop = asyncio.new_event_loop()
        self._up: asyncio.Event = asyncio.Event()
        self._raw: Wire | None = None
        self._closing = threading.Lock()
        self._closes = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="bus-io", daemon=True)
        self._thread.start()
        self.soon(lambda: self.spawn(self._live()))

    @property
    def where(self) -> str:
        """The broker and who we are there, without the password."""
        at = self._parameters
        return f"{at.host}:{at.port}/{'' if at.virtual_host == '/' else at.virtual_host} as {self.user!r}"

    @property
    def connected(self) -> bool:
        return self._state == "up"

    @property
    def inside(self) -> bool:
        """Whether the caller is the I/O thread."""
        return threading.current_thread() is self._thread

    # any thread

    def soon(self, call: Callable[[], object]) -> None:
        """Calls in the I/O thread. After the end it does nothing."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def wait(self, work: Coroutine[Any, Any, T], timeout: float = PATIENCE) -> T:
        """What `work` returns or raises, run in the I/O thread. Raises `Unreachable` after `timeout`, `Closed`."""
        assert not self.inside, "a callback of the bus must not wait for the bus"
        with self._closing:
            if self._closes:
                work.close()
                raise Closed("the bus is closed")
            future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), self._loop)
        try:
            return future.result(timeout + CLOSE_WITHIN)
        except TimeoutError:
            raise self.unreachable() from None
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            # the I/O thread's is the first, and reaches other threads as the second
            raise Closed("the bus was closed") from None

    def track(self, part: Part) -> None:
        """It is told when the bus closes."""
        self._parts.add(part)

    def unreachable(self) -> Unreachable:
        return Unreachable(f"no answer from RabbitMQ at {self.where}: {self.trouble}")

    def close(self) -> None:
        """Ends the connection and the thread. Harmless when called again."""
        with self._closing:
            if self._closes:
                return
            self._closes = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(4 * CLOSE_WITHIN)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_WITHIN)
        self._loop.close()
        for part in list(self._parts):
            part.end(Closed("the bus is closed"))

    # the I/O thread

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a part of the bus broke down", action="bus.broken", exc_info=error)

    async def login(self) -> Login:
        """By which other protocols know us at this broker; waits until there is a connection."""
        await self._up.wait()
        at = self._parameters
        assert self._raw is not None
        assert isinstance(at.credentials, pika.PlainCredentials)
        return Login(
            user=self.user,
            password=at.credentials.password,
            vhost=at.virtual_host,
            cluster=str((self._raw.server_properties or {}).get("cluster_name", "")),
            name=f"fleetbus {self.user} {os.getpid()}",
        )

    async def channel(self) -> Channel:
        """A new channel; waits until there is a connection. Raises `ChannelGone` when it goes meanwhile."""
        await self._up.wait()
        assert self._raw is not None
        channel = Channel(self._raw)
        self._channels.add(channel)
        await channel.opened()
        self._raw.lead(channel)
        return channel

    def write(self, channel: Channel, frames: Iterable[bytes]) -> None:
        """Sends at once, in one piece, what the channel's pen wrote. Raises `ChannelGone`."""
        if self._raw is None or not channel.raw.is_open:
            raise ChannelGone(0, "the channel is closed")
        self._raw.write(b"".join(frames))

    def _to(self, happening: Happening) -> None:
        self._state = NEXT[self._state, happening]

    async def _live(self) -> None:
        failures = 0
        self._to("start")
        while True:
            lost: asyncio.Future[BaseException] = self._loop.create_future()
            if error := await self._dial(lost):
                self._to("failed")
                self._tell(error, failures)
                failures += 1
            else:
                self._to("opened")
                log.info("connected to RabbitMQ", action="bus.connected", at=self.where)
                self.trouble = "it does not answer"
                began = self._loop.time()
                self._up.set()
                await self._listen(lost)
                self._lose(lost.result())
                failures = failures + 1 if self._loop.time() - began < PROVEN_AFTER else 0
            await asyncio.sleep(pause_after(failures, CHANCE.random()))
            self._to("retry")

    async def _dial(self, lost: "asyncio.Future[BaseException]") -> BaseException | None:
        """Opens a connection, which answers to `lost` when it ends; or says why there is none."""
        opened: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._raw = Wire(
            self._parameters,
            on_open_callback=lambda _raw: tell(opened, None),
            on_open_error_callback=lambda _raw, error: tell(opened, error),
            on_close_callback=lambda _raw, reason: self._hear(lost, reason),
            custom_ioloop=self._loop,
        )
        self._raw.add_on_connection_blocked_callback(lambda _raw, frame: self._blocked(frame.method.reason))
        self._raw.add_on_connection_unblocked_callback(lambda _raw, _frame: self._unblocked())
        return await opened

    def _blocked(self, reason: str) -> None:
        """The broker reads nothing more from us, neither messages nor questions, until its alarm is over."""
        self.trouble = f"it is {reason}, and has blocked who publishes"
        log.warning("RabbitMQ takes nothing more", action="bus.blocked", at=self.where, reason=reason)

    def _unblocked(self) -> None:
        self.trouble = "it does not answer"
        log.info("RabbitMQ goes on", action="bus.unblocked", at=self.where)

    async def _listen(self, lost: "asyncio.Future[BaseException]") -> None:
        """Until the connection ends, which a broker that has fallen silent brings about."""
        assert self._raw is not None
        heard, since = -1, self._loop.time()
        while not lost.done():
            await asyncio.wait({lost}, timeout=1.0)
            if self._raw.bytes_received != heard:
                heard, since = self._raw.bytes_received, self._loop.time()
            elif self._loop.time() - since > SILENT_AFTER:
                self._raw.drop(f"the broker was silent for {SILENT_AFTER:.0f} seconds")
                await lost

    def _hear(self, lost: "asyncio.Future[BaseException]", reason: BaseException) -> None:
        self._up.clear()
        tell(lost, reason)

    def _tell(self, error: BaseException, failures: int) -> None:
        self.trouble = reason_of(error)
        if failures == 0:
            log.warning("RabbitMQ cannot be reached", action="bus.unreachable", at=self.where, reason=self.trouble)

    def _lose(self, error: BaseException) -> None:
        self._to("lost")
        self.trouble = reason_of(error)
        for channel in list(self._channels):
            channel.lose(ChannelGone(0, self.trouble))
        log.warning("the connection was lost", action="bus.lost", at=self.where, reason=self.trouble)

    async def _shut(self) -> None:
        self._to("close")
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLOSE_WITHIN)
        if self._raw is not None and not self._raw.is_closed:
            await self._raw.end()
        # sockets are closed in the loop's next round
        await asyncio.sleep(0)
