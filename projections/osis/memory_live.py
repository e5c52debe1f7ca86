"""Live inside one process: for `memory://`."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable

from projections.osis.codec import tame_text
from projections.osis.live import TAIL_LINES, TAIL_SECONDS, WAITING, Live, Message, Subscription
from projections.osis.names import check_tail_number, check_text

#: Seconds between two looks for what has outlived its time.
SWEEP_SECONDS = 60.0


class MemoryLive(Live):
    """Dictionaries under one lock. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tails: dict[str, tuple[float, dict[int, str], list[int]]] = {}
        self._values: dict[str, tuple[float, bytes]] = {}
        self._counters: dict[str, tuple[float, int]] = {}
        self._subscribers: defaultdict[str, list[Subscription]] = defaultdict(list)
        self._swept = clock()

    def extend(
        self,
        tail: str,
        lines: Iterable[tuple[int, str]],
        *,
        keep: int = TAIL_LINES,
        seconds: float = TAIL_SECONDS,
    ) -> None:
        new = [(check_tail_number(n), tame_text(line)) for n, line in lines]
        now = self._clock()
        with self._lock:
            self._sweep(now)
            until, held, order = self._tails.get(check_text("tail", tail), (now, {}, []))
            if until <= now:
                held, order = {}, []
            for n, line in new:
                if n not in held:
                    held[n] = line
                    insort(order, n)
            for n in order[:-keep]:
                del held[n]
            del order[:-keep]
            self._tails[tail] = (now + seconds, held, order)

    def last(self, tail: str, count: int = TAIL_LINES) -> list[tuple[int, str]]:
        with self._lock:
            until, held, order = self._tails.get(check_text("tail", tail), (0.0, {}, []))
            if until <= self._clock():
                return []
            return [(n, held[n]) for n in order[-count:]] if count > 0 else []

    def publish(self, channel: str, data: bytes) -> None:
        message = Message(check_text("channel", channel), data)
        with self._lock:
            subscriptions = list(self._subscribers.get(channel, ()))
        for subscription in subscriptions:
            subscription.offer(message)

    def subscribe(self, *channels: str, waiting: int = WAITING, wake: Callable[[], None] | None = None) -> Subscription:
        for channel in channels:
            check_text("channel", channel)
        subscription = Subscription(channels, waiting, wake, self._unsubscribe)
        with self._lock:
            for channel in subscription.channels:
                self._subscribers[channel].append(subscription)
        return subscription

    def set(self, key: str, value: bytes, *, seconds: float) -> None:
        now = self._clock()
        with self._lock:
            self._sweep(now)
            self._values[check_text("key", key)] = (now + seconds, value)

    def get(self, key: str) -> bytes | None:
        with self._lock:
            until, value = self._values.get(check_text("key", key), (0.0, b""))
            return value if until > self._clock() else None

    def delete(self, key: str) -> None:
        with self._lock:
            self._values.pop(check_text("key", key), None)
            self._counters.pop(key, None)

    def incr(self, key: str, *, seconds: float) -> int:
        now = self._clock()
        with self._lock:
            self._sweep(now)
            until, count = self._counters.get(check_text("key", key), (now, 0))
            if until <= now:
                until, count = now + seconds, 0
            self._counters[key] = (until, count + 1)
            return count + 1

    def ping(self) -> None:
        return

    def close(self) -> None:
        with self._lock:
            subscriptions = {s for waiting in self._subscribers.values() for s in waiting}
        for subscription in subscriptions:
            subscription.close()

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            for channel in subscription.channels:
                self._subscribers[channel].remove(subscription)
                if not self._subscribers[channel]:
                    del self._subscribers[channel]

    def _sweep(self, now: float) -> None:
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        self._tails = {name: tail for name, tail in self._tails.items() if tail[0] > now}
        self._values = {key: value for key, value in self._values.items() if value[0] > now}
        self._counters = {key: counter for key, counter in self._counters.items() if counter[0] > now}
