"""What pool and worker say to each other, over ZeroMQ."""

from typing import Literal

import msgspec
from msgspec import Struct

from events.telemetry import Line
from nodeagent.outcome import Outcome
from nodeagent.output import Output
from nodeagent.work import Work

#: Why the pool wants a job to end.
StopReason = Literal["cancelled", "agent_stops"]


class Begin(Struct, frozen=True, tag=True):
    """Make a process for this job and wait. Seconds: `limit` to run, `grace` between SIGTERM and SIGKILL.

    `kept`: do not wait, run it in the process that you keep for its script, and in no other.
    """

    work: Work
    limit: float
    grace: float
    kept: bool = False


class Go(Struct, frozen=True, tag=True):
    """Now run the job."""

    job_id: str


class Stop(Struct, frozen=True, tag=True):
    """End the job."""

    job_id: str
    reason: StopReason


class Drop(Struct, frozen=True, tag=True):
    """Keep no process for a script any more. Sent only to a worker without a job."""


class Quit(Struct, frozen=True, tag=True):
    """End yourself. Sent only to a worker without a job."""


class Hello(Struct, frozen=True, tag=True):
    """The worker is warm."""


class Made(Struct, frozen=True, tag=True):
    """The process is made, and waits."""

    job_id: str
    pgid: int
    stamp: str


class Printed(Struct, frozen=True, tag=True):
    """Lines of output. Those of the `head` are the pool's to keep; later ones are for whoever looks on."""

    job_id: str
    lines: tuple[Line, ...]
    head: bool


class Kept(Struct, frozen=True):
    """A process that waits for the next job of the script that it ran."""

    pgid: int
    stamp: str


class Ended(Struct, frozen=True, tag=True, kw_only=True):
    """The job's process, and whatever it started, is gone; or `kept` for the next job of its script."""

    job_id: str
    outcome: Outcome
    duration: float = 0.0
    #: Without the head, which the pool has.
    output: Output = Output()
    kept: Kept | None = None


ToWorker = Begin | Go | Stop | Drop | Quit
ToPool = Hello | Made | Printed | Ended

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_pool: msgspec.msgpack.Decoder[ToPool] = msgspec.msgpack.Decoder(ToPool)


def encode(message: ToWorker | ToPool) -> bytes:
    return _encoder.encode(message)


def decode_for_worker(body: bytes) -> ToWorker:
    return _to_worker.decode(body)


def decode_for_pool(body: bytes) -> ToPool:
    return _to_pool.decode(body)
