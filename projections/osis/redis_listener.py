"""The one connection on which a process listens to Redis, shared by all its subscriptions."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import Counter, defaultdict
from typing import Any

import redis
from redis.client import PubSub

from projections.osis.live import Gap, Message, Subscription

#: Seconds between two tries to reach a server that is away: doubled from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0
#: Seconds the thread waits for a message before it looks around.
LOOK_SECONDS = 1.0
#: Health checks without an answer after which a silent connection counts as broken.
UNANSWERED = 3


class Listener:
    """A thread that hands messages to subscriptions, and connects anew when the connection breaks.

    After it has connected anew every subscription finds a `Gap`: what was published meanwhile is lost,
    what comes after the gap is whole. Only the thread touches the connection. Others note what they
    want and ring a bell, a channel of this listener alone, to which it listens like to any other.

    `client` must not retry: the driver would connect anew by itself and nobody would see the gap.
    """

    def __init__(self, client: redis.Redis, root: str) -> None:
        self._client = client
        self._root = root.encode()
        self._bell = f"{root}bell:{uuid.uuid4()}".encode()
        self._changed = threading.Condition()
        self._subscriptions: defaultdict[bytes, list[Subscription]] = defaultdict(list)
        #: Channels asked for on the present connection; how often each still waits to be confirmed.
        self._asked: set[bytes] = set()
        self._pending: Counter[bytes] = Counter()
        #: Subscriptions to tell of the time without connection, once it is over.
        self._uninformed: set[Subscription] = set()
        self._failure: redis.RedisError | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def add(self, subscription: Subscription, timeout: float) -> None:
        """Put the subscription in force within `timeout` seconds; raises the driver's errors."""
        try:
            with self._changed:
                for channel in self._channels(subscription):
                    self._subscriptions[channel].append(subscription)
                self._start()
            self._ring()
            self._await(subscription, timeout)
        except redis.RedisError:
            self.remove(subscription)
            raise

    def remove(self, subscription: Subscription) -> None:
        """Take the subscription out of force; the server hears of it at the next look."""
        with self._changed:
            self._uninformed.discard(subscription)
            for channel in self._channels(subscription):
                if subscription in self._subscriptions[channel]:
                    self._subscriptions[channel].remove(subscription)
                if not self._subscriptions[channel]:
                    del self._subscriptions[channel]

    def close(self) -> None:
        """End all subscriptions and the thread."""
        self._closing.set()
        for subscription in self._everyone():
            subscription.close()
        if self._thread is not None:
            # Unheard, the thread finds out by itself when it next looks around.
            with contextlib.suppress(redis.RedisError):
                self._ring()
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="redis-listener", daemon=True)
            self._thread.start()

    def _ring(self) -> None:
        self._client.publish(self._bell, b"")

    def _await(self, subscription: Subscription, timeout: float) -> None:
        channels = self._channels(subscription)
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._in_force(channels), timeout)
            if not self._in_force(channels):
                raise self._failure or redis.TimeoutError("SUBSCRIBE was not answered")

    def _in_force(self, channels: set[bytes]) -> bool:
        return all(channel in self._asked and not self._pending[channel] for channel in channels)

    def _channels(self, subscription: Subscription) -> set[bytes]:
        return {self._root + channel.encode() for channel in subscription.channels}

    def _everyone(self) -> set[Subscription]:
        with self._changed:
            return {one for subscriptions in self._subscriptions.values() for one in subscriptions}

    # From here on, the thread.

    def _loop(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                pause = FIRST_PAUSE if self._failure is None else min(pause * 2, LAST_PAUSE)
                self._lost(error)
                self._closing.wait(pause)

    def _listen(self) -> None:
        pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]  # the driver has no type for it
        try:
            pubsub.subscribe(self._bell)
            while not self._closing.is_set():
                self._align(pubsub)
                self._take(pubsub.get_message(timeout=LOOK_SECONDS))
                if pubsub.health_check_response_counter >= UNANSWERED:
                    raise redis.TimeoutError("health checks are not answered")
        finally:
            pubsub.close()

    def _align(self, pubsub: PubSub) -> None:
        """Ask the server for what is wanted and no longer for what is not."""
        with self._changed:
            wanted = set(self._subscriptions)
            new, old = wanted - self._asked, self._asked - wanted
            self._asked = wanted
            self._pending.update(new)
        if new:
            # One command: the server does it at one moment, so one gap is right for all channels.
            pubsub.subscribe(*new)
        if old:
            pubsub.unsubscribe(*old)  # type: ignore[no-untyped-call]  # likewise

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        channel = message["channel"]
        if message["type"] == "subscribe":
            self._confirm(channel)
        elif message["type"] == "message" and channel != self._bell:
            self._deliver(channel, Message(channel.removeprefix(self._root).decode(), message["data"]))

    def _confirm(self, channel: bytes) -> None:
        with self._changed:
            self._failure = None
            if self._pending[channel] > 1:
                self._pending[channel] -= 1
            else:
                del self._pending[channel]
            returned = self._uninformed & set(self._subscriptions.get(channel, ()))
            self._uninformed -= returned
            self._changed.notify_all()
        for subscription in returned:
            subscription.offer(Gap(None))

    def _deliver(self, channel: bytes, message: Message) -> None:
        with self._changed:
            subscriptions = list(self._subscriptions.get(channel, ()))
        for subscription in subscriptions:
            subscription.offer(message)

    def _lost(self, error: Exception) -> None:
        with self._changed:
            self._failure = error if isinstance(error, redis.RedisError) else redis.ConnectionError(str(error))
            self._uninformed |= {one for ones in self._subscriptions.values() for one in ones}
            self._asked.clear()
            self._pending.clear()
            self._changed.notify_all()
