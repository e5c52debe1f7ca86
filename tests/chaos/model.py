"""What became of each job and node by the facts that count, in a few lines: the design's section 6 a second time."""

from collections.abc import Iterable

from msgspec import Struct, field

from tests.chaos.referee import Fact

#: What the decider can only infer; the agent's own word replaces it.
INFERRED = ("expired", "lost")


class Job(Struct):
    """One job. Each list holds (offset, what) in log order."""

    id: str
    node: str | None = None
    asked: int | None = None
    queued: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)
    strangers: list[int] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.ends:
            own = [word for _, word in self.ends if word not in INFERRED]
            first = self.ends[0][1]
            return own[0] if first in INFERRED and own else first
        return "started" if self.started else "queued" if self.queued else "waiting"

    @property
    def too_many_ends(self) -> bool:
        """One end; or the agent's own word after what was inferred."""
        words = [word for _, word in self.ends]
        return len(words) > 1 and not (len(words) == 2 and words[0] in INFERRED and words[1] not in INFERRED)


class Fleet(Struct):
    jobs: dict[str, Job] = field(default_factory=dict)
    #: Node -> "online" or "offline"; its agent's start.
    nodes: dict[str, str] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)

    def since(self, offset: int) -> list[Job]:
        """Jobs that were first spoken of at this offset or later, the latest first."""
        found = []
        for job in reversed(self.jobs.values()):
            if job.asked is not None and job.asked < offset:
                break
            found.append(job)
        return found


def follow(facts: Iterable[Fact]) -> Fleet:
    """The fleet after these facts; those that do not count change nothing."""
    fleet = Fleet()
    for fact in facts:
        if fact.verdict == "counts":
            step(fleet, fact)
    return fleet


def step(fleet: Fleet, fact: Fact) -> None:
    """One fact that counts."""
    kind = fact.type.removeprefix("event.")
    if kind == "batch.created":
        for one in fact.data["jobs"]:
            job = _job(fleet, one["job"], fact)
            job.node = one["node"]
            if not one.get("reason"):
                job.queued.append(fact.offset)
    elif kind in ("job.waiting", "job.queued"):
        job = _job(fleet, fact.job, fact)
        if kind == "job.queued":
            job.node = fact.data["node"]
            job.queued.append(fact.offset)
    elif kind == "job.cancel_requested":
        for id in fact.data.get("jobs") or [fact.job]:
            _cancel(fleet.jobs.get(id), fact)
    elif kind.startswith("job."):
        _of_job(_job(fleet, fact.job, fact), kind, fact)
    elif kind.startswith("node."):
        _of_node(fleet, kind, fact)


def _job(fleet: Fleet, id: str, fact: Fact) -> Job:
    job = fleet.jobs.setdefault(id, Job(id))
    job.asked = fact.offset if job.asked is None else job.asked
    return job


def _cancel(job: Job | None, fact: Fact) -> None:
    """It ends the job that no node has yet; else the agent answers."""
    if job is not None and not job.queued and not job.ends:
        job.ends.append((fact.offset, "cancelled"))


def _of_job(job: Job, kind: str, fact: Fact) -> None:
    if kind in ("job.expired", "job.lost"):
        job.ends.append((fact.offset, kind.removeprefix("job.")))
    elif fact.user != f"node.{job.node}":
        job.strangers.append(fact.offset)
    elif kind == "job.started":
        job.started.append(fact.offset)
    elif kind == "job.finished":
        job.ends.append((fact.offset, fact.data["outcome"]))


def _of_node(fleet: Fleet, kind: str, fact: Fact) -> None:
    node, known = fact.data.get("node", ""), fact.data.get("node") in fleet.nodes
    if kind == "node.connected":
        fleet.nodes[node], fleet.boots[node] = "online", fact.data["boot"]
    elif kind == "node.online" and known:
        fleet.nodes[node] = "online"
    elif (kind == "node.offline" and known) or (
        kind == "node.disconnected" and fleet.boots.get(node) == fact.data["boot"]
    ):
        fleet.nodes[node] = "offline"
