"""What is put into inboxes. Deliveries are views of facts: sending one again is harmless."""

from datetime import datetime

import msgspec
from msgspec import Struct

from events.job import Order
from events.names import Id, NodeId, Role, ScriptName, Sha256


class RunJob(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="run"):
    """Run this, unless your journal knows the job. `source` is left out when you have that hash."""

    job: Id
    #: The fact that is delivered; the cause of what the agent says about the job.
    fact: Id
    correlation: Id | None
    node: NodeId
    order: Order
    start_by: datetime
    source: str | None = None


class StopJob(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="stop"):
    """End this job, or do not begin it."""

    job: Id
    fact: Id
    correlation: Id | None


class PeriodicScript(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A script that the node starts by itself: by period, by cron line, or at boot."""

    name: ScriptName
    hash: Sha256
    source: str | None = None


class Standing(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="standing"):
    """What the fleet says of the node itself: its roles, and the whole list of what it starts by itself.

    `offset` orders standings: an older one never replaces a newer. `removed`: the node was taken out of the fleet.
    """

    node: NodeId
    offset: int
    roles: tuple[Role, ...]
    maintenance: bool = False
    removed: bool = False
    periodic: tuple[PeriodicScript, ...] = ()


Delivery = RunJob | StopJob | Standing

_decoder: msgspec.json.Decoder[Delivery] = msgspec.json.Decoder(Delivery)
_encoder = msgspec.json.Encoder()


def encode_delivery(delivery: Delivery) -> bytes:
    return _encoder.encode(delivery)


def decode_delivery(body: bytes) -> Delivery:
    """Raises `msgspec.DecodeError` (or its child `ValidationError`) for what is no delivery."""
    return _decoder.decode(body)
