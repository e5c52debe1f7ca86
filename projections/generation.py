"""Generations of views: which namespace is live, beginning a new one beside it, and the swap.

A rebuild has a namespace of its own (`live-<time>-<random>`), whoever does it, so two rebuilds never mix. When it has
caught up, the alias `live` is pointed at it in one atomic write. Nobody is told: whoever reads or writes the live views
looks at the alias again and again. Views of an earlier time lie in `asof-…`, and what is compared with the live views
in `check-…`; they never become live.

What is neither live nor written to any more is dropped by the runner after a while. So a rebuild that slept for long
may have lost its namespace; `swap` finds that out by the document `generation`, which is written first of all.
"""

from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from projections import retention
from projections.admission_store import LIVE, META
from projections.osis.documents import Documents, Namespace
from projections.projection import moment

PREFIX = "live-"
AS_OF_PREFIX = "asof-"
CHECK_PREFIX = "check-"
#: After this long without a word from its writer, a generation that is not live is dropped. Readers that turned to it
#: before a swap have ended long before.
ABANDONED_AFTER = timedelta(minutes=10)
#: The same for what was rebuilt to be compared, which may be read for long without being written to.
CHECKED_AFTER = timedelta(days=1)

log = structlog.get_logger("projections.generation")


class Dropped(Exception):
    """The namespace of a rebuild was dropped while it slept; it must begin anew."""


def live(documents: Documents) -> str | None:
    """The namespace of the live views, or None when there never were any."""
    return documents.pointed(LIVE)


def begin(documents: Documents, now: datetime, why: str, prefix: str = PREFIX) -> Namespace:
    """A new, empty generation. `why` is for people."""
    name = f"{prefix}{now:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
    namespace = documents.namespace(name)
    namespace.put_many(META, [{"_id": "generation", "created_at": moment(now), "why": why}])
    log.info("new generation of views", action="generation.begin", generation=name, why=why)
    return namespace


def exists(namespace: Namespace) -> bool:
    """False when it was dropped meanwhile."""
    return namespace.get(META, "generation") is not None


def swap(documents: Documents, name: str) -> None:
    """From now on `name` has the live views. Raises `Dropped`."""
    if not exists(documents.namespace(name)):
        raise Dropped(f"{name} was dropped before it had caught up")
    before = live(documents)
    documents.point(LIVE, name)
    log.info("the live views are others now", action="generation.swap", generation=name, before=before)


def sweep(documents: Documents, now: datetime) -> list[str]:
    """Drops abandoned generations and old views of earlier times; their names."""
    current = live(documents)
    dropped = []
    for name in documents.list_namespaces():
        if name != current and _is_over(documents.namespace(name), now):
            documents.drop_namespace(name)
            log.info("generation dropped", action="generation.drop", generation=name)
            dropped.append(name)
    return dropped


def _is_over(namespace: Namespace, now: datetime) -> bool:
    if namespace.name.startswith(PREFIX):
        keep = ABANDONED_AFTER
    elif namespace.name.startswith(AS_OF_PREFIX):
        keep = timedelta(seconds=retention.AS_OF)
    elif namespace.name.startswith(CHECK_PREFIX):
        keep = CHECKED_AFTER
    else:
        return False
    found = namespace.get_many(META, ["generation", "checkpoint"])
    written = [found[key][field] for key, field in _WRITTEN if key in found]
    return not written or datetime.fromisoformat(max(written)) + keep < now


#: Where a generation says when it was last written to.
_WRITTEN = (("generation", "created_at"), ("checkpoint", "written_at"))
