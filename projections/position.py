"""Where a follower of telemetry or blobs is in its stream.

What these streams bring may be written again, so a position need not be exact; it must only never be too far.
"""

from datetime import datetime

import msgspec
from msgspec import Struct

from bus.checkpoint import log_id
from bus.ports import Bus, StreamName
from projections.health import SERVICE
from projections.osis.documents import Documents
from projections.projection import plain

POSITIONS = "positions"


class Position(Struct, frozen=True, kw_only=True):
    """The next offset to be read, and the log beside which the stream lay."""

    log: str
    next_offset: int
    written_at: datetime


def load_position(bus: Bus, documents: Documents, name: StreamName) -> int:
    """Where to go on; 0 when nothing is known, or the engine under the stream is another one than before.

    Raises the errors of bus and storage.
    """
    found = documents.namespace(SERVICE).get(POSITIONS, name)
    if found is None:
        return 0
    position = msgspec.convert(found, Position)
    if position.log != current_log(bus) or position.next_offset > bus.stream(name).next_offset():
        return 0
    return position.next_offset


def save_position(documents: Documents, name: StreamName, position: Position) -> None:
    documents.namespace(SERVICE).put_many(POSITIONS, [{"_id": name, **plain(position)}])


def current_log(bus: Bus) -> str:
    """The id of the log on this bus, "" while it is empty."""
    first = bus.stream("log").first()
    return "" if first is None else log_id(first)
