"""How fresh the live views are, and waiting until they are fresh enough. Reading only; any process may."""

import time
from collections.abc import Callable
from datetime import datetime

from msgspec import Struct

from projections.admission_store import read_checkpoint
from projections.generation import live
from projections.health import Doing, read_health
from projections.osis.documents import Documents
from projections.set_aside import SET_ASIDE

#: Seconds between two looks of who waits, at first and at most.
FIRST_LOOK, LAST_LOOK = 0.005, 0.1


class ViewStatus(Struct, frozen=True, kw_only=True):
    """Where the live views are: everything before `next_offset` of the log with this id is in them."""

    #: Their namespace; None when there are no views yet.
    generation: str | None = None
    log: str = ""
    next_offset: int = 0
    #: The log time at that offset.
    log_time: datetime | None = None
    #: When they were last written to.
    at: datetime | None = None
    #: The versions of the projections that made them.
    views: dict[str, int] = {}
    #: Documents that went on without some event, because a projection failed on it.
    set_aside: int = 0
    #: Why they do not belong to the log under them; "" when they do.
    diverged: str = ""
    #: What the runner does and why, and when it last said so; None when there never was one.
    doing: Doing | None = None
    why: str = ""
    heard_at: datetime | None = None


def view_status(documents: Documents) -> ViewStatus:
    """The status of the live views. Raises the errors of the storage."""
    health = read_health(documents)
    name = live(documents)
    namespace = None if name is None else documents.namespace(name)
    saved = None if namespace is None else read_checkpoint(namespace)
    return ViewStatus(
        generation=name,
        log=saved.checkpoint.log if saved else "",
        next_offset=saved.checkpoint.next_offset if saved else 0,
        log_time=saved.head.log_time if saved else None,
        at=saved.written_at if saved else None,
        views=saved.views if saved else {},
        set_aside=namespace.count(SET_ASIDE) if namespace else 0,
        diverged=health.diverged if health else "",
        doing=health.doing if health else None,
        why=health.why if health else "",
        heard_at=health.at if health else None,
    )


def wait_at_least(
    documents: Documents,
    log: str,
    next_offset: int,
    timeout: float,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Waits until everything before `next_offset` of this log is in the live views, at most `timeout` seconds.

    False when that was not enough, and when the views are of another log all the time. Raises the errors of the
    storage.
    """
    deadline, pause = time.monotonic() + timeout, FIRST_LOOK
    while not _reached(documents, log, next_offset):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        sleep(min(pause, left))
        pause = min(pause * 1.5, LAST_LOOK)
    return True


def _reached(documents: Documents, log: str, next_offset: int) -> bool:
    name = live(documents)
    saved = None if name is None else read_checkpoint(documents.namespace(name))
    return saved is not None and saved.checkpoint.log == log and saved.checkpoint.next_offset >= next_offset
