"""Stories: logs that are valid from the first record to the last, written in a few words.

    story = Story()
    story.script("facts")
    story.node("n1", roles=("cpu",))
    job = story.job("facts", node="n1")
    story.started(job)
    story.finished(job, result={"cpus": 2})

    story.records()         # what a reader of the log gets
    story.write(folder)     # into the embedded bus of that folder: straight into its table, for long logs
    story.publish(bus_of)   # the same through buses, each record by the user that says it

The same calls make the same records, byte for byte. Whoever needs other events says them with `say`, `decide` or
`report`; what is no event at all with `raw`.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from msgspec import Struct

from bus.embedded import SCHEMA
from bus.genesis import first_record
from bus.ports import Bus, Message, Record
from events.actors import HANDLERS, PORTAL, agent_user
from events.codec import encode
from events.envelope import Event, derived_id
from events.header import script_hash
from events.job import (
    BatchCreated,
    BatchJob,
    CancelJob,
    CancelRequested,
    JobExpired,
    JobFailure,
    JobFinished,
    JobLost,
    JobOutput,
    JobQueued,
    JobStarted,
    JobWaiting,
    Order,
    Outcome,
    OwnRun,
    SubmitJob,
    Target,
)
from events.node import (
    MaintenanceSet,
    NodeConnected,
    NodeDisconnected,
    NodeJoined,
    NodeOffline,
    NodeOnline,
    NodeRemoved,
    RolesSet,
    SetMaintenance,
)
from events.routing import routing_key
from events.script import PublishScript, ScriptPublished, ScriptRetired
from events.seat import CommandRejected, SeatTaken, SeatTick

#: When stories begin, unless they say otherwise: so late that no view forgets them while they are looked at.
BEGIN = datetime(2100, 3, 1, 8, 0, tzinfo=UTC)
#: What passes between two events.
STEP = timedelta(milliseconds=10)
STORIES = UUID("5d0f8f5c-3a52-5c53-8b3e-0e9c2b2c7f10")
SOURCE = 'descr = "{descr}"\n\ndef action(**params):\n    return params\n'


class Said(Struct, frozen=True):
    """One record to be, and the event in it if it is one."""

    user: str
    key: str
    body: bytes
    event: Event | None = None


class Agent(Struct):
    """One node's agent: the ids of its last start and of its journal, and how much it said since."""

    node: str
    boot: str
    journal: str
    seq: int = 0


class Story:
    """Writes down what is said, in order. Every method stands for one or two events and gives back what they made."""

    def __init__(self, *, begin: datetime = BEGIN, name: str = "story", seat: bool = True) -> None:
        self.now = begin
        self.said: list[Said] = []
        self.token: str | None = None
        self._name = name
        self._ids = 0
        self._agents: dict[str, Agent] = {}
        self._hashes: dict[str, str] = {}
        self._orders: dict[str, tuple[Order, Target, str]] = {}
        self._nodes: dict[str, str] = {}
        self._written = self._forgotten = 0
        first = first_record(name, begin, self.id())
        self.raw(first.body, user=HANDLERS, key=first.key)
        if seat:
            self.seat()

    # ids and time

    def id(self) -> str:
        """An id that was not used yet."""
        self._ids += 1
        return str(uuid5(STORIES, f"{self._name}/{self._ids}"))

    def later(self, seconds: float) -> None:
        """Time passes, and the seat says so."""
        self.now += timedelta(seconds=seconds)
        self.tick()

    # saying anything

    def raw(
        self, body: bytes, *, user: str = PORTAL, key: str = "event.billing.paid", event: Event | None = None
    ) -> None:
        """Any bytes under any key by any user."""
        self.said.append(Said(user, key, body, event))

    def say(self, event: Event, user: str) -> Event:
        """An event as it is, by `user`."""
        self.raw(encode(event), user=user, key=routing_key(event), event=event)
        return event

    def again(self, event: Event) -> None:
        """The last record of this event, once more, byte for byte."""
        self.said.append(next(said for said in reversed(self.said) if said.event == event))

    def event(self, type: str, data: Any, *, actor: str, subject: str = "", **more: Any) -> Event:
        """An event of this moment that nobody has said yet."""
        self.now += STEP
        return Event(
            id=more.pop("id", None) or self.id(),
            source=more.pop("source", f"story/{self._name}"),
            type=type,
            subject=subject or type.split(".")[1],
            time=more.pop("time", self.now),
            actor=actor,
            data=data,
            **more,
        )

    def command(self, type: str, data: Any, *, actor: str = "user:alice", subject: str = "", **more: Any) -> Event:
        """What a person asks through the portal."""
        id = self.id()
        return self.say(
            self.event(type, data, actor=actor, subject=subject, id=id, correlationid=id, **more),
            PORTAL if actor.startswith("user:") else actor.replace(":", "."),
        )

    def decide(
        self, type: str, data: Any, *, cause: Event | str | None = None, subject: str = "", **more: Any
    ) -> Event:
        """What the holder of the seat says. A `cause` that is an event gives its story, too."""
        if isinstance(cause, Event):
            more.setdefault("correlationid", cause.correlationid)
            cause = cause.id
        more.setdefault("seattoken", self.token)
        said = self.event(type, data, actor="system:fleet", subject=subject, causationid=cause, **more)
        return self.say(said, HANDLERS)

    def report(self, node: str, type: str, data: Any, *, subject: str = "", **more: Any) -> Event:
        """What a node's agent says."""
        agent = self.agent(node)
        agent.seq += 1
        numbered = {"producer": agent.boot, "seq": agent.seq, **more}
        return self.say(self.event(type, data, actor=f"node:{node}", subject=subject, **numbered), agent_user(node))

    def agent(self, node: str) -> Agent:
        if node not in self._agents:
            self._agents[node] = Agent(node, self.id(), self.id())
        return self._agents[node]

    # the seat

    def seat(self, holder: str = "handlers-1") -> Event:
        taken = SeatTaken(seat="fleet", previous=self.token, holder=holder)
        event = self.decide("event.seat.taken", taken, subject="fleet", seattoken=None)
        self.token = event.id
        return event

    def tick(self) -> Event:
        return self.decide("event.seat.tick", SeatTick(), subject="fleet")

    def rejected(self, command: Event, reason: str = "unknown_script", message: str = "there is none") -> Event:
        data = CommandRejected(command=command.id, command_type=command.type, reason=reason, message=message)
        return self.decide("event.command.rejected", data, cause=command, subject=command.subject)

    # scripts

    def script(self, name: str, source: str | None = None) -> str:
        """Publishes a script; gives its hash."""
        source = source if source is not None else SOURCE.format(descr=name)
        hash = script_hash(source)
        command = self.command("command.script.publish", PublishScript(name=name, source=source), subject=name)
        data = ScriptPublished(name=name, hash=hash, source=source, by=command.actor)
        self.decide("event.script.published", data, cause=command, subject=name)
        self._hashes[name] = hash
        return hash

    def retired(self, name: str, reason: str = "") -> Event:
        return self.decide("event.script.retired", ScriptRetired(name=name, reason=reason), subject=name)

    # nodes

    def joined(self, node: str, roles: Sequence[str] = ()) -> Event:
        data = NodeJoined(node=node, roles=tuple(roles), token_hash=script_hash(node))
        return self.decide("event.node.joined", data, subject=node)

    def node(self, node: str, roles: Sequence[str] = (), **more: Any) -> Event:
        """An agent starts and connects."""
        agent = self._agents[node] = Agent(node, self.id(), self.agent(node).journal)
        data = NodeConnected(
            node=node, boot=agent.boot, journal=agent.journal, roles=tuple(roles), hostname=f"{node}.example", **more
        )
        return self.report(node, "event.node.connected", data, subject=node)

    def disconnected(self, node: str) -> Event:
        data = NodeDisconnected(node=node, boot=self.agent(node).boot)
        return self.report(node, "event.node.disconnected", data, subject=node)

    def offline(self, node: str) -> Event:
        return self.decide("event.node.offline", NodeOffline(node=node, silent_for=20.0), subject=node)

    def online(self, node: str) -> Event:
        return self.decide("event.node.online", NodeOnline(node=node), subject=node)

    def maintenance(self, node: str, on: bool = True, reason: str = "") -> Event:
        asked = SetMaintenance(node=node, on=on, reason=reason)
        command = self.command("command.node.maintenance", asked, subject=node)
        data = MaintenanceSet(node=node, on=on, reason=reason)
        return self.decide("event.node.maintenance_set", data, cause=command, subject=node)

    def roles(self, node: str, roles: Sequence[str]) -> Event:
        return self.decide("event.node.roles_set", RolesSet(node=node, roles=tuple(roles)), subject=node)

    def removed(self, node: str) -> Event:
        return self.decide("event.node.removed", NodeRemoved(node=node), subject=node)

    # jobs

    def submit(self, script: str, target: Target, params: dict[str, Any] | None = None) -> Event:
        data = SubmitJob(script=script, target=target, params=params or {})
        return self.command("command.job.submit", data, subject=script)

    def job(
        self, script: str, *, node: str, role: str | None = None, params: dict[str, Any] | None = None, wait: str = ""
    ) -> str:
        """A person submits a job, and it is queued on `node` (with `wait`, a reason, after having waited); its id."""
        target = Target(node=node) if role is None else Target(role=role)
        command = self.submit(script, target, params)
        order = self.order(script, params=params, by=command.actor)
        self._orders[command.id] = order, target, role or "node"
        cause: Event = command
        if wait:
            cause = self.waiting(command.id, cause=command, reason=wait)
        self.queued(command.id, node, cause=cause)
        return command.id

    def order(self, script: str, **more: Any) -> Order:
        params = more.pop("params", None) or {}
        return Order(script=script, hash=self._hashes[script], by=more.pop("by", "user:alice"), params=params, **more)

    def waiting(self, job: str, *, cause: Event | str, reason: str = "no node is ready", place: int = 1) -> Event:
        order, target, _ = self._orders[job]
        start_by = self.now + timedelta(hours=1)
        data = JobWaiting(job=job, order=order, target=target, start_by=start_by, reason=reason, place=place)
        return self.decide("event.job.waiting", data, cause=cause, subject=job)

    def queued(self, job: str, node: str, *, cause: Event | str) -> Event:
        order, target, via = self._orders[job]
        start_by = self.now + timedelta(hours=1)
        data = JobQueued(job=job, order=order, target=target, node=node, via=via, start_by=start_by)
        self._nodes[job] = node
        return self.decide("event.job.queued", data, cause=cause, subject=job)

    def batch(self, script: str, nodes: Iterable[str], *, size: int = 0) -> tuple[str, list[str]]:
        """A batch over these nodes; its id and its jobs', in order. With `size` the later ones wait for their turn."""
        names = tuple(nodes)
        target = Target(nodes=names)
        command = self.submit(script, target)
        order = self.order(script, by=command.actor, batch=command.id)
        jobs = []
        for n, node in enumerate(names):
            job = derived_id(command.id, node)
            jobs.append(BatchJob(job=job, node=node, via="node", reason="its turn comes" if size and n >= size else ""))
            self._orders[job], self._nodes[job] = (order, target, "node"), node
        start_by = self.now + timedelta(hours=1)
        data = BatchCreated(
            batch=command.id, order=order, target=target, start_by=start_by, jobs=tuple(jobs), size=size
        )
        self.decide("event.batch.created", data, cause=command, subject=command.id)
        return command.id, [one.job for one in jobs]

    def cancelled(self, job: str, jobs: Sequence[str] = (), reason: str = "asked for by user:alice") -> Event:
        """A person asks for the end of a job, or of a batch with these jobs."""
        command = self.command("command.job.cancel", CancelJob(job=job), subject=job)
        data = CancelRequested(job=job, jobs=tuple(jobs) or (job,), reason=reason)
        return self.decide("event.job.cancel_requested", data, cause=command, subject=job)

    def expired(self, job: str) -> Event:
        return self.decide("event.job.expired", JobExpired(job=job, reason="nobody started it"), subject=job)

    def lost(self, job: str) -> Event:
        data = JobLost(job=job, node=self._nodes.get(job, "n1"), reason="its node is gone")
        return self.decide("event.job.lost", data, subject=job)

    def started(self, job: str, *, node: str | None = None, **more: Any) -> Event:
        node = node or self._nodes[job]
        return self.report(node, "event.job.started", JobStarted(job=job, node=node, **more), subject=job)

    def finished(
        self,
        job: str,
        outcome: Outcome = "succeeded",
        *,
        node: str | None = None,
        result: Any = None,
        error: str = "",
        **more: Any,
    ) -> Event:
        node = node or self._nodes[job]
        failure = JobFailure(error=error) if error else None
        output = JobOutput(lines=1, size=6, tail="hello\n")
        data = JobFinished(
            job=job, node=node, outcome=outcome, duration=0.5, result=result, failure=failure, output=output, **more
        )
        return self.report(node, "event.job.finished", data, subject=job)

    def own_run(self, node: str, script: str, slot: str = "period 2026-03-01T08:00:00Z") -> str:
        """A run that an agent begins by itself, to its end; gives the job's id."""
        order = self.order(script, by=f"node:{node}")
        job = derived_id(self.agent(node).journal, node, order.hash, slot)
        self.started(job, node=node, order=order, own=OwnRun(slot=slot))
        self.finished(job, node=node, result={"node": node})
        return job

    # what became of it

    def records(self) -> list[Record]:
        """The log, from offset 0."""
        return [Record(offset, said.body, said.key, said.user) for offset, said in enumerate(self.said)]

    def write(self, folder: Path) -> int:
        """Appends what was not written yet to the embedded bus of `folder`; the number of records there now.

        Readers that wait are not woken; they look by themselves once a second.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(folder / "bus.db", isolation_level=None, timeout=15)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA.format(stream="log"))
            db.execute("BEGIN IMMEDIATE")
            end = int(db.execute("SELECT coalesce(max(offset) + 1, 0) FROM log").fetchone()[0])
            news = self._unwritten(end)
            rows = [(end + n, self.now.timestamp(), said.key, said.user, said.body) for n, said in enumerate(news)]
            db.executemany("INSERT INTO log (offset, at, key, user, body) VALUES (?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
        return end + len(news)

    def flush(self, folder: Path) -> int:
        """As `write`, and forgets what was written: for logs that do not fit into memory."""
        end = self.write(folder)
        self._forgotten += len(self.said)
        self.said.clear()
        self._written = 0
        return end

    def publish(self, bus_of: Callable[[str], Bus]) -> None:
        """Says what was not written yet, in order, each by its own user; `bus_of` gives the bus of a user."""
        buses: dict[str, Bus] = {}
        confirmed: list[Future[None]] = []
        speaker = ""
        for said in self._unwritten(bus_of(HANDLERS).stream("log").next_offset()):
            if said.user != speaker:
                # only what is confirmed is before what another process says
                _wait(confirmed)
                speaker = said.user
            if speaker not in buses:
                buses[speaker] = bus_of(speaker)
            confirmed.append(buses[speaker].publish(Message(key=said.key, body=said.body)))
        _wait(confirmed)

    def _unwritten(self, end: int) -> list[Said]:
        """What comes next in a log that has `end` records; one that has any has a beginning of its own."""
        start = max(self._written, 1 if end and not self._forgotten else 0)
        self._written = len(self.said)
        return self.said[start:]


def _wait(confirmed: list[Future[None]]) -> None:
    for future in confirmed:
        future.result(30)
    confirmed.clear()
