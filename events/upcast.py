"""Old shapes are lifted to today's at the edge; inner code knows today's shape only.

One pure function per step, `(data of version n) -> data of version n + 1`, in the literal table at the end.
Data is plain JSON here, because yesterday's Structs are gone.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

Step = Callable[[dict[str, Any]], dict[str, Any]]

#: (type, version that the step lifts from) -> the step.
STEPS: MappingProxyType[tuple[str, int], Step] = MappingProxyType({})


def lift(event_type: str, version: int, current: int, data: dict[str, Any]) -> dict[str, Any]:
    """Data of `version` in the shape of `current`. Raises `LookupError` when a step is missing."""
    for step_from in range(version, current):
        step = STEPS.get((event_type, step_from))
        if step is None:
            raise LookupError(f"no step lifts {event_type} from version {step_from} to {step_from + 1}")
        data = step(data)
    return data
