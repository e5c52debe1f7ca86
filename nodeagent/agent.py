"""The agent: the hand of the fleet on one machine. Boot, loop, failure, drain and stop, from top to bottom.

Nothing is run, reported or published before the inbox is held: whoever holds it is the node, and a clone of this
machine with a copy of the journal is not. After that the bus may come and go: jobs and periodic scripts go on.
"""

import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from bus.backoff import Backoff
from bus.clock import Clock, new_id
from bus.errors import Closed, InboxTaken, Refused, Unreachable
from bus.ports import Bus, Delivered
from events.delivery import RunJob, Standing, StopJob, decode_delivery, encode_delivery
from events.node import NodeConnected
from nodeagent import changes
from nodeagent.errors import AgentError, JournalConflict, JournalUnusable, NotAllowed
from nodeagent.facts import Speaker
from nodeagent.heartbeat import Heartbeat
from nodeagent.jobs import Jobs
from nodeagent.journal import Journal
from nodeagent.local import LocalDoor
from nodeagent.outbox import Outbox
from nodeagent.periodic import Periodic
from nodeagent.processes import kill_group, kill_marked
from nodeagent.schedule import OwnStart, Planned
from nodeagent.scripts import MissingSource, Scripts, Unusable
from nodeagent.workers import WorkerPool

#: Deliveries that are taken, and written into the journal, together.
BATCH = 200
#: Seconds that the inbox is waited for before everything else is looked at again.
READ_WITHIN = 0.5
#: Seconds between two `connected` that only ask for sources which are not here.
ASK_EVERY = 5.0
#: Seconds between two looks for jobs that came too late, and between two cleanings of the journal.
SWEEP_EVERY = 1.0
FORGET_EVERY = 60.0
#: Seconds to wait for word from the handlers before going by what they said when the agent last ran.
STANDING_WITHIN = 10.0
#: Seconds that a removal must stand: the inbox of a node that joined anew may hold the removal of the former.
REMOVED_FOR = 3.0
#: Seconds that the outbox has for its last facts when the agent stops.
FLUSH_WITHIN = 10.0
#: Seconds before the bus is tried again at start: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
#: Where jobs find the socket by which services on this machine hand events in.
SOCKET_VARIABLE = "FLEETBUS_AGENT_SOCKET"

log = structlog.get_logger(__name__)


class Identity(Struct, frozen=True, kw_only=True):
    """Who this agent is. `roles` are those that it was started with: they count until the fleet says others."""

    node: str
    roles: tuple[str, ...]
    allows: frozenset[str]
    version: str


class Parts(Struct, frozen=True, kw_only=True):
    """What an agent is made of."""

    bus: Bus
    journal: Journal
    scripts: Scripts
    jobs: Jobs
    pool: WorkerPool
    outbox: Outbox
    heartbeat: Heartbeat
    door: LocalDoor
    speaker: Speaker
    clock: Clock


class Agent:
    """`run` until `stop` is set, `grace` being the seconds that running jobs then have."""

    def __init__(self, identity: Identity, parts: Parts, stop: threading.Event, grace: float) -> None:
        self._me, self._parts, self._stop, self._grace = identity, parts, stop, grace
        self._bus, self._journal, self._jobs = parts.bus, parts.journal, parts.jobs
        self._periodic = Periodic(self._begin_own, self._jobs.own_scripts, self._journal.producer, parts.clock)
        kept = self._journal.file.standing()
        self._standing = msgspec.json.decode(kept, type=Standing) if kept else None
        #: Of the latest standing that came since this start; what the journal has may be of another log.
        self._offset: int | None = None
        self._stale = False
        self._removed_at: float | None = None
        self._bound: tuple[str, ...] = ()
        self._connected = 0
        self._connected_at = 0.0
        self._asking = False
        self._swept_at = self._forgot_at = 0.0

    def run(self) -> None:
        """Raises `NotAllowed` when this process must not be the node, `AgentError` when it cannot go on."""
        self._kill_remains()
        self._inbox = self._bus.inbox(self._me.node)
        if not self._hold_inbox():
            return
        self._begin()
        try:
            self._loop()
        finally:
            self._end()

    # boot

    def _kill_remains(self) -> None:
        """What the former agent's jobs left running: nobody would ever hear of it."""
        for kept in self._journal.file.open_jobs():
            if kept.pgid is not None and kept.stamp is not None:
                killed = kill_group(kept.pgid, kept.stamp)
                if kill_marked(kept.run.job) or killed:
                    log.warning("killed what a former job left", action="job.killed", job=kept.run.job)

    def _hold_inbox(self) -> bool:
        """Opens the inbox, however long it takes. False when the agent is to stop instead."""
        backoff, keys = Backoff(FIRST_PAUSE, LONGEST_PAUSE), self._keys()
        while not self._stop.is_set():
            try:
                self._inbox.open(keys)
            except (InboxTaken, Refused) as error:
                raise NotAllowed(f"this agent may not be the node {self._me.node!r}: {error}") from error
            except Unreachable as error:
                pause = backoff.next()
                log.warning("the bus cannot be reached", action="bus.unreachable", error=str(error), again_in=pause)
                self._stop.wait(pause)
            else:
                self._bound = keys
                return True
        return False

    def _keys(self) -> tuple[str, ...]:
        node = self._me.node
        roles = self._me.roles if self._standing is None else self._standing.roles
        return (f"{node}.node", *(f"{node}.{role}.#" for role in sorted(set(roles))))

    def _begin(self) -> None:
        parts, kept = self._parts, self._journal.file.open_jobs()
        self._open_door()
        self._jobs.lines.start()
        parts.pool.start()
        self._jobs.resume(kept)
        parts.outbox.start()
        self._say_connected()
        parts.heartbeat.start()
        self._periodic.start()
        log.info("the agent is ready", action="agent.ready", node=self._me.node, keys=self._bound, open_jobs=len(kept))

    def _open_door(self) -> None:
        try:
            self._parts.door.start()
        except OSError as error:
            log.error("local services cannot hand events in", action="local.closed", error=str(error))
        else:
            self._jobs.env = {SOCKET_VARIABLE: str(self._parts.door.path)}

    def _say_connected(self) -> None:
        """Everything that is undone comes again as the answer. Goes through the outbox, behind the ends of jobs."""
        self._connected, self._connected_at = self._inbox.generation, time.monotonic()
        self._asking = False
        data = NodeConnected(
            node=self._me.node,
            boot=self._journal.producer,
            journal=self._journal.file.id,
            roles=self._me.roles,
            open_jobs=self._jobs.open(),
            scripts=self._journal.file.script_hashes(),
            allows=tuple(sorted(self._me.allows)),
            hostname=socket.gethostname()[:255],
            version=self._me.version,
        )
        self._journal.write(facts=(self._parts.speaker.connected(data, self._parts.clock.now(), new_id()),))

    # the loop

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._look_after()
            if self._journal.full or self._jobs.full:
                self._wait_for_room()
            elif deliveries := self._read():
                self._take(deliveries)

    def _read(self) -> list[Delivered]:
        try:
            return self._inbox.read(BATCH, READ_WITHIN)
        except Closed as error:
            raise AgentError(f"the bus was closed: {error}") from error
        except Refused as error:
            raise NotAllowed(f"this agent may not be the node {self._me.node!r} any more: {error}") from error
        except InboxTaken as error:
            # this process may only have been frozen for a while: then nobody has it
            log.warning("the inbox is lost", action="inbox.lost", error=str(error))
            self._inbox.close()
            self._inbox = self._bus.inbox(self._me.node)
            self._connected = -1
            self._hold_inbox()
            return []

    def _wait_for_room(self) -> None:
        log.warning(
            "no new work is taken until there is room",
            action="agent.full",
            outbox=self._journal.unconfirmed,
            jobs=self._jobs.count(),
        )
        while (self._journal.full or self._jobs.full) and not self._stop.wait(0.2):
            self._look_after()

    def _look_after(self) -> None:
        """What has to be done now and then, whatever comes."""
        now = time.monotonic()
        if self._jobs.broken:
            raise AgentError("the worker pool has died; what ran is reported when the agent starts anew")
        self._check_parts()
        if self._removed_at is not None and now - self._removed_at > REMOVED_FOR:
            raise NotAllowed(f"the node {self._me.node!r} was removed from the fleet; it can be invited again")
        if self._inbox.generation != self._connected or (self._asking and now - self._connected_at > ASK_EVERY):
            self._say_connected()
        if self._offset is None and not self._stale and now - self._connected_at > STANDING_WITHIN:
            self._stale = True
            self._plan()
        if now - self._swept_at > SWEEP_EVERY:
            self._swept_at = now
            self._bind()
            self._jobs.sweep()
        if now - self._forgot_at > FORGET_EVERY:
            self._forgot_at = now
            self._journal.write(*changes.forgotten(self._parts.clock.now()))

    def _check_parts(self) -> None:
        """A thread that died of a mistake must not leave half an agent behind."""
        parts = self._parts
        for part in (self._journal, parts.pool, parts.outbox, parts.heartbeat, self._periodic):
            if not part.alive:
                raise AgentError(f"the agent's {type(part).__name__.lower()} has died; the log says of what")

    def _take(self, deliveries: list[Delivered]) -> None:
        """Journal first, then acknowledge: what was taken is not lost, and what comes again is known."""
        taken = [(delivery.tag, self._handle(delivery)) for delivery in deliveries]
        pending = {written for _, written in taken if written is not None}
        while pending and not self._stop.is_set():
            pending = wait_for(pending, timeout=READ_WITHIN).not_done
            # a journal whose thread has died never answers
            self._check_parts()
        try:
            self._inbox.ack([tag for tag, written in taken if written is None or _is_in_journal(written)])
        except Unreachable as error:
            log.warning("deliveries are not acknowledged; they come again", action="inbox.ack", error=str(error))

    def _handle(self, delivered: Delivered) -> Future[None] | None:
        try:
            delivery = decode_delivery(delivered.body)
            match delivery:
                case RunJob(node=self._me.node):
                    return self._jobs.take(delivery)
                case StopJob():
                    return self._jobs.cancel(delivery)
                case Standing(node=self._me.node):
                    return self._stand(delivery)
                case _:
                    log.error("a delivery for another node", action="delivery.strange", key=delivered.key)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.error("cannot be read", action="delivery.unreadable", key=delivered.key, error=str(error))
        except MissingSource as error:
            self._ask(error)
        except JournalUnusable:
            raise
        except Exception:
            # it would come again at every start, and nothing behind it would ever be taken
            log.exception("a delivery cannot be taken", action="delivery.failed", key=delivered.key)
        return None

    def _ask(self, missing: MissingSource) -> None:
        """The handlers believe that the source is here. `connected` lists what is; the rest comes with the answer."""
        log.info("asking for a source", action="script.missing", error=str(missing))
        self._asking = True

    # what the fleet says of the node

    def _stand(self, standing: Standing) -> Future[None] | None:
        """An older standing never replaces a newer."""
        if self._offset is not None and standing.offset < self._offset:
            return None
        self._offset = standing.offset
        if standing.removed:
            self._removed_at = self._removed_at or time.monotonic()
            return None
        self._standing, self._removed_at = standing, None
        self._bind()
        kept = self._plan()
        bare = replace(standing, periodic=tuple(replace(one, source=None) for one in standing.periodic))
        self._standing = bare
        return self._journal.write(changes.standing(encode_delivery(bare)), *kept)

    def _bind(self) -> None:
        keys = self._keys()
        if keys == self._bound:
            return
        try:
            self._inbox.bind(keys)
        except (Unreachable, Refused) as error:
            log.warning("roles cannot be bound yet", action="inbox.bind", keys=keys, error=str(error))
            return
        log.info("bound", action="inbox.bound", keys=keys)
        self._bound = keys

    def _plan(self) -> list[changes.Change]:
        """Plans the scripts that the node starts by itself; returns what keeps their sources."""
        planned, kept = [], []
        for one in () if self._standing is None else self._standing.periodic:
            try:
                script = self._parts.scripts.find(one.name, one.hash, one.source)
            except MissingSource as error:
                self._ask(error)
                continue
            except Unusable as error:
                log.error("a periodic script cannot run", action="periodic.unusable", script=one.name, error=str(error))
                continue
            kept.append(changes.script(script.hash, script.source, self._parts.clock.now()))
            if missing := self._parts.scripts.not_allowed(script.header):
                log.warning("a periodic script may not run", action="periodic.not_allowed", error=missing)
            else:
                planned.append(Planned(script.hash, script.header))
        self._periodic.plan(planned, self._standing is not None and self._standing.maintenance)
        return kept

    def _begin_own(self, start: OwnStart) -> None:
        """Called by the thread that watches the clock."""
        name = start.planned.header.name
        if self._journal.full or self._journal.trouble:
            log.warning("a run is left out: no room for its facts", action="periodic.full", script=name)
            self._jobs.left_out += 1
            return
        try:
            script = self._parts.scripts.find(name, start.planned.hash, None)
        except (MissingSource, Unusable) as error:
            log.error("a periodic script cannot run", action="periodic.unusable", script=name, error=str(error))
            return
        self._jobs.begin_own(start, script)

    # the end

    def _end(self) -> None:
        """Jobs first: their ends are facts. Then the pulse, so that no heartbeat follows the farewell."""
        parts = self._parts
        log.info("the agent stops", action="agent.stopping", running=self._jobs.count()[0], grace=self._grace)
        self._periodic.stop()
        self._jobs.halt(self._grace)
        self._jobs.lines.stop()
        parts.door.stop()
        parts.heartbeat.stop()
        said = parts.speaker.disconnected(self._journal.producer, parts.clock.now(), new_id())
        wait_for([self._journal.write(facts=(said,))], timeout=FLUSH_WITHIN)
        if not parts.outbox.drain(FLUSH_WITHIN):
            log.warning("facts wait for the next start", action="outbox.left", count=self._journal.unconfirmed)
        parts.outbox.stop()
        self._inbox.close()
        log.info("the agent has stopped", action="agent.stopped")


def _is_in_journal(written: Future[None]) -> bool:
    """Whether the delivery needs no second time: it was written, or the journal had it already."""
    return written.done() and (written.exception() is None or isinstance(written.exception(), JournalConflict))
