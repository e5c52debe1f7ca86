"""Copying a log, with the blobs that it names, from the embedded bus to RabbitMQ.

Records keep their bodies, keys, order and users, so the copy has the same log id and every reader comes to the same
verdicts. The broker takes somebody else's `user_id` only from a user with the tag `impersonator`.

What is there already must be the beginning of what is copied, record by record: then an earlier attempt was cut off,
and the copy goes on behind it. Anything else is refused. Nothing is sent behind a record that was not confirmed, so
a copy that is cut off always leaves such a beginning. At the end all of the target is read and compared once more.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from bus import topology
from bus.embedded import EmbeddedBus
from bus.errors import BusError
from bus.ports import Record, Stream, StreamName
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.names import EXCHANGE
from bus.rabbitmq.pen import Properties
from bus.rabbitmq.publisher import Publisher, appended
from bus.rabbitmq.stream import RabbitStream
from events.envelope import CONTENT_TYPE
from fleetbus.errors import Failure, NotReached, Wrong
from fleetbus.progress import progress

#: Records read, sent and confirmed at a time.
BATCH = 500
#: Seconds until a record that must be there was read.
READ_WITHIN = 30.0
#: Seconds that the seat of the source is waited for: longer than a lease that nobody renews.
SEAT_WITHIN = 7.0
#: Blobs come first, as agents send them: no fact may name one that is not there.
STREAMS: tuple[StreamName, ...] = ("blobs", "log")

Send = Callable[[Record], Future[Any]]


class _Head(msgspec.Struct):
    """What AMQP's properties repeat of an event."""

    id: str = ""
    type: str = ""


def copy(source: EmbeddedBus, target_url: str) -> dict[str, int]:
    """Copies, and returns how many records each stream has now. Raises `Failure`, and the errors of the bus."""
    topology.declare(target_url)
    with _undecided(source), closing(Connection(target_url)) as connection:
        publisher: Publisher[None] = Publisher(connection, EXCHANGE, appended)
        try:
            return {name: _copy_stream(name, source, connection, publisher) for name in STREAMS}
        finally:
            publisher.close()


@contextmanager
def _undecided(source: EmbeddedBus) -> Iterator[None]:
    """While the seat is ours, nobody decides anything there that the copy would miss."""
    seat = source.seat("fleet")
    if not seat.acquire(SEAT_WITHIN):
        raise NotReached("handlers are at work on the log that is to be copied", "stop `fleetbus up` there first")
    try:
        yield
    finally:
        seat.release()


def _copy_stream(name: StreamName, source: EmbeddedBus, connection: Connection, publisher: Publisher[None]) -> int:
    origin, target = source.stream(name), RabbitStream(connection, publisher, name)
    total = origin.next_offset()
    done = _compare(name, origin, target)
    with progress(f"copying {name}") as tell:
        tell(done, total)
        for records in _batches(origin, done, total):
            _send(records, lambda record: publisher.publish(record.key, record.body, _properties(record)))
            done += len(records)
            tell(done, total)
    if _compare(name, origin, target) != total:
        raise Failure(f"the {name} at the target is not what was copied; somebody else writes there")
    return total


def _compare(name: StreamName, origin: Stream, target: Stream) -> int:
    """How many records the target has. Raises `Wrong` when they are not the first ones of the origin."""
    there, here = target.next_offset(), origin.next_offset()
    if there > here:
        raise _another(name, here)
    theirs = _one_by_one(target, there)
    for ours, theirs_ in zip(_one_by_one(origin, there), theirs, strict=True):
        if (ours.body, ours.key, ours.user) != (theirs_.body, theirs_.key, theirs_.user):
            raise _another(name, ours.offset)
    return there


def _another(name: StreamName, offset: int) -> Wrong:
    return Wrong(
        f"the target has a {name} of its own: it differs from this one at offset {offset}",
        "a log can only be copied to where none is; use another virtual host, or delete the streams there",
    )


def _one_by_one(stream: Stream, count: int) -> Iterator[Record]:
    for records in _batches(stream, 0, count):
        yield from records


def _batches(stream: Stream, start: int, end: int) -> Iterator[list[Record]]:
    """Records from `start` up to but not including `end`."""
    if start >= end:
        return
    at = start
    with stream.read_from(start) as reader:
        while at < end:
            records = [record for record in reader.read(min(BATCH, end - at), READ_WITHIN) if record.offset < end]
            if not records:
                raise NotReached(f"offset {at} was not read within {READ_WITHIN:.0f} seconds")
            yield records
            at = records[-1].next_offset


def _send(records: list[Record], send: Send) -> None:
    """All of them, confirmed. Raises `Failure` when one is not: then none behind it was sent."""
    futures = [send(record) for record in records]
    for future in futures:
        try:
            future.result()
        except BusError as error:
            if "user_id" in str(error):
                raise NotReached(
                    f"the broker does not let this user speak for others: {error}",
                    "give it the tag impersonator for the copy: rabbitmqctl set_user_tags USER impersonator",
                ) from None
            raise NotReached(f"the copy was cut off: {error}", "run it again: it goes on where it was") from None


def _properties(record: Record) -> Properties:
    head = _head(record)
    return Properties(
        content_type=CONTENT_TYPE if not record.key.startswith("blob.") else "application/octet-stream",
        message_id=head.id or None,
        type=head.type or None,
        user_id=record.user,
    )


def _head(record: Record) -> _Head:
    """Of a record that is no event: nothing."""
    try:
        head = msgspec.json.decode(record.body, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Head()
    return head if max(len(head.id.encode()), len(head.type.encode())) < 256 else _Head()
