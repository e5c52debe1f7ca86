"""One run of a script on this node, as the agent keeps it from acceptance to end."""

from datetime import datetime

import msgspec
from msgspec import Struct

from events.delivery import RunJob
from events.job import Order, OwnRun
from events.names import Id


class Run(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be run, and for whom. `queue` and `timeout` (seconds) are settled when the run is made."""

    job: Id
    order: Order
    queue: str
    timeout: float | None = None
    #: The fact that ordered it, and the story it belongs to; None for a run of the agent's own.
    cause: Id | None = None
    story: Id | None = None
    start_by: datetime | None = None
    #: Why the agent began it by itself. `quiet`: such a run is not logged unless it fails.
    own: OwnRun | None = None
    quiet: bool = False


def ordered(delivery: RunJob, queue: str, timeout: float | None) -> Run:
    """The run that a delivery asks for. `timeout`: what the script says; it counts if the order has none."""
    return Run(
        job=delivery.job,
        order=delivery.order,
        queue=queue,
        timeout=delivery.order.timeout or timeout,
        cause=delivery.fact,
        story=delivery.correlation,
        start_by=delivery.start_by,
    )


_decoder = msgspec.json.Decoder(Run)
_encoder = msgspec.json.Encoder()


def encode_run(run: Run) -> bytes:
    return _encoder.encode(run)


def decode_run(body: bytes) -> Run:
    return _decoder.decode(body)
