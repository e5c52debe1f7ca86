"""The state over which decisions are made: one frozen value, the fold of the admitted log.

It holds what deciding needs and nothing for looking at; views are for that. It does not grow with the log: ended
jobs and decided commands are kept in a bounded memory.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from immutables import Map
from msgspec import Struct
from msgspec.structs import replace

from events.envelope import Event
from events.header import Header
from events.job import Order, Target
from events.names import holds
from handlers.recent import Recent

#: Of the fold and of the snapshot. A snapshot made by another version is rebuilt.
VERSION = 2

#: Ended jobs that can still be retried, corrected by a late `finished`, or named in an answer.
KEPT_JOBS = 20_000
#: Commands whose outcome is remembered, so that none gets a second one.
KEPT_COMMANDS = 50_000
#: Versions of a script whose source is kept; jobs that are under way keep theirs besides.
KEPT_VERSIONS = 20

JobState = Literal["waiting", "queued", "started", "succeeded", "failed", "timed_out", "cancelled", "expired", "lost"]
UNFINISHED = frozenset({"waiting", "queued", "started"})
#: Ends that the decider only inferred: the agent's own word replaces them.
INFERRED = frozenset({"expired", "lost"})


class Node(Struct, frozen=True, kw_only=True):
    """A machine with an agent, as far as deciding needs it. `cause`: the last fact about its presence."""

    id: str
    roles: tuple[str, ...] = ()
    online: bool = False
    maintenance: bool = False
    removed: bool = False
    boot: str | None = None
    journal: str | None = None
    allows: tuple[str, ...] = ()
    scripts: frozenset[str] = frozenset()
    unfinished: int = 0
    offline_since: datetime | None = None
    cause: str = ""

    @property
    def ready(self) -> bool:
        """Whether it may be given a job now."""
        return self.online and not self.maintenance and not self.removed

    def held(self, role: str) -> str:
        """The role it holds that makes it hold `role`: its key in the inbox's bindings."""
        return next((held for held in self.roles if holds((held,), role)), role)


class Script(Struct, frozen=True, kw_only=True):
    """A name, the hash it means now, and the hashes it meant before (latest last)."""

    name: str
    hash: str
    retired: bool = False
    versions: tuple[str, ...] = ()


class Source(Struct, frozen=True, kw_only=True):
    """One version of a script."""

    hash: str
    source: str
    header: Header


class Job(Struct, frozen=True, kw_only=True):
    """One job. `cause`: the fact that brought it into its state; `journal`: its node's when it was queued."""

    id: str
    order: Order
    target: Target
    state: JobState
    start_by: datetime
    cause: str
    correlation: str | None
    node: str | None = None
    via: str = "node"
    journal: str | None = None
    cancel_requested: bool = False
    retried: bool = False
    reason: str = ""


class Batch(Struct, frozen=True, kw_only=True):
    """The jobs of a batch that wait for their turn (in order), how many are on their way, how many ended badly.

    `within`: how long each may take to start, counted from its turn.
    """

    id: str
    within: timedelta
    size: int
    max_failures: int | None
    total: int
    waiting: tuple[str, ...] = ()
    active: int = 0
    failures: int = 0
    cause: str = ""

    @property
    def stopped(self) -> bool:
        return self.max_failures is not None and self.failures > self.max_failures

    @property
    def room(self) -> int:
        """Jobs that may be queued now."""
        return max(0, (self.size or self.total) - self.active)


class Invitation(Struct, frozen=True, kw_only=True):
    token_hash: str
    roles: tuple[str, ...]
    valid_until: datetime


class OpenCommand(Struct, frozen=True):
    """A command without an outcome."""

    offset: int
    event: Event


class Decided(Struct, frozen=True):
    """A command that has its outcome, and when it was sent."""

    time: datetime


class Fleet(Struct, frozen=True, kw_only=True):
    """Everything that deciding needs to know."""

    nodes: Map[str, Node] = Map()
    scripts: Map[str, Script] = Map()
    sources: Map[str, Source] = Map()
    #: Unfinished jobs; `ended` has those that are not.
    jobs: Map[str, Job] = Map()
    ended: Recent[Job] = Recent(KEPT_JOBS)
    #: Ids of unfinished jobs that no node has yet, outside of batches.
    waiting: Map[str, None] = Map()
    #: Ids of ended jobs that are to be run once more by themselves.
    to_retry: Map[str, None] = Map()
    #: Batches with unfinished jobs.
    batches: Map[str, Batch] = Map()
    invitations: Map[str, Invitation] = Map()
    open_commands: Map[str, OpenCommand] = Map()
    decided: Recent[Decided] = Recent(KEPT_COMMANDS)

    def with_node(self, node: Node) -> "Fleet":
        return replace(self, nodes=self.nodes.set(node.id, node))

    def job(self, id: str) -> Job | None:
        """An unfinished job, or one of the last that ended."""
        return self.jobs.get(id) or self.ended.get(id)

    def known_nodes(self) -> list[Node]:
        return sorted((node for node in self.nodes.values() if not node.removed), key=lambda node: node.id)

    def known_roles(self) -> list[str]:
        return sorted({role for node in self.known_nodes() for role in node.roles})

    def known_scripts(self) -> list[str]:
        return sorted(script.name for script in self.scripts.values() if not script.retired)


class Fact(Struct, frozen=True, kw_only=True):
    """What a decider wants said. The loop makes an event of it; the id is derived, so a second time is the same.

    `cause` is the event that caused it (for a timer's fact, the one that set the timer), `part` tells facts of one
    cause apart. `story` is the correlation id.
    """

    type: str
    subject: str
    data: Struct
    cause: str
    part: str
    story: str | None = None


class Rejection(Struct, frozen=True, kw_only=True):
    """Why nothing comes of a command; the fields are those of `events.seat.CommandRejected`."""

    reason: str
    message: str
    field: str = ""
    exists: tuple[str, ...] = ()


def listing(names: Iterable[str], none: str = "none") -> str:
    """Names for a sentence, at most ten."""
    found = list(names)
    if not found:
        return none
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
