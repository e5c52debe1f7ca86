"""The decider: which command and which fact goes where, on one screen. Pure.

    decide(fleet, command, now) -> fact | rejection
    due(fleet, now)             -> facts
    evolve(fleet, event)        -> fleet

One command, one record: the outcome is exactly one fact, or the one fact `event.command.rejected`.
"""

from collections.abc import Callable
from datetime import datetime
from types import MappingProxyType

from msgspec.structs import replace

from events.envelope import Event, derived_id
from events.seat import CommandRejected
from handlers import batches, jobs, nodes, scripts
from handlers.fleet import Decided, Fact, Fleet, OpenCommand, Rejection

Decide = Callable[[Fleet, Event, datetime], Fact | Rejection]
Evolve = Callable[[Fleet, Event], Fleet]

DECIDE: MappingProxyType[str, Decide] = MappingProxyType(
    {
        "command.job.submit": jobs.submit,
        "command.job.cancel": jobs.cancel,
        "command.job.retry": jobs.retry,
        "command.script.publish": scripts.publish,
        "command.script.retire": scripts.retire,
        "command.node.maintenance": nodes.maintenance,
        "command.node.roles": nodes.roles,
        "command.node.invite": nodes.invite,
        "command.node.join": nodes.join,
        "command.node.remove": nodes.remove,
    }
)

EVOLVE: MappingProxyType[str, Evolve] = MappingProxyType(
    {
        "event.script.published": scripts.on_published,
        "event.script.retired": scripts.on_retired,
        "event.node.connected": nodes.on_connected,
        "event.node.disconnected": nodes.on_disconnected,
        "event.node.offline": nodes.on_offline,
        "event.node.online": nodes.on_online,
        "event.node.maintenance_set": nodes.on_maintenance_set,
        "event.node.roles_set": nodes.on_roles_set,
        "event.node.invited": nodes.on_invited,
        "event.node.joined": nodes.on_joined,
        "event.node.removed": nodes.on_removed,
        "event.job.waiting": jobs.on_waiting,
        "event.job.queued": jobs.on_queued,
        "event.batch.created": batches.on_created,
        "event.job.cancel_requested": jobs.on_cancel_requested,
        "event.job.started": jobs.on_started,
        "event.job.finished": jobs.on_finished,
        "event.job.expired": jobs.on_expired,
        "event.job.lost": jobs.on_lost,
    }
)


def decide(fleet: Fleet, command: Event, now: datetime) -> Fact:
    """The one outcome of a command, by the clock of whoever decides."""
    outcome = _expired(command, now) or DECIDE[command.type](fleet, command, now)
    return outcome if isinstance(outcome, Fact) else rejected(command, outcome)


def _expired(command: Event, now: datetime) -> Rejection | None:
    if command.expires is None or command.expires >= now:
        return None
    return Rejection(
        reason="expired",
        message=f"it was good until {command.expires:%H:%M:%S} UTC and is decided at {now:%H:%M:%S}; send it anew",
        field="expires",
    )


def rejected(command: Event, why: Rejection) -> Fact:
    """The outcome of a command that nothing comes of."""
    data = CommandRejected(
        command=command.id,
        command_type=command.type,
        reason=why.reason,
        message=why.message,
        field=why.field,
        exists=why.exists,
    )
    return Fact(
        type="event.command.rejected",
        subject=command.subject,
        data=data,
        cause=command.id,
        part="outcome",
        story=command.correlationid,
    )


def due(fleet: Fleet, now: datetime) -> list[Fact]:
    """What follows from the state alone; ask again after every change."""
    return jobs.due(fleet, now)


def overdue(fleet: Fleet, now: datetime, presence_known: bool) -> list[Fact]:
    """What a clock brings about; ask once a second."""
    return jobs.overdue(fleet, now, presence_known)


def evolve(fleet: Fleet, event: Event, offset: int = 0) -> Fleet:
    """The state after one admitted event. `offset` keeps open commands in log order."""
    if event.is_command:
        return _opened(fleet, event, offset)
    fleet = _closed(fleet, event)
    step = EVOLVE.get(event.type)
    return fleet if step is None else step(fleet, event)


def _opened(fleet: Fleet, command: Event, offset: int) -> Fleet:
    """A command waits for its outcome, unless it had one. One so old that nobody can tell any more gets none."""
    forgotten = fleet.decided.oldest()
    if command.id in fleet.decided or (forgotten is not None and command.time < forgotten.time):
        return fleet
    if command.id in fleet.open_commands:
        return fleet
    if command.correlationid is None:
        command = replace(command, correlationid=command.id)
    return replace(fleet, open_commands=fleet.open_commands.set(command.id, OpenCommand(offset, command)))


def _closed(fleet: Fleet, fact: Event) -> Fleet:
    command = fleet.open_commands.get(fact.causationid or "")
    if command is None:
        return fleet
    return replace(
        fleet,
        open_commands=fleet.open_commands.delete(command.event.id),
        decided=fleet.decided.add(command.event.id, Decided(command.event.time)),
    )


def fact_id(fact: Fact) -> str:
    """The id of a fact follows from its cause: whoever decides the same says it under the same id."""
    return derived_id(fact.cause, fact.type if fact.part != "outcome" else "", fact.subject, fact.part)
