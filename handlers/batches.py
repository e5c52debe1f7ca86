"""Deciding about batches: one fact makes all the jobs, and they go out in turns.

Not in a turn yet, a job waits; `due` gives the next ones their turn when others end, unless too many failed.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec.structs import replace

from events.envelope import Event, derived_id
from events.job import BatchCreated, BatchJob, CancelRequested, Order, Rollout, Target
from handlers.fleet import Batch, Fact, Fleet, Job, Node

#: Makes the fact `event.job.queued`; the jobs' decider hands its own in.
Queue = Callable[[str, Order, Target, Node, datetime, str, str, str | None], Fact]


def create(
    id: str, order: Order, target: Target, nodes: tuple[Node, ...], start_by: datetime, rollout: Rollout | None
) -> BatchCreated:
    """The batch with one job per node; the first turn is queued at once."""
    size = _size(rollout, len(nodes))
    jobs = []
    turn = 0
    for node in nodes:
        reason = _why_not_now(node, turn, size)
        turn += not reason
        via = node.held(target.role) if target.role is not None else "node"
        jobs.append(BatchJob(job=derived_id(id, node.id), node=node.id, via=via, reason=reason))
    failures = None if rollout is None else rollout.max_failures
    return BatchCreated(
        batch=id, order=order, target=target, start_by=start_by, jobs=tuple(jobs), size=size, max_failures=failures
    )


def _size(rollout: Rollout | None, total: int) -> int:
    """Jobs that may be unfinished at a time; 0 for all. A percentage is rounded up, so that it is never none."""
    if rollout is None:
        return 0
    if rollout.percent is not None:
        return max(1, math.ceil(total * rollout.percent / 100))
    return rollout.size or 0


def _why_not_now(node: Node, turn: int, size: int) -> str:
    if not node.online:
        return f"{node.id} is offline"
    if node.maintenance:
        return f"{node.id} is in maintenance"
    if size and turn >= size:
        return f"its turn has not come: {size} at a time"
    return ""


def due(fleet: Fleet, queue: Queue, now: datetime) -> list[Fact]:
    """Turns that have come, and what is left of batches that failed too often."""
    facts: list[Fact] = []
    for batch in fleet.batches.values():
        if not batch.waiting:
            continue
        facts += [_stop(batch, fleet)] if batch.stopped else _turns(fleet, batch, queue, now)
    return facts


def _stop(batch: Batch, fleet: Fleet) -> Fact:
    story = fleet.jobs[batch.waiting[0]].correlation
    reason = f"{batch.failures} jobs of the batch failed, more than {batch.max_failures}"
    said = CancelRequested(job=batch.id, jobs=batch.waiting, reason=reason)
    return Fact(
        type="event.job.cancel_requested",
        subject=batch.id,
        data=said,
        cause=batch.cause,
        part="max_failures",
        story=story,
    )


def _turns(fleet: Fleet, batch: Batch, queue: Queue, now: datetime) -> list[Fact]:
    facts: list[Fact] = []
    for id in batch.waiting:
        if len(facts) >= batch.room:
            break
        job = fleet.jobs[id]
        node = fleet.nodes.get(job.node or "")
        if node is not None and node.ready:
            start_by = now + batch.within
            facts.append(queue(id, job.order, job.target, node, start_by, job.cause, "queued:" + id, job.correlation))
    return facts


def on_created(fleet: Fleet, event: Event) -> Fleet:
    data: BatchCreated = event.data
    if data.batch in fleet.batches:
        return fleet
    waiting = tuple(one.job for one in data.jobs if one.reason)
    batch = Batch(
        id=data.batch,
        within=max(timedelta(0), data.start_by - event.time),
        size=data.size,
        max_failures=data.max_failures,
        total=len(data.jobs),
        waiting=waiting,
        active=len(data.jobs) - len(waiting),
        cause=event.id,
    )
    jobs, nodes = fleet.jobs.mutate(), fleet.nodes.mutate()
    for one in data.jobs:
        node = nodes.get(one.node)
        jobs[one.job] = _job(data, one, event, None if node is None else node.journal)
        if node is not None and not one.reason:
            nodes[one.node] = replace(node, unfinished=node.unfinished + 1)
    return replace(fleet, jobs=jobs.finish(), nodes=nodes.finish(), batches=fleet.batches.set(batch.id, batch))


def _job(data: BatchCreated, one: BatchJob, event: Event, journal: str | None) -> Job:
    return Job(
        id=one.job,
        order=data.order,
        target=data.target,
        state="waiting" if one.reason else "queued",
        start_by=data.start_by,
        cause=event.id,
        correlation=event.correlationid,
        node=one.node,
        via=one.via,
        journal=None if one.reason else journal,
        reason=one.reason,
    )


def awaits_its_turn(fleet: Fleet, job: Job) -> bool:
    """Whether nothing but other jobs of its batch holds it back: then its time has not begun to run."""
    batch = fleet.batches.get(job.order.batch or "")
    node = fleet.nodes.get(job.node or "")
    return batch is not None and batch.room == 0 and node is not None and node.ready


def on_turn(fleet: Fleet, id: str | None, job: str) -> Fleet:
    """A job of the batch was queued."""
    batch = fleet.batches.get(id) if id is not None else None
    if batch is None or job not in batch.waiting:
        return fleet
    rest = tuple(other for other in batch.waiting if other != job)
    return _with(fleet, replace(batch, waiting=rest, active=batch.active + 1))


def on_end(fleet: Fleet, job: Job, state: str, event: Event) -> Fleet:
    """A job of the batch ended; the batch is forgotten with its last one."""
    batch = fleet.batches.get(job.order.batch) if job.order.batch is not None else None
    if batch is None:
        return fleet
    waited = job.id in batch.waiting
    batch = replace(
        batch,
        waiting=tuple(other for other in batch.waiting if other != job.id) if waited else batch.waiting,
        active=batch.active if waited else batch.active - 1,
        failures=batch.failures + (state != "succeeded" and not waited),
        cause=event.id,
    )
    if batch.active <= 0 and not batch.waiting:
        return replace(fleet, batches=fleet.batches.delete(batch.id))
    return _with(fleet, batch)


def _with(fleet: Fleet, batch: Batch) -> Fleet:
    return replace(fleet, batches=fleet.batches.set(batch.id, batch))
