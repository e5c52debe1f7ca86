"""Time and new ids, as something that is handed in. Pure code gets `now` and ids from its caller."""

import time
from datetime import UTC, datetime
from typing import Protocol

import uuid_utils


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def new_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by the millisecond at which it was made."""
    return str(uuid_utils.uuid7())
