"""What can go wrong, each named by what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FleetbusError(Exception):
    """The root of all errors of this package."""


class Misuse(FleetbusError, ValueError):
    """What was asked for cannot be said, and nothing was sent; the message names what would be right."""


class Closed(FleetbusError):
    """The client was closed before the call, or during it."""


class Refused(FleetbusError):
    """The other side says no; sending the same again changes nothing."""


class Problem(Refused):
    """The portal answered with an error. `document` is its problem document (RFC 9457), as far as it sent one."""

    def __init__(self, status: int, document: Mapping[str, Any], where: str) -> None:
        self.status = status
        self.document = document
        said = document.get("detail") or document.get("title") or "no problem document; is this a portal of fleetbus?"
        super().__init__(f"{where} answered {status}: {said}{self._hints()}")

    @property
    def reason(self) -> str:
        """Why the fleet said no, as a word that does not change (`unknown_script`), or ""."""
        return str(self.document.get("reason") or "")

    @property
    def field(self) -> str:
        """Where: a path in what was sent (`params.path`), or ""."""
        return str(self.document.get("field") or "")

    @property
    def exists(self) -> tuple[str, ...]:
        """What could have been meant."""
        return tuple(str(name) for name in self.document.get("exists") or ())

    def _hints(self) -> str:
        where = f" (in {self.field})" if self.field else ""
        return where + (f"; there is: {', '.join(self.exists)}" if self.exists else "")


class Unconfirmed(FleetbusError):
    """No confirmation came in time.

    `id` is the event's; sending it again with this id within ten minutes is harmless, as the log counts an id once.
    `reached` tells what is known: False when it never left this process, True when it may be in the log or not.
    `attempts` is how often it was tried, `last` why the last attempt failed.
    """

    def __init__(self, what: str, id: str, *, reached: bool, attempts: int, seconds: float, last: str) -> None:
        self.id = id
        self.reached = reached
        self.attempts = attempts
        self.last = last
        known = "it may be in the log or not" if reached else "it is not in the log: nothing was sent"
        super().__init__(
            f"{what} {id} was not confirmed within {seconds:.0f} seconds and {attempts} attempts (the last: {last}); "
            f"{known}; sending it again with this id is harmless for ten minutes"
        )
