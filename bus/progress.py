"""Progress, not only process: how far a consumer is behind its stream, and whether it still comes nearer to the end.

A process that is connected and consumes nothing looks well from outside. So each consumer says where it is
(`Progress.at`), and a `Watch` in a thread of its own asks the engine now and then where the stream ends. The difference
is the lag in records; the age of the oldest such end that the consumer has not reached yet is the lag in seconds,
measured by one clock. The watch also says both as telemetry (`telemetry.canary`), which the portals hear.

A consumer that has something to read, does not read it for `STALLED_AFTER` seconds, and does not say that it waits for
something else, stands still: the watch calls `stalled`, which ends the process, because nothing inside it can be
trusted to. It goes on from its checkpoint when it is started again.
"""

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Self

import structlog
from msgspec import Struct

from bus.clock import Clock, new_id
from bus.errors import BusError
from bus.ports import Bus, Message, StreamName
from events.actors import HANDLERS
from events.codec import encode
from events.envelope import Event
from events.routing import routing_key
from events.telemetry import Canary

#: Seconds between two looks at the ends of the streams, and two canaries.
LOOK_EVERY = 5.0
#: Seconds without a step, though there is more to read, after which a consumer stands still.
STALLED_AFTER = 60.0
#: Ends that are remembered and not reached yet; beyond it those in the middle are forgotten.
MAX_MARKS = 1_000

log = structlog.get_logger("bus.progress")


class Lag(Struct, frozen=True, kw_only=True):
    """How far a consumer is behind. `seconds`: since when it has not reached an end of the stream; 0 when it has."""

    next_offset: int = 0
    end: int = 0
    seconds: float = 0.0
    #: Seconds that the latest event of its own took from being said to being read back; None when it says none.
    round_trip: float | None = None

    @property
    def records(self) -> int:
        return max(0, self.end - self.next_offset)


class _Mark(Struct, frozen=True):
    """An end of the stream, and when it was one (monotonic seconds)."""

    end: int
    at: float


class Progress:
    """One consumer's place in one stream. The consumer writes, anybody reads."""

    def __init__(self, name: str, clock: Clock, stream: StreamName = "log") -> None:
        self.name = name
        self.stream: StreamName = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._next_offset: int | None = None
        self._end = 0
        self._marks: deque[_Mark] = deque()
        self._moved = clock.monotonic()
        self._busy = 0
        self._round_trip: float | None = None

    # the consumer

    def at(self, next_offset: int) -> None:
        """It has everything before `next_offset`. Going back, as a rebuild does, is a step too."""
        with self._lock:
            if next_offset == self._next_offset:
                return
            self._next_offset, self._moved = next_offset, self._clock.monotonic()
            while self._marks and self._marks[0].end <= next_offset:
                self._marks.popleft()

    def wait(self) -> None:
        """It waits for something that is not its stream (storage is away, somebody else's turn), and says so itself."""
        with self._lock:
            self._moved = self._clock.monotonic()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While it does something long that is no reading, it cannot stand still."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._moved = self._clock.monotonic()

    def came_round(self, seconds: float) -> None:
        """An event that this process said was read back after so many seconds."""
        self._round_trip = seconds

    # who watches

    def mark(self, end: int) -> None:
        """The stream ends here now."""
        with self._lock:
            now = self._clock.monotonic()
            behind = self._next_offset is not None and end > self._next_offset
            if behind and not self._marks:
                # until now there was nothing to read
                self._moved = max(self._moved, now)
            if behind and (not self._marks or end > self._marks[-1].end):
                self._marks.append(_Mark(end, now))
            if len(self._marks) > MAX_MARKS:
                del self._marks[MAX_MARKS // 2]
            self._end = end

    def lag(self) -> Lag:
        with self._lock:
            place = self._next_offset or 0
            seconds = self._clock.monotonic() - self._marks[0].at if self._marks else 0.0
            end = max(self._end, place)
            return Lag(next_offset=place, end=end, seconds=round(seconds, 3), round_trip=self._round_trip)

    def still_for(self) -> float:
        """Seconds that it has not moved though there was something to read; 0 when it did, or waits."""
        with self._lock:
            return 0.0 if self._busy or not self._marks else self._clock.monotonic() - self._moved


class Watch:
    """Watches the consumers of one process while the `with` block runs. `stalled` is told what stands still.

    `stalled` is called in the watch's thread, at most once.
    """

    def __init__(
        self,
        bus: Bus,
        consumers: Sequence[Progress],
        clock: Clock,
        stalled: Callable[[str], None],
        *,
        every: float = LOOK_EVERY,
        patience: float = STALLED_AFTER,
    ) -> None:
        self._bus = bus
        self._consumers = consumers
        self._clock = clock
        self._stalled = stalled
        self._every = every
        self._patience = patience
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # it may be in the middle of a question, whose answer nobody waits for any more
        self._thread.join(1.0)

    def _loop(self) -> None:
        looked = self._clock.monotonic()
        while not self._stop.wait(self._every):
            asleep = self._clock.monotonic() - looked > 3 * self._every + self._patience / 2
            looked = self._clock.monotonic()
            try:
                still = [one for one in self._consumers if self._stands_still(one, asleep=asleep)]
                self._say()
            except BusError:
                continue
            except Exception:
                log.exception("the watch failed", action="progress.failed")
                continue
            if still:
                self._stalled(_words(still[0]))
                return

    def _stands_still(self, consumer: Progress, *, asleep: bool) -> bool:
        """`asleep`: the whole process did not run for a while, which is not the consumer's fault."""
        if asleep or not self._bus.connected:
            consumer.wait()
            return False
        consumer.mark(self._bus.stream(consumer.stream).next_offset())
        return consumer.still_for() > self._patience

    def _say(self) -> None:
        """One canary for each consumer. Telemetry: what does not arrive is not sent again."""
        user = self._bus.user
        self._beat += 1
        for consumer in self._consumers:
            lag = consumer.lag()
            data = Canary(
                holder=self._holder,
                beat=self._beat,
                consumer=consumer.name,
                next_offset=lag.next_offset,
                end=lag.end,
                lag_seconds=lag.seconds,
                round_trip=lag.round_trip,
            )
            event = Event(
                id=new_id(),
                source=f"fleetbus/{user}",
                type="telemetry.canary",
                subject=consumer.name,
                time=self._clock.now(),
                actor="system:fleet" if user == HANDLERS else f"service:{user}",
                data=data,
            )
            self._bus.publish(Message(routing_key(event), encode(event), event.id, event.type)).add_done_callback(_heed)


def _words(consumer: Progress) -> str:
    lag = consumer.lag()
    return (
        f"{consumer.name} stands still: connected, at offset {lag.next_offset} of {consumer.stream}, which ends at "
        f"{lag.end}, and not a step in {consumer.still_for():.0f} seconds"
    )


def _heed(future: Future[None]) -> None:
    """Its error is no news: the canary does not come back, and the portal says so."""
    if not future.cancelled():
        future.exception()
