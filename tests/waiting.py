"""Waiting for a condition with a deadline: the only way in which tests wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks at a condition.
POLL_INTERVAL = 0.05


def wait_until(condition: Callable[[], T], *, deadline: float, what: str) -> T:
    """Call `condition` until it answers with something true, and return that answer.

    `deadline` is in seconds from now; `what` completes "waited N s for ..." in the
    AssertionError raised when it has passed. Exceptions of `condition` pass through.
    """
    end = time.monotonic() + deadline
    while True:
        if answer := condition():
            return answer
        if time.monotonic() >= end:
            raise AssertionError(f"waited {deadline:g} s for {what}")
        time.sleep(POLL_INTERVAL)
