"""The view of commands: what was asked, and the one thing that came of it.

The outcome of a command is the first fact of the seat in log order that names it as its cause.
"""

from collections.abc import Iterable

from events.envelope import Event
from events.registry import SEAT_TYPES, TYPES
from events.seat import CommandRejected
from projections import retention
from projections.osis.documents import Document, Ttl
from projections.projection import Projection, moment, optional_moment, plain

COMMAND_TYPES = frozenset(name for name in TYPES if name.startswith("command."))
#: What a decider says of its own accord.
_NO_OUTCOME = frozenset({"event.seat.taken", "event.seat.tick"})


def keys(event: Event) -> Iterable[str]:
    if event.is_command:
        return (event.id,)
    return () if event.causationid is None else (event.causationid,)


def fold(command: Document | None, event: Event, offset: int) -> Document | None:
    """A second command of the same id is none, and a cause that is no command has no document."""
    if event.is_command:
        return command or _asked(event, offset)
    if command is None or command["outcome"] is not None:
        return command
    return {**command, **_outcome(event, offset)}


def _asked(event: Event, offset: int) -> Document:
    return {
        "type": event.type,
        "subject": event.subject,
        "actor": event.actor,
        "time": moment(event.time),
        "expires": optional_moment(event.expires),
        "correlation": event.correlationid or event.id,
        "offset": offset,
        "outcome": None,
        "outcome_type": None,
        "outcome_event": None,
        "outcome_offset": None,
        "outcome_time": None,
        "rejection": None,
    }


def _outcome(event: Event, offset: int) -> Document:
    rejected = isinstance(event.data, CommandRejected)
    return {
        "outcome": "rejected" if rejected else "accepted",
        "outcome_type": event.type,
        "outcome_event": event.id,
        "outcome_offset": offset,
        "outcome_time": moment(event.time),
        "rejection": plain(event.data) if rejected else None,
    }


COMMANDS = Projection(
    name="commands",
    version=1,
    handles=COMMAND_TYPES | (SEAT_TYPES - _NO_OUTCOME),
    keys=keys,
    fold=fold,
    indexes=(("-time",), ("outcome", "-time")),
    ttl=Ttl("time", retention.COMMANDS),
)
