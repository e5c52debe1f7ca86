"""Publishing with confirms that are not waited for one by one: a window of messages is on its way at a time.

Callers' threads put messages into a queue; the I/O thread sends them in that order over one channel and settles their
futures when the broker confirms. What is on its way when the channel ends may have been appended or not: it fails with
`NotConfirmed`, and so does what waits behind it, so that a sender who sends again what failed keeps its order. Only
the message that made the broker close the channel, when its words tell which, fails with `Refused`.
"""

import asyncio
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from bus.errors import BusError, Closed, NotConfirmed, Refused
from bus.rabbitmq.channel import ACCESS_REFUSED, PRECONDITION_FAILED, Channel, ChannelGone
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.lane import Lane
from bus.rabbitmq.names import LAST, NO_TOPOLOGY
from bus.rabbitmq.pen import Pen, Properties

T = TypeVar("T")

#: Messages, and bytes of their bodies, that may be unconfirmed; then `publish` blocks.
WINDOW = 10_000
WINDOW_BYTES = 64 * 2**20
#: Seconds until a message that is not confirmed is given up.
CONFIRM_WITHIN = 30.0
#: Seconds in which a new channel's first message must be confirmed, or the channel is opened anew: after a restart
#: RabbitMQ 3.10 may take messages for a stream whose writer is not there yet, and never mention them again.
PROVEN_WITHIN = 5.0
#: Messages that are sent before the I/O thread looks after everything else again.
BURST = 200
#: And the bytes of their bodies, beyond which no other is added.
BURST_BYTES = 2**18
#: The longest key, id or type in bytes: AMQP 0.9.1 gives a short string one byte of length.
LONGEST = 255


def appended(taken: bool) -> None:
    """Raises `NotConfirmed` when no queue took what was published on `fleetbus`: a stream is always bound.

    But not while a broker starts. RabbitMQ 3.10 then serves clients before it knows its bindings again, and confirms
    what it throws away.
    """
    if not taken:
        raise NotConfirmed("no stream took it: the broker is not ready yet")


def delivered(taken: bool) -> bool:
    """Whether there was an inbox."""
    return taken


class _Confirm(Future[Any]):
    """Of a message that may be in the log already, so nobody can cancel it."""

    def cancel(self) -> bool:
        return False


class _Sending:
    """One message on its way."""

    __slots__ = ("body", "future", "give_up_at", "key", "properties")

    def __init__(self, key: str, body: bytes, properties: Properties) -> None:
        self.key = key
        self.body = body
        self.properties = properties
        self.give_up_at = time.monotonic() + CONFIRM_WITHIN
        self.future: Future[Any] = _Confirm()


class Publisher(Generic[T]):
    """One exchange, one channel. `outcome` makes the future's result of whether a queue took the message, or raises."""

    def __init__(self, connection: Connection, exchange: str, outcome: Callable[[bool], T]) -> None:
        self._connection = connection
        self._exchange = exchange
        self._outcome = outcome
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._waiting: deque[_Sending] = deque()
        self._open_count = 0
        self._open_bytes = 0
        self._awake = False
        self._closed = False
        # of the I/O thread alone
        self._channel: Channel | None = None
        self._pen: Pen | None = None
        self._opened_once = False
        #: When the channel's first message was sent, until one is confirmed.
        self._unproven_since: float | None = None
        self._sent: OrderedDict[int, _Sending] = OrderedDict()
        self._returned: set[int] = set()
        self._last_returned = 0
        self._next_tag = 1
        self._holds = 0
        self._trouble = ""
        self._lane = Lane(connection, self._opened, self._lost)
        self._lane.start()
        connection.soon(lambda: connection.spawn(self._sweep()))

    # any thread

    def publish(self, key: str, body: bytes, properties: Properties) -> Future[T]:
        sending = _Sending(key, body, properties)
        if error := self._unfit(sending):
            sending.future.set_exception(error)
            return sending.future
        with self._lock:
            if error := self._wait_for_room(sending):
                sending.future.set_exception(error)
                return sending.future
            self._open_count += 1
            self._open_bytes += len(body)
            self._waiting.append(sending)
            wake, self._awake = not self._awake, True
        if wake:
            self._connection.soon(self._drain)
        return sending.future

    def _unfit(self, sending: _Sending) -> BusError | None:
        for text in (sending.key, sending.properties.message_id, sending.properties.type):
            if text and not (text.isascii() and len(text) <= LONGEST) and (flaw := _flaw(text)):
                return Refused(f"{text[:40]!r}… {flaw}")
        return None

    def _wait_for_room(self, sending: _Sending) -> BusError | None:
        if not self._closed and self._has_room(len(sending.body)):
            return None
        # whoever publishes in a future's callback is in the I/O thread, which alone makes room
        patience = 0.0 if self._connection.inside else CONFIRM_WITHIN
        self._room.wait_for(lambda: self._closed or self._has_room(len(sending.body)), patience)
        if self._closed:
            return Closed("the bus is closed")
        if not self._has_room(len(sending.body)):
            return NotConfirmed(f"{self._open_count} messages have waited for {CONFIRM_WITHIN:.0f} seconds")
        sending.give_up_at = time.monotonic() + CONFIRM_WITHIN
        return None

    def _has_room(self, size: int) -> bool:
        fits = self._open_bytes + size <= WINDOW_BYTES or self._open_count == 0
        return fits and self._open_count < WINDOW

    def close(self) -> None:
        """Fails with `Closed` what is not confirmed. To be called when the I/O thread has ended."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self._settle([*self._take_sent(), *self._take_waiting()], Closed("the bus was closed"))

    # the I/O thread

    def hold(self) -> None:
        """Sends nothing more until as many calls of `release`."""
        self._holds += 1

    def release(self) -> None:
        self._holds -= 1
        self._drain()

    async def _opened(self, channel: Channel) -> None:
        await channel.exchange_exists(LAST)
        await channel.confirm(self._confirmed)
        channel.on_return(self._came_back)
        self._trouble = ""
        self._next_tag, self._last_returned = 1, 0
        self._opened_once, self._channel, self._unproven_since = True, channel, None
        self._pen = channel.pen(self._exchange)
        self._drain()

    def _lost(self, gone: ChannelGone) -> bool:
        self._trouble = NO_TOPOLOGY if gone.missing else gone.text
        if not self._opened_once:
            return True
        self._opened_once, self._channel = False, None
        sent, waiting = self._take_sent(), self._take_waiting()
        if _names_exchange(gone):
            self._settle([*sent, *waiting], Refused(gone.text))
            return True
        # its like was refused the first time already: the broker did not look at what follows
        guilty = next((sending for sending in sent if _is_named(sending, gone)), None)
        if guilty is not None:
            sent.remove(guilty)
            self._settle([guilty], Refused(gone.text))
        self._settle([*sent, *waiting], NotConfirmed(f"the channel ended before the confirm: {gone.text}"))
        return True

    def _came_back(self, key: str, body: bytes) -> None:
        """What comes back carries no delivery tag, but it comes in the order of sending and before its confirm."""
        oldest = next(iter(self._sent), self._next_tag)
        for tag in range(max(oldest, self._last_returned + 1), self._next_tag):
            sending = self._sent.get(tag)
            if sending is not None and sending.key == key and sending.body == body:
                self._returned.add(tag)
                self._last_returned = tag
                return

    def _drain(self) -> None:
        self._send(self._next_burst())
        if self._goes_on():
            asyncio.get_running_loop().call_soon(self._drain)

    def _next_burst(self) -> list[_Sending]:
        with self._lock:
            if self._channel is None or self._holds:
                return []
            burst: list[_Sending] = []
            size = 0
            while self._waiting and len(burst) < BURST and size < BURST_BYTES:
                burst.append(self._waiting.popleft())
                size += len(burst[-1].body)
            return burst

    def _goes_on(self) -> bool:
        """Whether there is more to send; else whoever publishes next wakes the I/O thread."""
        with self._lock:
            self._awake = bool(self._waiting) and self._channel is not None and not self._holds
            return self._awake

    def _send(self, burst: list[_Sending]) -> None:
        if not burst or self._channel is None or self._pen is None:
            return
        if self._next_tag == 1:
            self._unproven_since = time.monotonic()
        frames: list[bytes] = []
        for sending in burst:
            self._sent[self._next_tag] = sending
            self._next_tag += 1
            frames += self._pen.frames(sending.key, sending.body, sending.properties)
        try:
            self._connection.write(self._channel, frames)
        except ChannelGone:
            # the lane hears of it too, and fails what is on its way
            self._channel = None

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        self._unproven_since = None
        done = self._take_up_to(tag) if multiple else self._take_one(tag)
        if not taken:
            self._settle(done.values(), NotConfirmed("the broker could not store it"))
            return
        self._give_back(done.values())
        for each, sending in done.items():
            self._conclude(sending, each not in self._returned)
        if self._returned:
            self._returned.difference_update(done)

    def _conclude(self, sending: _Sending, taken: bool) -> None:
        try:
            sending.future.set_result(self._outcome(taken))
        except NotConfirmed as error:
            sending.future.set_exception(error)

    def _take_one(self, tag: int) -> dict[int, _Sending]:
        sending = self._sent.pop(tag, None)
        return {} if sending is None else {tag: sending}

    def _take_up_to(self, last: int) -> dict[int, _Sending]:
        done: dict[int, _Sending] = {}
        sent = self._sent
        while sent and (tag := next(iter(sent))) <= last:
            done[tag] = sent.pop(tag)
        return done

    async def _sweep(self) -> None:
        """Once a second gives up what has waited too long. A late confirm finds nothing and is passed over."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            self._settle(
                self._take_late(now), NotConfirmed(f"not confirmed within {CONFIRM_WITHIN:.0f} s: {self._why}")
            )
            if self._channel and self._unproven_since and now - self._unproven_since > PROVEN_WITHIN:
                self._unproven_since = None
                self._channel.lose(ChannelGone(0, f"nothing was confirmed for {PROVEN_WITHIN:.0f} seconds"))

    @property
    def _why(self) -> str:
        missing = self._channel is None and self._connection.connected
        return self._trouble if missing and self._trouble else self._connection.trouble

    def _take_late(self, now: float) -> list[_Sending]:
        late = []
        while self._sent and next(iter(self._sent.values())).give_up_at < now:
            late.append(self._sent.popitem(last=False)[1])
        with self._lock:
            while self._waiting and self._waiting[0].give_up_at < now:
                late.append(self._waiting.popleft())
        return late

    def _take_sent(self) -> list[_Sending]:
        sent = list(self._sent.values())
        self._sent.clear()
        self._returned.clear()
        return sent

    def _take_waiting(self) -> list[_Sending]:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def _settle(self, sendings: Iterable[_Sending], error: BusError) -> None:
        failed = list(sendings)
        self._give_back(failed)
        for sending in failed:
            sending.future.set_exception(error)

    def _give_back(self, sendings: Iterable[_Sending]) -> None:
        count = size = 0
        for sending in sendings:
            count += 1
            size += len(sending.body)
        with self._lock:
            self._open_count -= count
            self._open_bytes -= size
            # not for every message: a sender that wakes for each one is busy with waking
            if self._open_count <= WINDOW * 3 // 4 and self._open_bytes <= WINDOW_BYTES * 3 // 4:
                self._room.notify_all()


def _flaw(text: str) -> str:
    """Why AMQP does not take a key, an id or a type; "" if it does."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "has characters that are none"
    return f"has {size} bytes, AMQP takes at most {LONGEST}" if size > LONGEST else ""


def _is_named(sending: _Sending, gone: ChannelGone) -> bool:
    """Whether the broker's words are about this message: its key is not allowed, or its body too large."""
    if gone.code == ACCESS_REFUSED:
        named = f"topic '{sending.key}' in exchange"
        return named in gone.text or _cut_off(named, gone.text)
    too_large = re.search(r"message size (\d+)", gone.text) if gone.code == PRECONDITION_FAILED else None
    return too_large is not None and int(too_large[1]) == len(sending.body)


def _names_exchange(gone: ChannelGone) -> bool:
    """Nothing at all may be written to the exchange."""
    return gone.code == ACCESS_REFUSED and "access to exchange" in gone.text


def _cut_off(named: str, text: str) -> bool:
    """Whether `text` ends in the middle of `named`: the broker's words are 255 bytes at most."""
    at = text.find("topic '")
    return at >= 0 and text.endswith("...") and named.startswith(text[at:].removesuffix("..."))
