"""What the consumers of the fleet say of their own progress, as this portal hears it over telemetry."""

import threading
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bus.admission import check
from bus.clock import Clock
from bus.ports import Record
from events.actors import HANDLERS, PORTAL, PROJECTIONS
from events.codec import BadEvent
from events.telemetry import Canary

KEY = "telemetry.canary"
#: Who may tell how far it is; others who send a canary are passed over.
USERS = (HANDLERS, PROJECTIONS, PORTAL, "archiver")
#: Seconds without a word after which a consumer counts as silent, and gives way to others of its name.
SILENT_AFTER = 30.0
#: A canary that is older than this by its own clock is of a time before this portal listened.
STALE_AFTER = timedelta(seconds=60)
#: Consumers that are remembered: more processes than any fleet has, and a bound.
MAX_CONSUMERS = 200


class Consumer(Struct, frozen=True, kw_only=True):
    """One consumer in one process. `heard` is the age of its last word in seconds."""

    name: str
    holder: str
    user: str
    next_offset: int
    end: int
    lag_records: int
    lag_seconds: float
    round_trip: float | None
    heard: float

    @property
    def silent(self) -> bool:
        return self.heard > SILENT_AFTER


class Consumers:
    """Written by the thread that follows telemetry, read by any."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: (consumer, holder) -> the last word, `heard` being when it came (monotonic seconds).
        self._last: dict[tuple[str, str], Consumer] = {}

    def hear(self, record: Record) -> None:
        """A record of telemetry under `KEY`. What is not from whom it says is passed over."""
        if record.user not in USERS:
            return
        try:
            event = check(record)
        except BadEvent:
            return
        data = event.data
        if isinstance(data, Canary) and data.consumer and self._clock.now() - event.time < STALE_AFTER:
            self._keep(
                Consumer(
                    name=data.consumer,
                    holder=data.holder,
                    user=record.user,
                    next_offset=data.next_offset,
                    end=data.end,
                    lag_records=max(0, data.end - data.next_offset),
                    lag_seconds=data.lag_seconds,
                    round_trip=data.round_trip,
                    heard=self._clock.monotonic(),
                )
            )

    def _keep(self, said: Consumer) -> None:
        with self._lock:
            self._last[said.name, said.holder] = said
            if len(self._last) > MAX_CONSUMERS:
                oldest = min(self._last, key=lambda key: self._last[key].heard)
                del self._last[oldest]

    def all(self) -> list[Consumer]:
        """By name. A process that fell silent is listed when it is the last of its name."""
        now = self._clock.monotonic()
        with self._lock:
            known = sorted(self._last.values(), key=lambda one: (one.name, one.heard))
            latest = {one.name: one for one in known}
            self._last = {
                (one.name, one.holder): one
                for one in known
                if now - one.heard <= SILENT_AFTER or one is latest[one.name]
            }
            return [replace(one, heard=round(now - one.heard, 1)) for one in self._last.values()]

    def rows(self) -> list[dict[str, Any]]:
        """For health: one document for each."""
        return [{**msgspec.to_builtins(one), "silent": one.silent} for one in self.all()]
