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
#: The document of a generation, in `meta`, that says when and why it was begun.
ABOUT = "generation"
#: The document of views of an earlier time that were made to be looked at: when that was done last.
LOOKED_AT = "looked_at"
CHECK_PREFIX = "check-"
#: After this long without a word from its writer, a generation that is not live is dropped. Readers that turned to it
#: before a swap have ended long before.
ABANDONED_AFTER = timedelta(minutes=10)
#: The same for what was rebuilt to be compared, which may be read for long without being written to; for views of an
#: earlier time that were never finished; and for those that were made to be looked at, since the last look.
CHECKED_AFTER = UNFINISHED_AFTER = UNSEEN_AFTER = timedelta(days=1)

log = structlog.get_logger("projections.generation")


class Dropped(Exception):
    """The namespace of a rebuild was dropped while it slept; it must begin anew."""


def live(documents: Documents) -> str | None:
    """The namespace of the live views, or None when there never were any."""
    return documents.pointed(LIVE)


def begin(documents: Documents, now: datetime, why: str, prefix: str = PREFIX, until: str = "") -> Namespace:
    """A new, empty generation. `why` is for people; `until` says where the views of an earlier time end."""
    name = f"{prefix}{now:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
    namespace = documents.namespace(name)
    about = {"_id": ABOUT, "created_at": moment(now), "why": why}
    namespace.put_many(META, [about | ({"until": until} if until else {})])
    log.info("new generation of views", action="generation.begin", generation=name, why=why)
    return namespace


def exists(namespace: Namespace) -> bool:
    """False when it was dropped meanwhile."""
    return namespace.get(META, ABOUT) is not None


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


def own(namespace: Namespace, now: datetime) -> None:
    """These views of an earlier time were made to be looked at: they go when nobody does, and by `drop_oldest`."""
    namespace.put_many(META, [{"_id": LOOKED_AT, "at": moment(now)}])


def look_at(namespace: Namespace, now: datetime) -> None:
    """Somebody looks at them."""
    if namespace.get(META, LOOKED_AT) is not None:
        own(namespace, now)


def drop_oldest(documents: Documents, keep: int) -> list[str]:
    """Drops what was made to be looked at, but the `keep` looked at last; their names."""
    names = [name for name in documents.list_namespaces() if name.startswith(AS_OF_PREFIX)]
    looks = {name: documents.namespace(name).get(META, LOOKED_AT) for name in names}
    owned = sorted((look["at"], name) for name, look in looks.items() if look is not None)
    dropped = [name for _, name in owned[: max(0, len(owned) - keep)]]
    for name in dropped:
        documents.drop_namespace(name)
        log.info("generation dropped", action="generation.drop", generation=name)
    return dropped


def _is_over(namespace: Namespace, now: datetime) -> bool:
    found = namespace.get_many(META, [ABOUT, "checkpoint", LOOKED_AT])
    if namespace.name.startswith(PREFIX):
        keep = ABANDONED_AFTER
    elif namespace.name.startswith(AS_OF_PREFIX) and "checkpoint" not in found:
        keep = UNFINISHED_AFTER
    elif namespace.name.startswith(AS_OF_PREFIX):
        keep = UNSEEN_AFTER if LOOKED_AT in found else timedelta(seconds=retention.AS_OF)
    elif namespace.name.startswith(CHECK_PREFIX):
        keep = CHECKED_AFTER
    else:
        return False
    written = [found[key][field] for key, field in _WRITTEN if key in found]
    return not written or datetime.fromisoformat(max(written)) + keep < now


#: Where a generation says when it was last written to.
_WRITTEN = ((ABOUT, "created_at"), ("checkpoint", "written_at"), (LOOKED_AT, "at"))
