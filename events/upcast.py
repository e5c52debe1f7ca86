"""Old shapes are lifted to today's at the edge; inner code knows today's shape only.

One pure function per step, `(data of version n) -> data of version n + 1`, in the literal table at the end.
Data is plain JSON here, because yesterday's Structs are gone.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

Step = Callable[[dict[str, Any]], dict[str, Any]]


def _batch_created_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 addressed all jobs of a batch by one role; nodes may hold the role by different names, so each job
    now says its own (`cpu.kvm` for `cpu`).
    """
    via = data.get("via", "node")
    jobs = [{**job, "via": via} for job in data.get("jobs", [])]
    return {**{key: value for key, value in data.items() if key != "via"}, "jobs": jobs}


#: (type, version that the step lifts from) -> the step.
STEPS: MappingProxyType[tuple[str, int], Step] = MappingProxyType({("event.batch.created", 1): _batch_created_1})


def lift(event_type: str, version: int, current: int, data: dict[str, Any]) -> dict[str, Any]:
    """Data of `version` in the shape of `current`. Raises `LookupError` when a step is missing."""
    for step_from in range(version, current):
        step = STEPS.get((event_type, step_from))
        if step is None:
            raise LookupError(f"no step lifts {event_type} from version {step_from} to {step_from + 1}")
        data = step(data)
    return data
