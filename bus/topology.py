"""What exists on the broker, as data, and how it comes to exist.

Only the handlers and whoever administers the broker declare it; everyone else uses it, and waits until it is there.
Declaring again what exists changes nothing. What exists otherwise is an error that names it: nothing is ever deleted
here, because a stream cannot be made anew without losing what is in it.
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

from bus.errors import Refused, Unreachable
from bus.genesis import first_record
from bus.ports import Bus
from bus.rabbitmq import RabbitBus
from bus.rabbitmq.connection import PATIENCE, parameters, user_of
from bus.rabbitmq.names import DELIVER, EXCHANGE, FLEET, STREAMS, UNROUTED, seat_queue

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

#: In the order of their declaration. As soon as `fleetbus` is there, what is published must reach the log, or it would
#: vanish although it was confirmed; publishers wait for the last (`bus.rabbitmq.names.LAST`).
TOPOLOGY = (unrouted, log, fleet, telemetry, blobs, seat, deliver)


def apply(url: str) -> None:
    """Declares all of it, and begins the log when it is empty. Harmless when it is there.

    Raises `Refused` when something exists with other properties or this user may not declare it, `Unreachable`.
    """
    declare(url)
    bus = RabbitBus(url)
    try:
        begin_log(bus)
    finally:
        bus.close()


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
