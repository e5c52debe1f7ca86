"""The envelope: CloudEvents 1.0 with fleetbus' extension attributes (all flat scalars).

The CloudEvents core attributes follow the specification, version 1.0.2, section "Context Attributes".
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from uuid_utils import UUID, uuid5

from events.names import Actor, EventType, Id

#: Every event of fleetbus carries this content type on the wire.
CONTENT_TYPE = "application/cloudevents+json"

#: The largest body that a reader takes, in bytes; a larger one is bad.
MAX_BODY_BYTES = 1_000_000


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One immutable thing that was said.

    `data` is the typed Struct of its type (`events.registry`), or plain JSON for the facts of other services.
    """

    id: Id
    source: Annotated[str, Meta(min_length=1, max_length=200)]
    type: EventType
    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    time: Annotated[datetime, Meta(tz=True)]
    actor: Actor
    data: Any
    dataschema: Annotated[str, Meta(max_length=300)] = ""
    #: The whole story that this event belongs to: the id of the command that began it.
    correlationid: Id | None = None
    #: The event that directly caused this one; for a timer's fact, the fact that set the timer.
    causationid: Id | None = None
    #: Commands only: after this moment nobody may act on it.
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    #: Facts of the seat only: the id of the `event.seat.taken` that its holder wrote.
    seattoken: Id | None = None
    #: Agents only: a new UUID at each agent start, and the count of what it said since, from 1.
    producer: Id | None = None
    seq: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: Literal["application/json"] = "application/json"

    @property
    def is_command(self) -> bool:
        return self.type.startswith("command.")

    @property
    def is_telemetry(self) -> bool:
        return self.type.startswith("telemetry.")


def derived_id(origin: str, *parts: str) -> str:
    """The id of what follows from `origin`: the same inputs give the same UUIDv5 for ever.

    `origin` is the id of an event or of a job; `parts` say which of its consequences is meant.
    """
    return str(uuid5(UUID(origin), "/".join(parts)))
