"""A fleet without bus, clock or processes: what is said is folded at once, what the decider says, too."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from events.envelope import Event, derived_id
from events.job import JobFinished, JobStarted, SubmitJob, Target
from events.node import NodeConnected
from events.script import PublishScript
from handlers import decider, nodes
from handlers.fleet import Fact, Fleet

ROOT = "01900000-0000-7000-8000-000000000000"


def uid(name: object) -> str:
    return derived_id(ROOT, str(name))


@dataclass
class World:
    fleet: Fleet = field(default_factory=Fleet)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    log: list[Event] = field(default_factory=list)
    count: int = 0

    def put(self, event: Event) -> Event:
        self.log.append(event)
        self.fleet = decider.evolve(self.fleet, event, len(self.log) - 1)
        return event

    def event(self, type: str, data: Struct, **changes: Any) -> Event:
        self.count += 1
        fields: dict[str, Any] = {
            "id": uid(self.count),
            "source": "test",
            "type": type,
            "subject": "s",
            "time": self.now,
            "actor": "user:alice",
            "data": data,
        }
        return Event(**{**fields, **changes})

    def say(self, fact: Fact) -> Event:
        return self.put(
            self.event(
                fact.type,
                fact.data,
                id=decider.fact_id(fact),
                subject=fact.subject,
                actor="system:fleet",
                causationid=fact.cause,
                correlationid=fact.story,
            )
        )

    def command(self, type: str, data: Struct, **changes: Any) -> Event:
        """A command and its outcome, then all that is due. Returns the outcome."""
        command = self.put(self.event(type, data, **changes))
        outcome = self.decide(command.id)
        self.settle()
        return outcome

    def decide(self, id: str) -> Event:
        return self.say(decider.decide(self.fleet, self.fleet.open_commands[id].event, self.now))

    def settle(self) -> list[Event]:
        said: list[Event] = []
        while facts := decider.due(self.fleet, self.now):
            assert len(said) < 1000, f"it never settles: {facts[0]}"
            said += [self.say(fact) for fact in facts]
        return said

    def pass_time(self, presence_known: bool = True, **delta: float) -> list[Event]:
        self.now += timedelta(**delta)
        said = [self.say(fact) for fact in decider.overdue(self.fleet, self.now, presence_known)]
        return said + self.settle()

    def lose_sight(self, *ids: str) -> None:
        for fact in nodes.presence(self.fleet, dict.fromkeys(ids, 21.0), ()):
            self.say(fact)
        self.settle()

    # what people and agents say

    def node(self, id: str, *roles: str, journal: str = "journal", allows: tuple[str, ...] = ()) -> None:
        data = NodeConnected(
            node=id, boot=uid((id, self.count)), journal=uid((id, journal)), roles=roles, allows=allows
        )
        self.put(self.event("event.node.connected", data, actor=f"node:{id}"))
        self.settle()

    def script(self, name: str, source: str = "", **header: object) -> Event:
        lines = [f"{key} = {value!r}" for key, value in {"descr": "a test", **header}.items()]
        source = source or "def action(**params):\n    return params\n"
        return self.command("command.script.publish", PublishScript(name=name, source="\n".join([*lines, source])))

    def submit(self, script: str = "echo", *, target: Target | None = None, **fields: Any) -> Event:
        return self.command(
            "command.job.submit", SubmitJob(script=script, target=target or Target(role="cpu"), **fields)
        )

    def start(self, job: str, node: str | None = None) -> None:
        node = node or self.fleet.jobs[job].node or ""
        self.put(self.event("event.job.started", JobStarted(job=job, node=node), actor=f"node:{node}"))

    def finish(self, job: str, outcome: str = "succeeded", node: str | None = None) -> None:
        known = self.fleet.job(job)
        node = node or (known.node if known else None) or ""
        data = JobFinished(job=job, node=node, outcome=outcome, duration=1.0)  # type: ignore[arg-type]
        self.put(self.event("event.job.finished", data, actor=f"node:{node}"))
        self.settle()

    def state(self, job: str) -> str:
        found = self.fleet.job(job)
        assert found is not None
        return found.state
