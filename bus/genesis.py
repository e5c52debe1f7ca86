"""The first record of a log. The log's id is derived from it (`bus.checkpoint.log_id`)."""

from datetime import datetime

from bus.ports import Message
from events.codec import encode
from events.envelope import Event
from events.seat import LogCreated


def first_record(created_by: str, now: datetime, id: str) -> Message:
    """`event.log.created`, to be appended to an empty log only. `id` makes the log's id unique."""
    event = Event(
        id=id,
        source="fleetbus/log",
        type="event.log.created",
        subject="log",
        time=now,
        actor="system:fleet",
        data=LogCreated(created_by=created_by),
    )
    return Message(key=event.type, body=encode(event), id=event.id, type=event.type)
