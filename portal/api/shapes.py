"""The shapes of answers, for the OpenAPI document. Documents of views may say more than is listed here."""

from datetime import datetime
from typing import Any

from msgspec import Struct

from portal.timeline import Hop
from portal.views import AsOf


class Item(Struct, kw_only=True):
    """What every document of a view has."""

    id: str


class NodeItem(Item, kw_only=True):
    state: str = ""
    roles: list[str] = []
    maintenance: bool = False


class JobItem(Item, kw_only=True):
    state: str = ""


class BatchItem(Item, kw_only=True):
    #: How many of its jobs are in each state.
    states: dict[str, int] = {}


class ScriptItem(Item, kw_only=True):
    hash: str = ""


class EventItem(Item, kw_only=True):
    offset: int
    verdict: str


class CommandItem(Item, kw_only=True):
    type: str = ""
    outcome: str | None = None


class SetAside(Struct, kw_only=True, frozen=True):
    """The document does not reflect the record at `offset`, nor any after it: its fold failed there."""

    event: str | None
    offset: int
    error: str


class NodeList(Struct, kw_only=True):
    items: list[NodeItem]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class JobList(Struct, kw_only=True):
    items: list[JobItem]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class BatchList(Struct, kw_only=True):
    items: list[BatchItem]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class ScriptList(Struct, kw_only=True):
    items: list[ScriptItem]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class EventList(Struct, kw_only=True):
    items: list[EventItem]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class CommandList(Struct, kw_only=True):
    items: list[CommandItem]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class OneNode(NodeItem, kw_only=True):
    as_of: AsOf
    set_aside: SetAside | None = None


class OneJob(JobItem, kw_only=True):
    #: Where its time went, in order.
    timeline: list[Hop]
    as_of: AsOf
    set_aside: SetAside | None = None


class OneBatch(BatchItem, kw_only=True):
    as_of: AsOf
    set_aside: SetAside | None = None


class OneScript(ScriptItem, kw_only=True):
    #: The text of the version that the name means now, or of the one asked for.
    source: str
    as_of: AsOf
    set_aside: SetAside | None = None


class OneEvent(EventItem, kw_only=True):
    """`event` is the whole record as the log has it, null for a bad one; `body` then has its beginning as text."""

    event: dict[str, Any] | None
    body: str | None
    #: The events that led to it, the first cause first.
    causes: list[EventItem]
    #: The events that it caused itself.
    consequences: list[EventItem]
    as_of: AsOf
    set_aside: SetAside | None = None


class OneCommand(CommandItem, kw_only=True):
    as_of: AsOf
    set_aside: SetAside | None = None


class Ended(Struct, kw_only=True, omit_defaults=True):
    """What was waited for: the job, or the batch and its jobs."""

    id: str
    job: JobItem | None = None
    batch: BatchItem | None = None
    jobs: list[JobItem] = []


class Sent(Struct, kw_only=True, omit_defaults=True):
    """A command that was sent, and what came of it.

    Without `outcome` nothing has come of it yet. `event` is the whole fact, `position` is for `at_least`.
    """

    id: str
    #: accepted or rejected
    outcome: str | None = None
    offset: int | None = None
    event: dict[str, Any] | None = None
    position: str | None = None
    #: What was done only in part.
    warning: str = ""


class Told(Struct, kw_only=True):
    """A fact that is in the log now."""

    id: str


class NewToken(Struct, kw_only=True):
    """`token` is shown once."""

    token: str
    actor: str


class Invited(Struct, kw_only=True):
    """`token` is shown once; `command` is what to run on the new machine."""

    token: str
    command: str
    roles: list[str]
    valid_until: datetime


class Joined(Struct, kw_only=True):
    """The way to the bus for the new node, with its own credentials."""

    node: str
    bus_url: str
    roles: list[str]


class Health(Struct, kw_only=True, omit_defaults=True):
    """`status` is ok, degraded or failing; everything else only for those who are logged in."""

    status: str
    version: str = ""
    checks: list["Check"] = []
    bus: dict[str, Any] = {}
    log: dict[str, Any] = {}
    views: dict[str, Any] = {}
    seat: dict[str, Any] = {}
    #: How far each consumer in the fleet is: name, holder, next_offset, end, lag_records, lag_seconds, heard (seconds).
    consumers: list[dict[str, Any]] = []
    #: What RabbitMQ tells of itself: durability, waiting, retention. Empty when it cannot be asked.
    broker: dict[str, Any] = {}
    #: Counts of agents that are missing: user, producer, first, last.
    gaps: list[dict[str, Any]] = []


class Check(Struct, kw_only=True, frozen=True):
    """One thing that was looked at: `ok`, `degraded` or `failing`, and what was found."""

    name: str
    status: str
    detail: str
