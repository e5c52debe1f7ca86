"""What exists on the broker, as data, and how it comes to exist.

Only the handlers and whoever administers the broker declare it; everyone else uses it, and waits until it is there.
Declaring again what exists changes nothing. What exists otherwise is an error that names it: nothing is ever deleted
here, because a stream cannot be made anew without losing what is in it. (But the queue of the archive, when it is empty
and `stream` is chosen.)

What a confirm means is part of the topology, so that no publisher has to know: the broker confirms when all queues to
which it leads have taken a message. A stream takes it without fsync; a quorum queue has it on its disk first.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import kombu
from amqp.exceptions import AMQPError, IrrecoverableChannelError, NotFound, PreconditionFailed
from kombu import Exchange, Queue, binding
from kombu.exceptions import OperationalError
from msgspec import Struct

from bus.broker import KEYS, Durability
from bus.errors import Refused, Unreachable
from bus.genesis import first_record
from bus.ports import Bus
from bus.rabbitmq import RabbitBus
from bus.rabbitmq.connection import PATIENCE, parameters, user_of
from bus.rabbitmq.names import ARCHIVE, DELIVER, EXCHANGE, FLEET, STREAMS, UNROUTED, seat_queue

MEGABYTE = 2**20
#: Seconds between two attempts to declare what a starting broker does not find yet.
TRY_EVERY = 0.5

fleet = Exchange(EXCHANGE, type="topic", durable=True, arguments={"alternate-exchange": UNROUTED})
unrouted = Exchange(UNROUTED, type="fanout", durable=True)
deliver = Exchange(DELIVER, type="topic", durable=True)


def stream(name: str, bindings: list[binding], **arguments: object) -> Queue:
    """A stream; `arguments` with `_` for `-` and without their `x-`."""
    given = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    return Queue(name, bindings=bindings, durable=True, queue_arguments={"x-queue-type": "stream", **given})


#: The log keeps everything: it has neither an age nor a length.
log = stream(
    STREAMS["log"],
    [binding(unrouted, ""), binding(fleet, "command.#"), binding(fleet, "event.#")],
)
#: Whole segments are dropped, so they are small here.
telemetry = stream(
    STREAMS["telemetry"],
    [binding(fleet, "telemetry.#")],
    max_age="1D",
    max_length_bytes=2_000 * MEGABYTE,
    stream_max_segment_size_bytes=50 * MEGABYTE,
)
blobs = stream(STREAMS["blobs"], [binding(fleet, "blob.#")])
#: Classic: a quorum queue lets two exclusive consumers in.
seat = Queue(seat_queue(FLEET), durable=True)
#: From RabbitMQ 4.0 on, what was given out 20 times is thrown away unless the limit is lifted; before, -1 is an error.
UNLIMITED_FROM = 4

#: In the order of their declaration. As soon as `fleetbus` is there, what is published must reach the log, or it would
#: vanish although it was confirmed; publishers wait for the last (`bus.rabbitmq.names.LAST`).
TOPOLOGY = (unrouted, log, fleet, telemetry, blobs, seat, deliver)


class Kept(Struct, frozen=True):
    """The archive's queue was not deleted with its bindings.

    So many messages are in it, and so many consumers have some of them. (Quorum queues cannot be deleted on the
    condition that they are empty and unused.)
    """

    messages: int
    consumers: int = 0


def apply(url: str, durability: Durability | None = None) -> Kept | None:
    """Declares all of it, and begins the log when it is empty. Harmless when it is there.

    `durability` None leaves it as it is; a new broker has `stream`. Returns what `stream` could not delete.
    Raises `Refused` when something exists with other properties or this user may not declare it, `Unreachable`.
    """
    declare(url)
    kept = None if durability is None else make_durable(url, durability)
    bus = RabbitBus(url)
    try:
        begin_log(bus)
    finally:
        bus.close()
    return kept


def make_durable(url: str, durability: Durability) -> Kept | None:
    """From now on a confirm means this. What was confirmed before has what was promised then. Raises as `apply`."""
    with _connection(url) as connection:
        try:
            if durability == "fsync":
                _bind_archive(connection)
                return None
            return _unbind_archive(connection)
        except IrrecoverableChannelError as error:
            raise Refused(f"cannot set up the queue {ARCHIVE!r}: {error.reply_text}") from error


def _bind_archive(connection: kombu.Connection) -> None:
    with connection.channel() as channel:
        if _count(connection) is None:
            major = int(str(connection.connection.server_properties.get("version", "3")).partition(".")[0])
            limit = {"x-delivery-limit": -1} if major >= UNLIMITED_FROM else {}
            Queue(ARCHIVE, durable=True, queue_arguments={"x-queue-type": "quorum", **limit})(channel).declare()
        for key in KEYS:
            Queue(ARCHIVE)(channel).bind_to(fleet, key)


def _unbind_archive(connection: kombu.Connection) -> Kept | None:
    if _count(connection) is None:
        return None
    with connection.channel() as channel:
        for key in KEYS:
            Queue(ARCHIVE)(channel).unbind_from(fleet, key)
        # what was routed before is in the queue by now
        time.sleep(TRY_EVERY)
        held = _count(connection)
        if held is None or held.messages or held.consumers:
            return held
        Queue(ARCHIVE)(channel).delete()
    return None


def _count(connection: kombu.Connection) -> Kept | None:
    """What is in the archive's queue; None when there is none."""
    try:
        with connection.channel() as channel:
            found = Queue(ARCHIVE)(channel).queue_declare(passive=True)
            return Kept(messages=int(found.message_count), consumers=int(found.consumer_count))
    except NotFound:
        return None


def declare(url: str) -> None:
    """Declares all of it, and leaves an empty log empty. Raises as `apply` does."""
    deadline = time.monotonic() + PATIENCE
    with _connection(url) as connection:
        for entity in TOPOLOGY:
            while not _declare(connection, entity, last_try=time.monotonic() > deadline):
                time.sleep(TRY_EVERY)


@contextlib.contextmanager
def _connection(url: str) -> Iterator[kombu.Connection]:
    at = parameters(url)
    where = f"RabbitMQ at {at.host}:{at.port} as {user_of(at)!r}"
    connection = kombu.Connection(url, connect_timeout=PATIENCE, heartbeat=0)
    try:
        connection.connect()
        yield connection
    except (OperationalError, OSError, AMQPError) as error:
        raise Unreachable(f"no answer from {where}: {error}") from error
    finally:
        connection.release()


def _declare(connection: kombu.Connection, entity: Exchange | Queue, *, last_try: bool) -> bool:
    """False when a broker that is starting does not find yet what it has."""
    kind = "exchange" if isinstance(entity, Exchange) else "queue"
    try:
        with connection.channel() as channel:
            entity(channel).declare()
        return True
    except NotFound as error:
        if last_try:
            raise Unreachable(f"the {kind} {entity.name!r} does not answer: {error.reply_text}") from error
        return False
    except PreconditionFailed as error:
        raise Refused(
            f"cannot declare the {kind} {entity.name!r}, something exists with other properties ({error.reply_text}); "
            "if nothing in it is needed, delete it on the broker and start again"
        ) from error
    except IrrecoverableChannelError as error:
        raise Refused(f"cannot declare the {kind} {entity.name!r}: {error.reply_text}") from error


def begin_log(bus: Bus) -> None:
    """Writes the first record of an empty log. Whoever does it has the seat meanwhile, so that there is one first."""
    if bus.stream("log").first() is not None:
        return
    seat = bus.seat(FLEET)
    if not seat.acquire(PATIENCE):
        raise Unreachable("the log is empty, and another process that has the seat does not begin it")
    try:
        if bus.stream("log").first() is None:
            by = f"{socket.gethostname()}, process {os.getpid()}"
            bus.publish(first_record(by, datetime.now(UTC), str(uuid4()))).result()
    finally:
        seat.release()
