"""Moments of the past: the views as they were at a time or an offset, made on demand, kept for a while.

    asked = parse(text, log)              what `as_of=` says; a `Problem` when it cannot be served
    found = moments.find(asked)           its views (`Moment`), or how far they are (`Building`)

They are what `fleetbus replay --until` makes: a namespace `asof-…` that says in its document `generation` until where
it goes. So portals share them, and those made on the command line are found as well. One thread builds one moment at a
time. The portal's own are dropped when there are too many, and by whoever sweeps generations when nobody looks at them.

Which moment a request looks at goes with its context, also into threads of the pool: `MOMENT`. Whoever reads views
reads those; None is the present.
"""

import threading
import time
from collections import OrderedDict
from contextvars import ContextVar
from datetime import UTC, datetime

import structlog
from msgspec import Struct

from bus.clock import Clock
from bus.errors import BusError
from bus.ports import Bus
from portal.hub import LogState
from portal.problems import Problem, away, bad_request
from projections import generation
from projections.admission_store import META, read_checkpoint
from projections.osis.documents import Documents, Namespace
from projections.osis.errors import OsisError
from projections.projection import AnyProjection
from projections.projection import moment as written
from projections.registry import PROJECTIONS, versions
from projections.replay import ReplayRefused, replay

#: Moments that a portal keeps, and that may wait to be built.
KEPT, WAITING = 8, 8
#: Seconds between two words that somebody looks at a moment.
TOUCH_EVERY = 60.0
#: Digits of an offset.
MAX_DIGITS = 15

log = structlog.get_logger("portal.past")


class Asked(Struct, frozen=True):
    """A moment that was asked for; `key` is its one way to be written."""

    key: str
    until: datetime | int


class Moment(Struct, frozen=True, kw_only=True):
    """Views of the past. Everything before `next_offset` of the log is in them; `time` is the log time there."""

    key: str
    namespace: str
    log: str
    next_offset: int
    time: datetime | None


class Building(Struct, kw_only=True):
    """Views that are being made, or wait for that; offsets of the log."""

    key: str
    next_offset: int = 0
    end: int = 0
    #: How many are built before.
    before: int = 0


MOMENT: ContextVar[Moment | None] = ContextVar("fleetbus_moment", default=None)


def now(clock: Clock) -> datetime:
    """The time of the moment that is looked at."""
    moment = MOMENT.get()
    return clock.now() if moment is None or moment.time is None else moment.time


def parse(text: str, state: LogState) -> Asked:
    """What `as_of` asks for. Raises `Problem`: 400 for what is no moment or has not come yet, 503 without a log."""
    if not state.log:
        raise away("the log was not read yet")
    if text.isdecimal() and len(text) <= MAX_DIGITS:
        return _parse_offset(int(text), state)
    try:
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise bad_request(
            f"{text[:80]!r} is no moment; write 2026-01-31T12:00:00Z, or an offset such as 1200", "as_of"
        ) from None
    if state.log_time is None or at > state.log_time:
        come = "there is no log time yet" if state.log_time is None else f"log time is {written(state.log_time)}"
        raise bad_request(f"{written(at)} has not come yet: {come}", "as_of")
    return Asked(written(at), at)


def _parse_offset(offset: int, state: LogState) -> Asked:
    if offset >= state.next_offset:
        raise bad_request(f"the log has no record at offset {offset}; it ends at {state.next_offset}", "as_of")
    return Asked(str(offset), offset)


class _Stopped(Exception):
    """The portal ends."""


class Moments:
    """Finds and builds. Any thread may ask; `close` ends the building."""

    def __init__(
        self, bus: Bus, documents: Documents, clock: Clock, views: tuple[AnyProjection, ...] = PROJECTIONS
    ) -> None:
        self._views = views
        self._bus = bus
        self._documents = documents
        self._clock = clock
        self._lock = threading.Condition()
        #: Key → namespace, of what was found before; key → when somebody looked at it last.
        self._known: dict[str, str] = {}
        self._touched: dict[str, float] = {}
        #: What is built (the first) and what waits, in order.
        self._queue: OrderedDict[str, tuple[Asked, Building]] = OrderedDict()
        self._failed: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self._stop = False

    def find(self, asked: Asked, log_id: str) -> Moment | Building:
        """The moment, or how far its building is, which this begins. Blocking.

        Raises `Problem` 503 when it could not be built, once; asking again tries again.
        """
        with self._lock:
            if asked.key in self._queue:
                return self._progress(asked.key)
            if (why := self._failed.pop(asked.key, None)) is not None:
                raise away(f"the views as of {asked.key} cannot be made: {why}")
        found = self._look(asked.key, log_id)
        return self._begin(asked) if found is None else found

    def close(self) -> None:
        with self._lock:
            self._stop = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()

    # what there is

    def _look(self, key: str, log_id: str) -> Moment | None:
        known = self._known.get(key)
        names = [known] if known else self._documents.list_namespaces()
        for name in names:
            if name.startswith(generation.AS_OF_PREFIX):
                found = self._open(self._documents.namespace(name), key, log_id)
                if found is not None:
                    self._known[key] = name
                    self._touch(found)
                    return found
        # it was dropped: perhaps somebody has made it again
        return self._look(key, log_id) if self._known.pop(key, None) else None

    def _open(self, namespace: Namespace, key: str, log_id: str) -> Moment | None:
        about, saved = namespace.get(META, generation.ABOUT), read_checkpoint(namespace)
        if about is None or about.get("until") != key or saved is None:
            return None
        if saved.checkpoint.log != log_id or saved.views != versions():
            return None
        return Moment(
            key=key,
            namespace=namespace.name,
            log=log_id,
            next_offset=saved.checkpoint.next_offset,
            time=saved.head.log_time,
        )

    def _touch(self, moment: Moment) -> None:
        now = time.monotonic()
        if now - self._touched.get(moment.key, -TOUCH_EVERY) >= TOUCH_EVERY:
            self._touched[moment.key] = now
            generation.look_at(self._documents.namespace(moment.namespace), self._clock.now())

    # making it

    def _progress(self, key: str) -> Building:
        building = self._queue[key][1]
        building.before = list(self._queue).index(key)
        return building

    def _begin(self, asked: Asked) -> Building:
        with self._lock:
            if asked.key not in self._queue:
                if len(self._queue) > WAITING:
                    raise Problem(
                        503,
                        "too-many-moments",
                        f"{len(self._queue)} moments are being made already; ask again when one is done",
                        headers={"Retry-After": "10"},
                    )
                self._queue[asked.key] = asked, Building(key=asked.key)
                self._lock.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="portal-past", daemon=True)
                self._thread.start()
            return self._progress(asked.key)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._stop or self._queue)
                if self._stop:
                    return
                asked, building = next(iter(self._queue.values()))
            why = self._build(asked, building)
            with self._lock:
                del self._queue[asked.key]
                if why:
                    self._failed[asked.key] = why
                    while len(self._failed) > WAITING:
                        del self._failed[next(iter(self._failed))]

    def _build(self, asked: Asked, building: Building) -> str:
        """Why it could not be done; "" when it was."""

        def tell(next_offset: int, end: int, rate: float) -> None:
            building.next_offset, building.end = next_offset, end
            if self._stop:
                raise _Stopped

        try:
            report = replay(
                self._bus, self._documents, until=asked.until, progress=tell, clock=self._clock, views=self._views
            )
            generation.own(self._documents.namespace(report.generation), self._clock.now())
            generation.drop_oldest(self._documents, KEPT)
        except _Stopped:
            return "the portal ended"
        except (ReplayRefused, BusError, OsisError) as error:
            log.warning("no views of the past", action="past.failed", as_of=asked.key, error=str(error))
            return str(error)
        except Exception as error:  # a mistake here must not end the thread that builds
            log.exception("no views of the past", action="past.failed", as_of=asked.key)
            return f"{type(error).__name__}; the portal's log says more"
        return ""
