"""All projections, on one screen."""

from collections.abc import Iterable

from msgspec.structs import replace

from projections.batches import BATCHES
from projections.commands import COMMANDS
from projections.events_index import EVENTS
from projections.jobs import JOBS
from projections.nodes import NODES
from projections.osis.documents import Ttl
from projections.projection import AnyProjection
from projections.retention import Retention
from projections.scripts import SCRIPT_VERSIONS, SCRIPTS

#: Collections of a generation that are not views.
RESERVED = frozenset({"meta", "set_aside"})


def checked(projections: Iterable[AnyProjection]) -> tuple[AnyProjection, ...]:
    """The projections, each with a name of its own. Raises `ValueError`."""
    found = tuple(projections)
    names = [projection.name for projection in found]
    for name in names:
        if names.count(name) > 1 or name in RESERVED:
            raise ValueError(f"projection {name!r}: the name is taken; each projection needs a collection of its own")
    return found


PROJECTIONS = checked((NODES, JOBS, BATCHES, SCRIPTS, SCRIPT_VERSIONS, COMMANDS, EVENTS))


def kept_for(retention: Retention, projections: Iterable[AnyProjection] = PROJECTIONS) -> tuple[AnyProjection, ...]:
    """The projections, each keeping its documents as long as `retention` says; those it does not name, as they are."""
    return tuple(_kept(projection, retention) for projection in projections)


def _kept(projection: AnyProjection, retention: Retention) -> AnyProjection:
    if projection.ttl is None or projection.name not in retention:
        return projection
    seconds = retention[projection.name]
    return replace(projection, ttl=None if seconds is None else Ttl(projection.ttl.field, seconds))


def versions(projections: Iterable[AnyProjection] = PROJECTIONS) -> dict[str, int]:
    return {projection.name: projection.version for projection in projections}
