"""When a node starts scripts by itself. Pure: the time comes in, in seconds since 1970, UTC.

Three rules. Slots lie on the clock (multiples of the period since 1970, or what the cron line says in UTC), so that
every node has the same ones and none has to be remembered. A slot is skipped while the script's previous run is
unfinished. A slot that was missed (the agent was down, or the machine slept) is not made up.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid5

from croniter import croniter
from msgspec import Struct

from events.header import Header

__all__ = ["LATE_SECONDS", "Due", "OwnStart", "Planned", "Skipped", "boot_starts", "due", "next_wake", "run_id"]

#: A slot still counts this long after its time: an agent's thread may be busy for a moment.
LATE_SECONDS = 30

_NAMESPACE = UUID("0c3bd5a1-6f0e-5c1c-9f4e-5d2c3a7f8b10")


class Planned(Struct, frozen=True):
    """A script that the node starts by itself, in the version with this hash."""

    hash: str
    header: Header


class OwnStart(Struct, frozen=True):
    """A run to begin now. `slot` names its occasion: the slot's time, or the start of the agent."""

    planned: Planned
    slot: str


class Skipped(Struct, frozen=True):
    """A slot in which nothing is begun, and why."""

    planned: Planned
    slot: str
    reason: Literal["previous run unfinished", "missed"]


class Due(Struct, frozen=True):
    """What a look at the clock gave: runs to begin, in order, and slots that pass without one."""

    starts: tuple[OwnStart, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def run_id(node: str, script_hash: str, slot: str) -> str:
    """The id of the job that such a run is: the same occasion never becomes two jobs."""
    return str(uuid5(_NAMESPACE, f"{node}\n{script_hash}\n{slot}"))


def boot_starts(planned: Iterable[Planned], boot: str) -> tuple[OwnStart, ...]:
    """The runs to begin once when the agent starts. `boot` is the id of this start of the agent."""
    at_boot = (one for one in planned if one.header.enable and one.header.startatboot)
    return tuple(OwnStart(one, f"boot {boot}") for one in sorted(at_boot, key=_rank))


def due(planned: Iterable[Planned], unfinished: Collection[str], *, since: float, now: float) -> Due:
    """What to begin at `now`, when the last look was at `since`; only the latest slot of each script is considered.

    `unfinished` are names of scripts of which a run of the agent's own has not ended. After the clock was set back
    nothing is due at the first look, and slots that come again give the job ids that they gave before.
    """
    starts: list[OwnStart] = []
    skipped: list[Skipped] = []
    for one in sorted((one for one in planned if _is_periodic(one)), key=_rank):
        time = _latest_slot(one.header.period, now)
        if time <= since:
            continue
        if one.header.name in unfinished:
            skipped.append(Skipped(one, _name(time), "previous run unfinished"))
        elif now - time > LATE_SECONDS:
            skipped.append(Skipped(one, _name(time), "missed"))
        else:
            starts.append(OwnStart(one, _name(time)))
    return Due(tuple(starts), tuple(skipped))


def next_wake(planned: Iterable[Planned], now: float) -> float | None:
    """The time of the next slot of any script; None when there is none."""
    return min((_next_slot(one.header.period, now) for one in planned if _is_periodic(one)), default=None)


def _is_periodic(one: Planned) -> bool:
    return one.header.enable and bool(one.header.period)


def _rank(one: Planned) -> tuple[int, str]:
    return one.header.order, one.header.name


def _latest_slot(period: int | str, now: float) -> int:
    """The time of the last slot that is not after `now`."""
    if isinstance(period, int):
        return int(now) // period * period
    return int(croniter(period, int(now) + 1).get_prev(float))


def _next_slot(period: int | str, now: float) -> int:
    """The time of the first slot after `now`."""
    if isinstance(period, int):
        return int(now) // period * period + period
    return int(croniter(period, int(now)).get_next(float))


def _name(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
