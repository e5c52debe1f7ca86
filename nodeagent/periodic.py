"""Starts the scripts that the node runs by itself, in a thread of its own, also while the bus is away."""

import threading
from collections.abc import Callable, Collection, Iterable

import structlog

from bus.clock import Clock
from nodeagent.schedule import OwnStart, Planned, boot_starts, due, next_wake

#: Seconds between two looks at the clock, at most: it may be set.
LOOK_EVERY = 5.0
#: Scripts of this category are not started in maintenance: the checks would only say what everybody knows.
SUPPRESSED = "monitor.healthcheck"

log = structlog.get_logger(__name__)


class Periodic:
    """`begin` starts a run; `unfinished` names the scripts of which one has not ended; `boot` is the agent's start."""

    def __init__(
        self,
        begin: Callable[[OwnStart], None],
        unfinished: Callable[[], Collection[str]],
        boot: str,
        clock: Clock,
    ) -> None:
        self._begin = begin
        self._unfinished = unfinished
        self._boot = boot
        self._clock = clock
        self._planned: tuple[Planned, ...] = ()
        self._booted: set[str] = set()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="periodic", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def plan(self, planned: Iterable[Planned], maintenance: bool) -> None:
        """From now on these are started. A script that is new to this start of the agent has its boot run now."""
        self._planned = tuple(one for one in planned if not (maintenance and one.header.category == SUPPRESSED))
        self._changed.set()

    def _loop(self) -> None:
        since = self._now()
        while not self._stopping.is_set():
            planned, now = self._planned, self._now()
            self._start_once(planned)
            found = due(planned, self._unfinished(), since=since, now=now)
            for skipped in found.skipped:
                name = skipped.planned.header.name
                log.info("a slot passes", action="periodic.skipped", script=name, slot=skipped.slot, why=skipped.reason)
            for start in found.starts:
                self._begin(start)
            since = now
            self._changed.wait(self._pause())
            self._changed.clear()

    def _start_once(self, planned: tuple[Planned, ...]) -> None:
        new = [one for one in planned if one.header.name not in self._booted]
        self._booted.update(one.header.name for one in new)
        for start in boot_starts(new, self._boot):
            self._begin(start)

    def _pause(self) -> float:
        now = self._now()
        wake = next_wake(self._planned, now)
        return LOOK_EVERY if wake is None else max(0.0, min(LOOK_EVERY, wake - now))

    def _now(self) -> float:
        return self._clock.now().timestamp()
