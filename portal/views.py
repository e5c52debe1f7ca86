"""The views, as the portal reads them: which namespace is live, how fresh it is, waiting until it is fresh enough."""

import asyncio
import time
from datetime import datetime
from typing import Any

from msgspec import Struct

from bus.checkpoint import Checkpoint
from portal.follower import Begin
from portal.hub import Hub, parse_position
from portal.offload import Offload
from portal.past import MOMENT
from portal.problems import Problem, bad_request, gone
from projections.admission_store import LIVE, META, Unsettled, load_admission
from projections.freshness import ViewStatus, view_status
from projections.osis.documents import Documents, Namespace
from projections.set_aside import Marker, read_marker, read_markers

#: Seconds that `at_least` waits at most.
AT_LEAST_SECONDS = 10.0
#: Seconds between two looks at the views' position while somebody waits for it.
LOOK_SECONDS = 0.02
#: Stands for the live views while there are none: finds nothing.
NONE = "live-none"
#: Seconds for which a position that was read is good enough to be shown: a page asks several times, and storage may
#: take longer than the page.
FRESH_SECONDS = 0.25


class Position(Struct, frozen=True, kw_only=True):
    """Where the live views are in the log; `log` is "" while there are none."""

    namespace: str
    log: str = ""
    next_offset: int = 0
    #: Log time there.
    time: datetime | None = None


class _Head(Struct, frozen=True):
    log_time: datetime | None = None


class _Place(Struct, frozen=True):
    """What pages need of the checkpoint's document, which may be large (`projections.admission_store.Saved`)."""

    checkpoint: Checkpoint
    head: _Head


def read_position(documents: Documents) -> Position:
    """Where the live views are; blocking."""
    name = documents.pointed(LIVE)
    namespace = documents.namespace(name or NONE)
    saved = namespace.get_as(META, "checkpoint", _Place) if name else None
    if saved is None:
        return Position(namespace=namespace.name)
    return Position(
        namespace=namespace.name,
        log=saved.checkpoint.log,
        next_offset=saved.checkpoint.next_offset,
        time=saved.head.log_time,
    )


def load_begin(documents: Documents) -> Begin | None:
    """Where a follower of the log begins: at the live views, with what they know of it. Blocking."""
    try:
        found = load_admission(documents)
    except Unsettled:
        return None
    return None if found is None else Begin(checkpoint=found[1], admission=found[0])


class AsOf(Struct, frozen=True, kw_only=True):
    """How fresh an answer is: everything before `next_offset` of the log is in it."""

    log: str
    next_offset: int
    #: Log time at that offset.
    time: datetime | None
    #: Records of the log that are not in the answer yet.
    lag: int


class Views:
    """Read access to the live views, or to those of the moment that the request looks at (`portal.past`)."""

    def __init__(self, documents: Documents, hub: Hub, offload: Offload) -> None:
        self._documents = documents
        self._hub = hub
        self._offload = offload
        self._last: tuple[float, Position] | None = None

    # blocking: for threads of the pool

    def read_position(self) -> Position:
        """Where the live views are, read now."""
        return read_position(self._documents)

    def status(self) -> ViewStatus:
        """All that is known of the live views and of who writes them."""
        return view_status(self._documents)

    def live(self) -> Namespace:
        return self._documents.namespace(self.position().namespace)

    def position(self) -> Position:
        """As `read_position`, at most a moment old; in the past, where the views of that moment end."""
        if (then := MOMENT.get()) is not None:
            return Position(namespace=then.namespace, log=then.log, next_offset=then.next_offset, time=then.time)
        last = self._last
        if last is None or time.monotonic() - last[0] > FRESH_SECONDS:
            position = self.read_position()
            last = self._last = (time.monotonic(), position)
        return last[1]

    def as_of(self) -> AsOf:
        """To be asked before the documents are read, so that these are at least as fresh."""
        position = self.position()
        lag = max(0, self._hub.state.next_offset - position.next_offset)
        return AsOf(log=position.log, next_offset=position.next_offset, time=position.time, lag=lag)

    def get(self, collection: str, id: str) -> dict[str, Any] | None:
        return self.live().get(collection, id)

    def set_aside(self, collection: str, id: str) -> Marker | None:
        """Why this document stays behind; None when it does not."""
        return read_marker(self.live(), collection, id)

    def all_set_aside(self, limit: int) -> list[Marker]:
        """The first `limit` of all that stay behind."""
        return read_markers(self.live(), limit)

    # for the loop

    async def reach(self, next_offset: int, seconds: float) -> bool:
        """Waits until everything before `next_offset` is in the views. False when `seconds` were not enough."""
        deadline = time.monotonic() + seconds
        pause = LOOK_SECONDS
        while True:
            position = await self._offload(self.read_position)
            self._last = (time.monotonic(), position)
            if position.next_offset >= next_offset:
                return True
            if time.monotonic() + pause > deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, 0.25)

    async def at_least(self, text: str | None) -> None:
        """Serves the parameter `at_least=<log id>:<next offset>`. Raises `Problem`: 400, 410 for another log, 503."""
        if not text:
            return
        try:
            place = parse_position(text)
        except ValueError as error:
            raise bad_request(str(error), "at_least") from None
        if place.log != self._hub.state.log:
            raise gone(f"the position belongs to log {place.log}, this is log {self._hub.state.log}; begin anew")
        if not await self.reach(place.next_offset, AT_LEAST_SECONDS):
            behind = f"the views have not reached offset {place.next_offset} within {AT_LEAST_SECONDS:.0f} seconds"
            raise Problem(503, "views-behind", behind, field="at_least", headers={"Retry-After": "2"})
