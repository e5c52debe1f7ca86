"""Where a job's time went, hop by hop, from what the log says of it. Pure.

    sent       who asks         the command was made                                         sender's clock
    decided    handlers         it was queued for a node, or was to wait first               handlers' clock
    received   agent            the agent took the order out of its inbox                    node's clock
    accepted   agent            the order was in the agent's journal                         node's clock
    started    agent            its process was there                                        node's clock
    began      agent            the script was let go                                        node's clock
    ended      agent            the script's own time was over: measured, not by a clock     node's clock
    told       agent            its end was made a fact                                      node's clock

A mark that nobody made is left out, and the hop goes on to the next one. Between two clocks a hop is only as right as
they agree: one that would be negative is told as 0, with what the clocks differ by at least.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from msgspec import Struct

#: Whose clock a mark is of.
SENDER, HANDLERS, NODE = "sender", "handlers", "node"


class Hop(Struct, frozen=True, kw_only=True):
    """One stretch. `end` and `seconds` are null while it lasts. `clocks`: whose said when it began, and ended.

    `differ`: seconds by which the two clocks differ at least, because the hop ended before it began.
    """

    name: str
    begin: datetime
    end: datetime | None
    seconds: float | None
    clocks: tuple[str, str]
    differ: float = 0.0


class Mark(Struct, frozen=True):
    """A moment in a job's life: the hop that begins there is called `then`."""

    then: str
    clock: str
    at: datetime


def hops(job: Mapping[str, Any], sent: str | None) -> list[Hop]:
    """The hops of a job, as the view has it. `sent`: when its command was made, if it had one."""
    marks = _marks(job, sent)
    ended = job.get("ended_at") is not None
    found = [_hop(mark, after) for mark, after in pairwise(marks)]
    if marks and not ended:
        found.append(
            Hop(name=marks[-1].then, begin=marks[-1].at, end=None, seconds=None, clocks=(marks[-1].clock,) * 2)
        )
    return found


def _marks(job: Mapping[str, Any], sent: str | None) -> list[Mark]:
    """In the order in which they must have been, whatever clocks say."""
    began, ended_at = _moment(job.get("began_at")), _moment(job.get("ended_at"))
    submitted, queued = _moment(job.get("submitted_at")), _moment(job.get("queued_at"))
    own = job.get("own_slot") is not None
    marks = [
        ("decide", SENDER, _moment(sent)),
        ("wait for a node", HANDLERS, None if own or submitted == queued else submitted),
        ("deliver", HANDLERS, queued),
        ("write the journal", NODE, _moment(job.get("received_at"))),
        ("wait for a worker", NODE, _moment(job.get("accepted_at"))),
        ("start the script", NODE, _moment(job.get("started_at"))),
        ("run", NODE, began),
        ("tell the end", NODE, _script_end(began, job.get("duration"))),
        ("", NODE if _said_by_node(job) else HANDLERS, ended_at),
    ]
    found = [Mark(then, clock, at) for then, clock, at in marks if at is not None]
    # without `began`, the script and its start are one stretch
    return (
        found
        if began
        else [Mark("run", mark.clock, mark.at) if mark.then == "start the script" else mark for mark in found]
    )


def _script_end(began: datetime | None, duration: Any) -> datetime | None:
    if began is None or not isinstance(duration, int | float):
        return None
    return began + timedelta(seconds=duration)


def _said_by_node(job: Mapping[str, Any]) -> bool:
    """Whether the end is the agent's own word; what the fleet inferred has the handlers' time."""
    return any(fact.get("type") == "event.job.finished" for fact in job.get("history") or ())


def _hop(mark: Mark, after: Mark) -> Hop:
    seconds = (after.at - mark.at).total_seconds()
    return Hop(
        name=mark.then,
        begin=mark.at,
        end=after.at,
        seconds=max(0.0, round(seconds, 6)),
        clocks=(mark.clock, after.clock),
        differ=max(0.0, round(-seconds, 6)),
    )


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
