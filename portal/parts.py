"""What every resource is given: the working parts of one portal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from bus.broker import Broker
from bus.clock import Clock
from bus.ports import Bus
from bus.progress import Progress
from portal.accounts import Accounts
from portal.commands import Commands
from portal.consumers import Consumers
from portal.hub import Hub
from portal.limits import Limiter
from portal.lists import Lists
from portal.log import Log
from portal.metrics import Metrics
from portal.offload import Offload
from portal.past import Moments, now
from portal.views import Views
from projections.osis.documents import Documents
from projections.osis.live import Live
from projections.osis.series import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Named by what they do; all of them are made in `portal.app`."""

    bus: Bus
    documents: Documents
    series: Series
    live: Live
    hub: Hub
    views: Views
    lists: Lists
    log: Log
    moments: Moments
    commands: Commands
    accounts: Accounts
    limiter: Limiter
    metrics: Metrics
    offload: Offload
    #: What all consumers of the fleet say of their progress, and the places of this portal's own two.
    consumers: Consumers
    progress: Mapping[str, Progress]
    #: Looks at the broker; None when it cannot be looked at (no management API, or no broker).
    broker: Broker | None
    clock: Clock
    #: The address under which others reach this portal, without a slash at its end; "" to take it from the request.
    public_url: str
    #: Gives a node that has joined an account on the bus, and returns the bus' URL for it.
    credentials_for: Callable[[str], str]
    #: Takes a removed node's account and inbox off the bus; it may block. Raises `bus.errors.BusError`.
    forget_node: Callable[[str], None]

    def now(self) -> datetime:
        """The time that a request speaks of: of the moment of the past that it looks at, else of the clock."""
        return now(self.clock)
