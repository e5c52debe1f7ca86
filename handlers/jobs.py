"""Deciding about jobs: may it run, where, when, and how it ended.

waiting → queued → started → succeeded | failed | timed_out | cancelled | expired | lost

The end of a job is its first ending fact in log order, except that the agent's `finished` replaces what the decider
only inferred (`expired`, `lost`). Nothing replaces `finished`.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from events.envelope import Event, derived_id
from events.job import (
    CancelJob,
    CancelRequested,
    JobExpired,
    JobFinished,
    JobLost,
    JobQueued,
    JobStarted,
    JobWaiting,
    Order,
    RetryJob,
    SubmitJob,
    Target,
)
from events.parameters import check_params
from handlers import batches, placement
from handlers.fleet import INFERRED, Fact, Fleet, Job, JobState, Node, Rejection, Source, listing
from handlers.scripts import unknown_script

#: A job that did not start after this long will not start any more, unless the command says otherwise.
START_WITHIN = timedelta(hours=1)
#: The decider says `expired` this long after `start_by`: the agent's `started` may still be on its way.
EXPIRE_GRACE = timedelta(seconds=60)
#: Started jobs of a node that has been offline for this long are lost.
LOST_AFTER = timedelta(seconds=120)


class Plan(Struct, frozen=True):
    """A submitted job that may run: what, from which source, on one of these nodes."""

    order: Order
    source: Source
    target: Target
    nodes: tuple[Node, ...]
    start_by: datetime

    @property
    def fan_out(self) -> bool:
        """Whether it becomes a batch: one job on each of the nodes."""
        return self.target.all or bool(self.target.nodes)


def submit(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    plan = _plan(fleet, command, now)
    if isinstance(plan, Rejection):
        return plan
    data: SubmitJob = command.data
    if plan.fan_out:
        created = batches.create(command.id, plan.order, plan.target, plan.nodes, plan.start_by, data.rollout)
        return _said("event.batch.created", command.id, created, command.id, command.correlationid)
    return _place(fleet, command.id, plan.order, plan.target, plan.nodes, plan.start_by, command)


def _plan(fleet: Fleet, command: Event, now: datetime) -> Plan | Rejection:
    data: SubmitJob = command.data
    source = _source(fleet, data)
    if isinstance(source, Rejection):
        return source
    problems = check_params(source.header, data.params)
    if problems:
        exists = tuple(param.name for param in source.header.params)
        message = "; ".join(problem.message for problem in problems)
        return Rejection(
            reason="bad_params", message=message[:4000], field=f"params.{problems[0].param}", exists=exists
        )
    nodes = placement.eligible(fleet, data.target, source)
    if isinstance(nodes, Rejection):
        return nodes
    order = Order(
        script=data.script,
        hash=source.hash,
        by=command.actor,
        params=data.params,
        timeout=data.timeout if data.timeout is not None else source.header.timeout,
        retries=source.header.retries,
        batch=command.id if data.target.all or data.target.nodes else None,
    )
    within = START_WITHIN if data.start_within is None else timedelta(seconds=data.start_within)
    return Plan(order, source, data.target, tuple(nodes), now + within)


def _source(fleet: Fleet, data: SubmitJob) -> Source | Rejection:
    script = fleet.scripts.get(data.script)
    if script is None or script.retired:
        return unknown_script(fleet, data.script, "script")
    wanted = data.hash or script.hash
    source = fleet.sources.get(wanted)
    if source is None or wanted not in script.versions:
        return Rejection(
            reason="unknown_script",
            message=f"{data.script!r} has no version {wanted[:12]}; there are: {listing(script.versions)}",
            field="hash",
            exists=script.versions,
        )
    return source


def _place(
    fleet: Fleet, id: str, order: Order, target: Target, nodes: Iterable[Node], start_by: datetime, cause: Event
) -> Fact:
    """The job's first fact: queued on the least busy node that is ready, or waiting, and why."""
    candidates = list(nodes)
    node = placement.least_busy(candidates)
    if node is not None:
        return _queued(id, order, target, node, start_by, cause.id, "outcome", cause.correlationid)
    place = 1 + sum(fleet.jobs[other].target == target for other in fleet.waiting)
    waiting = JobWaiting(
        job=id, order=order, target=target, start_by=start_by, reason=placement.why_waiting(candidates), place=place
    )
    return _said("event.job.waiting", id, waiting, cause.id, cause.correlationid)


def _queued(
    id: str, order: Order, target: Target, node: Node, start_by: datetime, cause: str, part: str, story: str | None
) -> Fact:
    via = node.held(target.role) if target.role is not None else "node"
    queued = JobQueued(job=id, order=order, target=target, node=node.id, via=via, start_by=start_by)
    return Fact(type="event.job.queued", subject=id, data=queued, cause=cause, part=part, story=story)


def _said(type: str, subject: str, data: Struct, cause: str, story: str | None) -> Fact:
    return Fact(type=type, subject=subject, data=data, cause=cause, part="outcome", story=story)


def cancel(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: CancelJob = command.data
    if data.job in fleet.batches:
        jobs = tuple(job.id for job in fleet.jobs.values() if job.order.batch == data.job)
        said = CancelRequested(job=data.job, jobs=jobs, reason=f"asked for by {command.actor}")
        return _said("event.job.cancel_requested", data.job, said, command.id, command.correlationid)
    job = fleet.job(data.job)
    if job is None or job.id not in fleet.jobs:
        return _not_running(job, data.job)
    said = CancelRequested(job=job.id, jobs=(job.id,), reason=f"asked for by {command.actor}")
    return _said("event.job.cancel_requested", job.id, said, command.id, command.correlationid)


def _not_running(job: Job | None, id: str) -> Rejection:
    if job is None:
        return Rejection(
            reason="unknown_job",
            message=f"there is no unfinished job or batch {id}; see `fleetbus job list`",
            field="job",
        )
    return Rejection(reason="conflict", message=f"the job has ended already: it is {job.state}", field="job")


def retry(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: RetryJob = command.data
    job = fleet.job(data.job)
    if job is None:
        return Rejection(
            reason="unknown_job",
            message=f"{data.job} is no job, or one that ended too long ago to be repeated; submit it anew",
            field="job",
        )
    if job.id in fleet.jobs:
        return Rejection(reason="conflict", message=f"the job has not ended yet: it is {job.state}", field="job")
    return _again(fleet, job, command.id, command, now, replace(job.order, by=command.actor))


def _again(fleet: Fleet, job: Job, id: str, cause: Event, now: datetime, order: Order) -> Fact | Rejection:
    source = fleet.sources.get(order.hash)
    if source is None:
        return Rejection(reason="unknown_script", message="the source that it ran is not kept any more", field="job")
    target = job.target if job.order.batch is None else Target(node=job.node)
    nodes = placement.eligible(fleet, target, source)
    if isinstance(nodes, Rejection):
        return nodes
    order = replace(order, retry_of=job.id, batch=None)
    return _place(fleet, id, order, target, nodes, now + START_WITHIN, cause)


# what time and changes bring about


def due(fleet: Fleet, now: datetime) -> list[Fact]:
    """Facts that follow from the state: waiting jobs that can be placed, turns in batches, runs that are repeated."""
    return [*_placed(fleet), *batches.due(fleet, _queued, now), *_repeated(fleet, now)]


def _placed(fleet: Fleet) -> list[Fact]:
    facts: list[Fact] = []
    stuck: set[tuple[Target, str]] = set()
    added: dict[str, int] = {}
    for id in fleet.waiting:
        job = fleet.jobs[id]
        if (job.target, job.order.hash) in stuck:
            continue
        node = _free_node(fleet, job, added)
        if node is None:
            stuck.add((job.target, job.order.hash))
            continue
        added[node.id] = added.get(node.id, 0) + 1
        facts.append(_queued(id, job.order, job.target, node, job.start_by, job.cause, "queued", job.correlation))
    return facts


def _free_node(fleet: Fleet, job: Job, added: dict[str, int]) -> Node | None:
    source = fleet.sources.get(job.order.hash)
    nodes = [] if source is None else placement.eligible(fleet, job.target, source)
    if isinstance(nodes, Rejection):
        return None
    return placement.least_busy(replace(node, unfinished=node.unfinished + added.get(node.id, 0)) for node in nodes)


def _repeated(fleet: Fleet, now: datetime) -> list[Fact]:
    facts = []
    for id in fleet.to_retry:
        job = fleet.ended.get(id)
        if job is not None:
            facts.append(_repeat(fleet, job, now))
    return facts


def _repeat(fleet: Fleet, job: Job, now: datetime) -> Fact:
    """A run that failed is run again as a new job; `retries` counts what is left."""
    id = derived_id(job.id, "retry")
    order = replace(job.order, retries=job.order.retries - 1, retry_of=job.id, batch=None)
    target = Target(node=job.node) if job.order.batch is not None else job.target
    source = fleet.sources.get(order.hash)
    nodes = [] if source is None else placement.eligible(fleet, target, source)
    candidates = [] if isinstance(nodes, Rejection) else nodes
    node = placement.least_busy(candidates)
    start_by = now + START_WITHIN
    if node is not None:
        return _queued(id, order, target, node, start_by, job.cause, "retry", job.correlation)
    waiting = JobWaiting(
        job=id, order=order, target=target, start_by=start_by, reason=placement.why_waiting(candidates)
    )
    return Fact(
        type="event.job.waiting", subject=id, data=waiting, cause=job.cause, part="retry", story=job.correlation
    )


def overdue(fleet: Fleet, now: datetime, presence_known: bool) -> list[Fact]:
    """Facts that a clock brings about. Nothing is lost while nobody knows who is there (`presence_known`)."""
    facts = []
    for job in fleet.jobs.values():
        fact = _overdue(fleet, job, now, presence_known)
        if fact is not None:
            facts.append(fact)
    return facts


def _overdue(fleet: Fleet, job: Job, now: datetime, presence_known: bool) -> Fact | None:
    if job.state == "waiting" and now > job.start_by and not batches.awaits_its_turn(fleet, job):
        return _timer(job, "expired", JobExpired(job=job.id, reason=f"it waited until its start_by; {job.reason}"))
    if job.state == "queued" and now > job.start_by + EXPIRE_GRACE:
        return _timer(job, "expired", JobExpired(job=job.id, reason=f"{job.node} did not start it by its start_by"))
    node = fleet.nodes.get(job.node or "")
    if node is None or job.state == "waiting":
        return None
    reason = _lost(job, node, now, presence_known)
    return None if reason is None else _timer(job, "lost", JobLost(job=job.id, node=node.id, reason=reason))


def _lost(job: Job, node: Node, now: datetime, presence_known: bool) -> str | None:
    if node.removed:
        return f"{node.id} was removed from the fleet"
    if job.journal is not None and node.journal != job.journal:
        return f"{node.id} came back without its journal, so nobody can tell whether the job ran"
    gone = node.offline_since is not None and now > node.offline_since + LOST_AFTER
    if job.state == "started" and gone and presence_known:
        return f"{node.id} has been offline for more than {LOST_AFTER.total_seconds():.0f} seconds"
    return None


def _timer(job: Job, word: str, data: Struct) -> Fact:
    return Fact(type=f"event.job.{word}", subject=job.id, data=data, cause=job.cause, part=word, story=job.correlation)


# what facts change


def on_waiting(fleet: Fleet, event: Event) -> Fleet:
    data: JobWaiting = event.data
    if fleet.job(data.job) is not None:
        return fleet
    job = Job(
        id=data.job,
        order=data.order,
        target=data.target,
        state="waiting",
        start_by=data.start_by,
        cause=event.id,
        correlation=event.correlationid,
        reason=data.reason,
    )
    fleet = _forget_retry(fleet, data.order)
    return replace(fleet, jobs=fleet.jobs.set(job.id, job), waiting=fleet.waiting.set(job.id, None))


def on_queued(fleet: Fleet, event: Event) -> Fleet:
    data: JobQueued = event.data
    before = fleet.job(data.job)
    if before is not None and before.state != "waiting":
        return fleet
    node = fleet.nodes.get(data.node)
    job = Job(
        id=data.job,
        order=data.order,
        target=data.target,
        state="queued",
        start_by=data.start_by,
        cause=event.id,
        correlation=event.correlationid,
        node=data.node,
        via=data.via,
        journal=None if node is None else node.journal,
        cancel_requested=before.cancel_requested if before else False,
    )
    fleet = _forget_retry(_no_longer_waiting(fleet, job.id), data.order)
    fleet = batches.on_turn(fleet, data.order.batch, job.id)
    return _busier(replace(fleet, jobs=fleet.jobs.set(job.id, job)), data.node, +1)


def on_started(fleet: Fleet, event: Event) -> Fleet:
    data: JobStarted = event.data
    job = fleet.jobs.get(data.job)
    if job is None:
        return _own_run(fleet, event) if data.own is not None else fleet
    if job.node != data.node or job.state == "waiting":
        return fleet
    job = replace(job, state="started", cause=event.id)
    return _knows(replace(fleet, jobs=fleet.jobs.set(job.id, job)), data.node, job.order.hash)


def _own_run(fleet: Fleet, event: Event) -> Fleet:
    data: JobStarted = event.data
    if data.order is None or fleet.job(data.job) is not None:
        return fleet
    node = fleet.nodes.get(data.node)
    job = Job(
        id=data.job,
        order=data.order,
        target=Target(node=data.node),
        state="started",
        start_by=event.time,
        cause=event.id,
        correlation=event.correlationid,
        node=data.node,
        journal=None if node is None else node.journal,
    )
    return _busier(replace(fleet, jobs=fleet.jobs.set(job.id, job)), data.node, +1)


def on_finished(fleet: Fleet, event: Event) -> Fleet:
    data: JobFinished = event.data
    ended = fleet.ended.get(data.job)
    if ended is not None and ended.state in INFERRED and ended.node == data.node:
        return replace(fleet, ended=fleet.ended.add(ended.id, replace(ended, state=data.outcome, cause=event.id)))
    job = fleet.jobs.get(data.job)
    if job is None or job.node != data.node or job.state == "waiting":
        return fleet
    return _end(fleet, job, data.outcome, event)


def on_expired(fleet: Fleet, event: Event) -> Fleet:
    return _ended_by_decider(fleet, event, "expired")


def on_lost(fleet: Fleet, event: Event) -> Fleet:
    return _ended_by_decider(fleet, event, "lost")


def _ended_by_decider(fleet: Fleet, event: Event, state: JobState) -> Fleet:
    job = fleet.jobs.get(event.data.job)
    return fleet if job is None else _end(fleet, job, state, event)


def on_cancel_requested(fleet: Fleet, event: Event) -> Fleet:
    data: CancelRequested = event.data
    for id in data.jobs or (data.job,):
        job = fleet.jobs.get(id)
        if job is None:
            continue
        if job.state == "waiting":
            fleet = _end(fleet, job, "cancelled", event)
        else:
            fleet = replace(fleet, jobs=fleet.jobs.set(id, replace(job, cancel_requested=True)))
    return fleet


def _end(fleet: Fleet, job: Job, state: JobState, event: Event) -> Fleet:
    ended = replace(job, state=state, cause=event.id)
    again = state == "failed" and job.order.retries > 0 and not job.cancel_requested
    fleet = replace(
        _no_longer_waiting(fleet, job.id),
        jobs=fleet.jobs.delete(job.id),
        ended=fleet.ended.add(job.id, ended),
        to_retry=fleet.to_retry.set(job.id, None) if again else fleet.to_retry,
    )
    fleet = batches.on_end(fleet, job, state, event)
    return fleet if job.node is None or job.state == "waiting" else _busier(fleet, job.node, -1)


def _no_longer_waiting(fleet: Fleet, id: str) -> Fleet:
    return replace(fleet, waiting=fleet.waiting.delete(id)) if id in fleet.waiting else fleet


def _forget_retry(fleet: Fleet, order: Order) -> Fleet:
    if order.retry_of is None or order.retry_of not in fleet.to_retry:
        return fleet
    return replace(fleet, to_retry=fleet.to_retry.delete(order.retry_of))


def _busier(fleet: Fleet, id: str, by: int) -> Fleet:
    node = fleet.nodes.get(id)
    return fleet if node is None else fleet.with_node(replace(node, unfinished=max(0, node.unfinished + by)))


def _knows(fleet: Fleet, id: str, hash: str) -> Fleet:
    node = fleet.nodes.get(id)
    if node is None or hash in node.scripts:
        return fleet
    return fleet.with_node(replace(node, scripts=node.scripts | {hash}))
