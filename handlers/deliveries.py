"""What goes into inboxes because of a fact. Pure: the loop sends it, once the fact was read back from the log."""

from collections.abc import Callable, Iterator
from types import MappingProxyType

from events.delivery import Delivery, PeriodicScript, RunJob, Standing, StopJob
from events.envelope import Event
from events.names import holds
from handlers.fleet import Fleet, Job, Node, Source

#: A routing key on `fleetbus.deliver`, and what goes there.
Parcel = tuple[str, Delivery]


def parcels(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    """What the admitted `event` at `offset` puts into inboxes; `fleet` is the state after it."""
    step = PARCELS.get(event.type)
    if step is not None:
        yield from step(fleet, event, offset)


def resend(fleet: Fleet, offset: int) -> Iterator[Parcel]:
    """Everything that is undone, for a new holder of the seat: what its predecessor sent nobody knows."""
    for node in fleet.nodes.values():
        yield from _everything(fleet, node, offset)


def _queued(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    job = fleet.jobs.get(event.data.job)
    if job is not None and job.state == "queued":
        yield _run(fleet, job)


def _batch(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    for one in event.data.jobs:
        job = fleet.jobs.get(one.job)
        if job is not None and job.state == "queued":
            yield _run(fleet, job)


def _cancel(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    for id in event.data.jobs or (event.data.job,):
        job = fleet.jobs.get(id)
        if job is not None and job.node is not None:
            yield _stop(job, event.id)


def _connected(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    node = fleet.nodes.get(event.data.node)
    if node is not None:
        yield from _everything(fleet, node, offset)


def _standing_of_one(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    node = fleet.nodes.get(event.data.node)
    if node is not None:
        yield _standing(fleet, node, offset)


def _standing_of_all(fleet: Fleet, event: Event, offset: int) -> Iterator[Parcel]:
    """A script changed. Only nodes that could run it by themselves need to know."""
    name = event.data.name
    if not any(_starts_itself(source) for source in _versions(fleet, name)):
        return
    for node in fleet.nodes.values():
        if node.online:
            yield _standing(fleet, node, offset)


PARCELS: MappingProxyType[str, Callable[[Fleet, Event, int], Iterator[Parcel]]] = MappingProxyType(
    {
        "event.job.queued": _queued,
        "event.batch.created": _batch,
        "event.job.cancel_requested": _cancel,
        "event.node.connected": _connected,
        "event.node.roles_set": _standing_of_one,
        "event.node.maintenance_set": _standing_of_one,
        "event.node.removed": _standing_of_one,
        "event.script.published": _standing_of_all,
        "event.script.retired": _standing_of_all,
    }
)


def _everything(fleet: Fleet, node: Node, offset: int) -> Iterator[Parcel]:
    """The node's standing, and all its unfinished deliveries."""
    yield _standing(fleet, node, offset)
    for job in fleet.jobs.values():
        if job.node != node.id or job.state == "waiting" or job.journal not in (None, node.journal):
            continue
        if job.cancel_requested:
            yield _stop(job, job.cause)
        elif job.state == "queued":
            yield _run(fleet, job)


def _run(fleet: Fleet, job: Job) -> Parcel:
    node = fleet.nodes.get(job.node or "")
    source = fleet.sources.get(job.order.hash)
    known = node is not None and job.order.hash in node.scripts
    delivery = RunJob(
        job=job.id,
        fact=job.cause,
        correlation=job.correlation,
        node=job.node or "",
        order=job.order,
        start_by=job.start_by,
        source=None if known or source is None else source.source,
    )
    return f"{job.node}.{job.via}", delivery


def _stop(job: Job, fact: str) -> Parcel:
    return f"{job.node}.node", StopJob(job=job.id, fact=fact, correlation=job.correlation)


def _standing(fleet: Fleet, node: Node, offset: int) -> Parcel:
    periodic = tuple(
        PeriodicScript(
            name=script.name, hash=script.hash, source=None if script.hash in node.scripts else source.source
        )
        for script in fleet.scripts.values()
        if not script.retired
        and (source := fleet.sources.get(script.hash)) is not None
        and _starts_itself(source)
        and _may_run(node, source)
    )
    standing = Standing(
        node=node.id,
        offset=offset,
        roles=node.roles,
        maintenance=node.maintenance,
        removed=node.removed,
        periodic=tuple(sorted(periodic, key=lambda script: script.name)),
    )
    return f"{node.id}.node", standing


def _starts_itself(source: Source) -> bool:
    header = source.header
    return header.enable and bool(header.period or header.startatboot)


def _may_run(node: Node, source: Source) -> bool:
    roles = source.header.roles
    return not roles or any(holds(node.roles, role) for role in roles)


def _versions(fleet: Fleet, name: str) -> Iterator[Source]:
    script = fleet.scripts.get(name)
    for hash in () if script is None else script.versions:
        source = fleet.sources.get(hash)
        if source is not None:
            yield source
