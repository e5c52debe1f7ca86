"""All projections, on one screen."""

from collections.abc import Iterable

from projections.batches import BATCHES
from projections.commands import COMMANDS
from projections.events_index import EVENTS
from projections.jobs import JOBS
from projections.nodes import NODES
from projections.projection import AnyProjection
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


def versions(projections: Iterable[AnyProjection] = PROJECTIONS) -> dict[str, int]:
    return {projection.name: projection.version for projection in projections}
