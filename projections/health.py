"""What the runner says of itself, in one document that every process can read, whatever becomes of the views.

It lies in a namespace of its own beside the generations, so that it can be read while there is no live one.
"""

import os
import socket
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from projections.osis.documents import Documents
from projections.projection import plain

#: The namespace of what belongs to the service and not to a generation of views.
SERVICE = "projections"
HEALTH = "health"

Doing = Literal["starting", "following", "rebuilding", "standing aside", "stopped"]


class Health(Struct, frozen=True, kw_only=True):
    """One look at the runner. It looks again every few seconds: an old `at` means that it is gone or stuck."""

    doing: Doing
    #: In a sentence, why it does that; "" when all is as it should be.
    why: str = ""
    at: datetime
    since: datetime
    #: Why the log under the live views is not the one that they were made from; "" when it is.
    diverged: str = ""
    #: The last time that this happened.
    last_diverged: str = ""
    last_diverged_at: datetime | None = None
    #: The generation that it writes to, its position there, and where the log ended when it last looked.
    generation: str | None = None
    next_offset: int = 0
    end: int = 0
    #: Records in a second, since the last look.
    rate: float = 0.0
    runner: str = ""

    @property
    def lag(self) -> int:
        """Records of the log that are not in that generation yet."""
        return max(0, self.end - self.next_offset)


def write_health(documents: Documents, health: Health) -> None:
    documents.namespace(SERVICE).put_many(HEALTH, [{"_id": "runner", **plain(health)}])


def read_health(documents: Documents) -> Health | None:
    """The last word of the runner, or None when there never was one."""
    found = documents.namespace(SERVICE).get(HEALTH, "runner")
    return None if found is None else msgspec.convert(found, Health)


def runner_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"
