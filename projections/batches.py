"""The view of batches: what was asked for, and which jobs it became. How these stand is in the view of jobs."""

from collections.abc import Iterable

from events.envelope import Event
from events.job import BatchCreated, CancelRequested
from projections import retention
from projections.osis.documents import Document, Ttl
from projections.projection import Projection, moment, plain


def keys(event: Event) -> Iterable[str]:
    """A request to cancel that lists jobs is about the batch that it names."""
    match event.data:
        case BatchCreated(batch=batch):
            return (batch,)
        case CancelRequested(job=batch, jobs=jobs) if jobs:
            return (batch,)
        case _:
            return ()


def fold(batch: Document | None, event: Event, offset: int) -> Document | None:
    match event.data:
        case BatchCreated() as created if batch is None:
            return _created(created, event)
        case CancelRequested(reason=reason) if batch is not None and not batch["cancel_requested"]:
            return {**batch, "cancel_requested": True, "cancel_reason": reason}
        case _:
            return batch


def _created(batch: BatchCreated, event: Event) -> Document:
    order = batch.order
    return {
        "script": order.script,
        "hash": order.hash,
        "by": order.by,
        "params": order.params,
        "timeout": order.timeout,
        "target": plain(batch.target),
        "size": batch.size,
        "max_failures": batch.max_failures,
        "total": len(batch.jobs),
        "jobs": [{"job": one.job, "node": one.node} for one in batch.jobs],
        "created_at": moment(event.time),
        "start_by": moment(batch.start_by),
        "cancel_requested": False,
        "cancel_reason": "",
        "correlation": event.correlationid,
    }


BATCHES = Projection(
    name="batches",
    version=1,
    handles=frozenset({"event.batch.created", "event.job.cancel_requested"}),
    keys=keys,
    fold=fold,
    indexes=(("-created_at",), ("script", "-created_at")),
    ttl=Ttl("created_at", retention.BATCHES),
)
