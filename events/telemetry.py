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
    """A process listens to its own voice: telemetry goes all the way round."""

    holder: str
    beat: int


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
