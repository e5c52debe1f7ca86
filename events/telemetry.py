"""Telemetry: said often, kept for a while, never truth."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from events.names import Id, NodeId, Seconds


class Heartbeat(Struct, frozen=True, kw_only=True):
    """A node is alive. `running` and `accepted` count jobs; `outbox` the facts not confirmed yet."""

    node: NodeId
    boot: Id
    running: int = 0
    accepted: int = 0
    outbox: int = 0


class Canary(Struct, frozen=True, kw_only=True):
    """A process is heard: telemetry goes all the way round, and a consumer tells how far it is behind its stream.

    Without `consumer` it is the holder of the seat, who listens to its own voice.
    """

    holder: str
    beat: int
    consumer: str = ""
    #: Its place in its stream, and where that ended.
    next_offset: int = 0
    end: int = 0
    #: Since when it has not reached an end of the stream; 0 when it has.
    lag_seconds: Seconds = 0.0
    #: Seconds in which an event of its own came back to it.
    round_trip: Seconds | None = None


class Stats(Struct, frozen=True, kw_only=True):
    """Measurements of a node: a name to its number. Units are in the names (`memory_used_bytes`)."""

    node: NodeId
    values: dict[str, float]


class Line(Struct, frozen=True, kw_only=True, array_like=True):
    """One line of output: its number from 1, `o` for stdout or `e` for stderr, and its text."""

    n: int
    stream: str
    text: Annotated[str, Meta(max_length=10_000)]


class Output(Struct, frozen=True, kw_only=True):
    """Lines that a running job printed."""

    job: Id
    node: NodeId
    lines: tuple[Line, ...]


class QuietRun(Struct, frozen=True, kw_only=True):
    """A run of the agent's own ended well, and its script says `log = False`."""

    job: Id
    node: NodeId
    script: str
    duration: Seconds
    result: Any = None
