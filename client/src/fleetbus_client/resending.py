"""The one rule of sending again: the same id, for at most a minute, with pauses that grow."""

from __future__ import annotations

import random
import time
from typing import Callable, TypeVar

from fleetbus_client.errors import Misuse, Unconfirmed

T = TypeVar("T")

#: Seconds. Whoever reads the log remembers ids for ten minutes of it, and relies on senders to stop long before.
LONGEST = 60.0
#: Seconds before the second attempt, and at most between two.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class Again(Exception):
    """An attempt failed in a way in which another may succeed.

    `reached`: it may have got to the other side. `pause`: seconds that the other side asks to wait.
    """

    def __init__(self, reason: str, *, reached: bool, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reached = reached
        self.pause = pause


def check_patience(seconds: float) -> float:
    """Raises `Misuse` for a time that the log's readers could not bear."""
    if not 0 < seconds <= LONGEST:
        raise Misuse(f"give_up_after is {seconds!r}; right would be more than 0 and at most {LONGEST:.0f} seconds")
    return seconds


def until_answered(attempt: Callable[[float], T], *, what: str, id: str, seconds: float) -> T:
    """What `attempt` returns; it is given the seconds that are left, and called again after each `Again`.

    Raises `Unconfirmed` when the time is over, and whatever else `attempt` raises.
    """
    deadline = time.monotonic() + seconds
    attempts, reached = 0, False
    while True:
        attempts += 1
        try:
            return attempt(deadline - time.monotonic())
        except Again as again:
            reached = reached or again.reached
            pause = max(again.pause, pause_after(attempts, random.random()))
            if time.monotonic() + pause >= deadline:
                raise Unconfirmed(
                    what, id, reached=reached, attempts=attempts, seconds=seconds, last=str(again)
                ) from again.__cause__
        time.sleep(pause)


def pause_after(attempts: int, chance: float) -> float:
    """Seconds; `chance`, from 0 to 1, keeps many services from coming back at the same moment."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempts - 1, 16))
    return longest * (0.5 + chance / 2)
