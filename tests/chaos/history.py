"""What a run leaves behind: what writers were told, what the log holds, marks outside, and what the views answer.

Plain values without any code of fleetbus, so that the checkers cannot share its mistakes.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

#: What a writer was told about one command. `unknown`: it was never told, so both may be true.
Answer = Literal["confirmed", "unknown", "refused"]


class Told(Struct, kw_only=True):
    """One command, sent under one id until it was confirmed or for a minute."""

    id: str
    type: str
    via: Literal["bus", "http"]
    answer: Answer = "unknown"
    tries: int = 0
    #: How long the writer waited for the answer.
    seconds: float = 0.0


class Raw(Struct, frozen=True):
    """One record of the stream as the broker hands it out."""

    offset: int
    user: str
    key: str
    body: bytes


class Watched(Struct, frozen=True):
    """One event as a reader of the portal's stream got it: `place` is the next offset that it was given."""

    place: int
    id: str


class History(Struct, kw_only=True):
    """All that the checkers look at. `records` is the log from its first record on."""

    told: list[Told] = []
    records: list[Raw] = []
    #: Job -> how often it left a mark outside of fleetbus.
    marks: dict[str, int] = {}
    #: Job -> state and node, as the documents have them, and as the portal answers for some of them.
    documents: dict[str, tuple[str, str | None]] = {}
    answers: dict[str, tuple[str, str | None]] = {}
    #: Command -> "accepted", "rejected" or None, as the documents have it.
    outcomes: dict[str, str | None] = {}
    #: Node -> "online" or "offline", as the documents have it.
    nodes: dict[str, str] = {}
    #: What one reader of the portal's stream was given, over all its connections.
    watched: list[Watched] = []
    #: What was to be well again after the heal, and was not.
    sick: list[str] = []


def body_of(raw: Raw) -> dict[str, Any] | None:
    """The envelope as plain JSON, or None when it is none."""
    try:
        found = msgspec.json.decode(raw.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None
