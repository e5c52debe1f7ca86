"""The view of jobs: one document for each run of a script on a node.

    waiting → queued → started → succeeded | failed | timed_out | cancelled | expired | lost

The facts of a job may be folded in any order: each one fills a place of its own (`_queued`, `_started`, …), of two that
want the same place the earlier in the log wins, and the state is read off the places (`_settle`). Three rules:

1. The job ends by its first ending fact in log order, except that the agent's `finished` replaces what the decider only
   inferred (`expired`, `lost`) and makes it `late`. Nothing replaces `finished`.
2. `cancel_requested` ends a job that no node has yet; otherwise its agent answers.
3. Only the node that the decider named may speak of the job. Until it has named one, the first agent that speaks
   counts, and what others say is laid aside (`_parked`), because they may turn out to be the one.

Fields that begin with `_` are the fold's own. The file is longer than others because the rules hold only together.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events.envelope import Event
from events.job import (
    BatchCreated,
    CancelRequested,
    JobExpired,
    JobFinished,
    JobLost,
    JobQueued,
    JobStarted,
    JobWaiting,
    Order,
    OwnRun,
    Target,
)
from projections import retention
from projections.osis.documents import Document, Ttl
from projections.projection import Projection, moment, optional_moment

#: Facts kept in `history`: the first and the last ones, so many of each.
FIRST_FACTS, LAST_FACTS = 10, 20
#: Nodes whose word is laid aside for one job.
MAX_PARKED = 4
#: What the decider can only infer; the agent's own word replaces it.
INFERRED = frozenset({"expired", "lost"})

#: What was asked for: set by the first fact that says it.
_NO_ORDER: Document = {
    "script": None,
    "hash": None,
    "by": None,
    "params": {},
    "timeout": None,
    "retries": 0,
    "retry_of": None,
    "batch": None,
    "target": {},
    "correlation": None,
    "submitted_at": None,
}
#: What the job's agent says, as far as nothing was said.
_NO_RUN: Document = {
    "began_at": None,
    "duration": None,
    "result": None,
    "result_blob": None,
    "failure": None,
    "output": None,
    "_started": None,
    "_finished": None,
    "_own": None,
}
_NEW: Document = {
    "state": "waiting",
    "cancel_requested": False,
    **_NO_ORDER,
    "node": None,
    "via": None,
    "start_by": None,
    "queued_at": None,
    "received_at": None,
    "accepted_at": None,
    "started_at": None,
    "ended_at": None,
    "reason": "",
    "place": None,
    "late": False,
    "own_slot": None,
    "history": [],
    **_NO_RUN,
    "_ordered": None,
    "_waiting": None,
    "_queued": None,
    "_cancel": None,
    "_inferred": None,
    "_named": False,
    "_parked": {},
}


class Placed(Struct, frozen=True, kw_only=True):
    """What a batch says of one of its jobs. With a `reason` the job waits for its turn on the node."""

    job: str
    order: Order
    target: Target
    node: str
    via: str
    start_by: datetime
    reason: str
    place: int


def split(event: Event) -> Iterable[Event]:
    """One event for each job that it is about."""
    match event.data:
        case BatchCreated() as batch:
            return [replace(event, data=placed) for placed in _placed(batch)]
        case CancelRequested(jobs=jobs, reason=reason) if jobs:
            return [replace(event, data=CancelRequested(job=job, reason=reason)) for job in jobs]
        case _:
            return (event,)


def _placed(batch: BatchCreated) -> Iterable[Placed]:
    place = 0
    for one in batch.jobs:
        place += bool(one.reason)
        yield Placed(
            job=one.job,
            order=batch.order,
            target=batch.target,
            node=one.node,
            via=one.via,
            start_by=batch.start_by,
            reason=one.reason,
            place=place,
        )


def keys(event: Event) -> Iterable[str]:
    return (event.data.job,)


def fold(job: Document | None, event: Event, offset: int) -> Document | None:
    return fold_many(job, [(event, offset)])[0]


def fold_many(job: Document | None, said: Sequence[tuple[Event, int]]) -> tuple[Document | None, int]:
    """Nothing in the old document is changed: the new one begins as its shallow copy. No step looks at what is read
    off the places, so that is done once.
    """
    after, last = dict(job or _NEW), -1
    for event, offset in said:
        if _STEPS[type(event.data)](after, event, offset):
            _remember(after, event, offset)
            last = offset
    if last < 0:
        return job, last
    _settle(after)
    return after, last


# ------------------------------------------------------------------ what the decider says


def _on_waiting(job: Document, event: Event, offset: int) -> bool:
    data: JobWaiting = event.data
    _order(job, data.order, data.target, event, offset)
    _wait(job, event, offset, None)
    return True


def _wait(job: Document, event: Event, offset: int, via: str | None) -> None:
    """The last word on why it waits counts."""
    if job["_waiting"] is None or job["_waiting"]["offset"] < offset:
        data: JobWaiting | Placed = event.data
        said = {"reason": data.reason, "place": data.place, "via": via, "start_by": moment(data.start_by)}
        job["_waiting"] = {"offset": offset, **said}


def _on_queued(job: Document, event: Event, offset: int) -> bool:
    data: JobQueued | Placed = event.data
    _order(job, data.order, data.target, event, offset)
    _name(job, data.node)
    _first(job, "_queued", offset, time=moment(event.time), via=data.via, start_by=moment(data.start_by))
    return True


def _on_placed(job: Document, event: Event, offset: int) -> bool:
    data: Placed = event.data
    if not data.reason:
        return _on_queued(job, event, offset)
    _order(job, data.order, data.target, event, offset)
    _name(job, data.node)
    _wait(job, event, offset, data.via)
    return True


def _on_cancel_requested(job: Document, event: Event, offset: int) -> bool:
    _first(job, "_cancel", offset, state="cancelled", time=moment(event.time), reason=event.data.reason)
    return True


def _on_expired(job: Document, event: Event, offset: int) -> bool:
    _first(job, "_inferred", offset, state="expired", time=moment(event.time), reason=event.data.reason)
    return True


def _on_lost(job: Document, event: Event, offset: int) -> bool:
    _first(job, "_inferred", offset, state="lost", time=moment(event.time), reason=event.data.reason)
    return True


def _first(job: Document, place: str, offset: int, **said: Any) -> bool:
    """Fills a place, unless an earlier fact of the log has."""
    if job[place] is not None and job[place]["offset"] <= offset:
        return False
    job[place] = {"offset": offset, **said}
    return True


def _order(job: Document, order: Order, target: Target, event: Event, offset: int) -> None:
    if job["_ordered"] is None or offset < job["_ordered"]:
        job["_ordered"] = offset
        job.update(_ordered(order, target, event))


def _ordered(order: Order, target: Target, event: Event) -> Document:
    return {
        "script": order.script,
        "hash": order.hash,
        "by": order.by,
        "params": order.params,
        "timeout": order.timeout,
        "retries": order.retries,
        "retry_of": order.retry_of,
        "batch": order.batch,
        "target": _where(target),
        "correlation": event.correlationid,
        "submitted_at": moment(event.time),
    }


def _where(target: Target) -> Document:
    where: Document = msgspec.to_builtins(target)
    return {**where, "nodes": list(target.nodes)} if target.nodes else where


def _name(job: Document, node: str) -> None:
    """From now on only this node may speak of the job."""
    _listen_to(job, node)
    job["_named"], job["_parked"] = True, {}
    if any(fact.get("node", node) != node for fact in job["history"]):
        job["history"] = [fact for fact in job["history"] if fact.get("node", node) == node]


# -------------------------------------------------------------------- what the agent says


def _on_started(job: Document, event: Event, offset: int) -> bool:
    return _heard(job, event, offset, _start)


def _start(job: Document, event: Event, offset: int) -> None:
    data: JobStarted = event.data
    _first(
        job,
        "_started",
        offset,
        time=moment(event.time),
        received=optional_moment(data.received),
        accepted=optional_moment(data.accepted),
    )


def _on_finished(job: Document, event: Event, offset: int) -> bool:
    return _heard(job, event, offset, _finish)


def _finish(job: Document, event: Event, offset: int) -> None:
    data: JobFinished = event.data
    if not _first(job, "_finished", offset, state=data.outcome, time=moment(event.time)):
        return
    failure, output = data.failure, data.output
    job["began_at"], job["duration"] = optional_moment(data.began), data.duration
    job["result"], job["result_blob"] = data.result, data.result_blob
    job["failure"] = None if failure is None else {"error": failure.error, "traceback": failure.traceback}
    job["output"] = {
        "blob": output.blob,
        "lines": output.lines,
        "size": output.size,
        "dropped": output.dropped,
        "tail": output.tail,
    }


def _heard(job: Document, event: Event, offset: int, take: Callable[[Document, Event, int], None]) -> bool:
    """Takes an agent at its word, if it is the job's."""
    node = event.actor.removeprefix("node:")
    if job["_named"] and node != job["node"]:
        return False
    _listen_to(job, node)
    take(job, event, offset)
    data: JobStarted | JobFinished = event.data
    if data.order is not None:
        _own(job, data.order, data.own, event, offset)
    if job["_parked"]:
        _listen_to_first(job)
    return True


def _own(job: Document, order: Order, own: OwnRun | None, event: Event, offset: int) -> None:
    target = Target(node=event.actor.removeprefix("node:"))
    slot = None if own is None else own.slot
    _first(job, "_own", offset, slot=slot, order=_ordered(order, target, event))


def _listen_to(job: Document, node: str) -> None:
    """What another node said is laid aside, and what this one said is taken up again."""
    if job["node"] == node:
        return
    parked = dict(job["_parked"])
    if job["node"] is not None:
        parked[job["node"]] = {name: job[name] for name in _NO_RUN}
    job.update(parked.pop(node, _NO_RUN))
    job["node"], job["_parked"] = node, parked


def _listen_to_first(job: Document) -> None:
    """Of several agents that speak of the job, the one that did so first in the log is listened to."""
    said = {**job["_parked"], job["node"]: job}
    in_order = sorted(said, key=lambda node: _spoke_at(said[node]))
    _listen_to(job, in_order[0])
    job["_parked"] = {node: job["_parked"][node] for node in in_order[1 : 1 + MAX_PARKED]}


def _spoke_at(run: Document) -> int:
    return min(int(run[place]["offset"]) for place in ("_started", "_finished") if run[place] is not None)


# -------------------------------------------------------------- what follows from all of it


def _remember(job: Document, event: Event, offset: int) -> None:
    fact = {"type": event.type, "time": moment(event.time), "offset": offset, "event": event.id}
    if event.actor.startswith("node:"):
        fact["node"] = event.actor.removeprefix("node:")
    history = [*job["history"], fact]
    if len(history) > 1 and history[-2]["offset"] > offset:
        history.sort(key=lambda fact: fact["offset"])
    if len(history) > FIRST_FACTS + LAST_FACTS:
        del history[FIRST_FACTS:-LAST_FACTS]
    job["history"] = history


def _settle(job: Document) -> None:
    """Reads the view off the places."""
    own, queued, waiting, started = job["_own"], job["_queued"], job["_waiting"], job["_started"]
    if job["_ordered"] is None:
        job.update(_NO_ORDER if own is None else own["order"])
    placed = queued or waiting or {"via": None, "start_by": None}
    end = _end(job)
    job["state"] = end["state"] if end else "started" if started else "queued" if queued else "waiting"
    job["cancel_requested"] = job["_cancel"] is not None
    job["via"], job["start_by"] = placed["via"], placed["start_by"]
    job["queued_at"] = queued and queued["time"]
    job["received_at"], job["accepted_at"] = started and started["received"], started and started["accepted"]
    job["started_at"] = started and started["time"]
    job["ended_at"] = end and end["time"]
    job["late"] = bool(end and end is job["_finished"] and _inferred_before(job, end))
    job["own_slot"] = own and own["slot"]
    waits = waiting if job["state"] == "waiting" else None
    job["reason"] = (end or waits or {}).get("reason", "")
    job["place"] = waits and waits["place"]


def _end(job: Document) -> Document | None:
    """The fact that ended the job: rules 1 and 2."""
    ends: list[Document] = [end for end in (job["_inferred"], _cancelled(job)) if end]
    decided = min(ends, key=lambda end: int(end["offset"]), default=None)
    finished: Document | None = job["_finished"]
    if finished is None or decided is None:
        return finished or decided
    replaces = decided["state"] in INFERRED or finished["offset"] < decided["offset"]
    return finished if replaces else decided


def _cancelled(job: Document) -> Document | None:
    """The request to cancel, if no node had the job at that point of the log."""
    cancel: Document | None = job["_cancel"]
    if cancel is None:
        return None
    taken = [job[place]["offset"] for place in ("_queued", "_started", "_finished") if job[place] is not None]
    return None if taken and min(taken) < cancel["offset"] else cancel


def _inferred_before(job: Document, end: Document) -> bool:
    return job["_inferred"] is not None and job["_inferred"]["offset"] < end["offset"]


_STEPS: dict[type[Struct], Callable[[Document, Event, int], bool]] = {
    JobWaiting: _on_waiting,
    JobQueued: _on_queued,
    Placed: _on_placed,
    CancelRequested: _on_cancel_requested,
    JobExpired: _on_expired,
    JobLost: _on_lost,
    JobStarted: _on_started,
    JobFinished: _on_finished,
}

JOBS = Projection(
    name="jobs",
    version=2,
    handles=frozenset(
        {
            "event.job.waiting",
            "event.job.queued",
            "event.batch.created",
            "event.job.cancel_requested",
            "event.job.expired",
            "event.job.lost",
            "event.job.started",
            "event.job.finished",
        }
    ),
    split=split,
    keys=keys,
    fold=fold,
    fold_many=fold_many,
    indexes=(
        ("-submitted_at",),
        ("state", "-submitted_at"),
        ("node", "-submitted_at"),
        ("script", "-submitted_at"),
        ("batch", "state"),
        ("retry_of",),
        ("-ended_at",),
    ),
    scan=(
        *("state", "script", "node", "by", "submitted_at", "started_at", "ended_at", "duration"),
        *("batch", "retry_of", "correlation"),
    ),
    ttl=Ttl("ended_at", retention.JOBS),
)
