"""How long to wait before the next try at what may succeed later: longer each time, up to a bound."""

import random

#: Its own source of chance: what else counts on `random`'s state is not disturbed.
_CHANCE = random.SystemRandom()


class Backoff:
    """`next` gives seconds: between half and all of `first`, then of twice as much, … at most `longest`.

    The chance in it spreads a fleet's processes in time: who lost the same broker at once does not come back at once.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._pause = first

    def next(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, self._longest)
        return pause * (0.5 + _CHANCE.random() / 2)

    def reset(self) -> None:
        """It went well: the next failure is a first one."""
        self._pause = self._first
