"""Waiting for a condition with a deadline: the only way in which tests wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks at a condition.
POLL_INTERVAL = 0.05
#: Deadlines are what a test needs alone; several run at once, and share the processors with the servers.
SLACK = 3.0


def wait_until(condition: Callable[[], T], *, deadline: float, what: str) -> T:
    """Call `condition` until it answers with something true, and return that answer.

    `deadline` is in seconds from now, for a test that has the machine to itself: the time waited is at most `SLACK`
    times as long. `what` completes "waited N s for ..." in the
    AssertionError raised when it has passed. Exceptions of `condition` pass through.
    """
    patience = deadline * SLACK
    end = time.monotonic() + patience
    while True:
        if answer := condition():
            return answer
        if time.monotonic() >= end:
            raise AssertionError(f"waited {patience:g} s for {what}")
        time.sleep(POLL_INTERVAL)
