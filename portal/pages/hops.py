"""The time line of a job as rows of a page: each hop in words, with a bar at its place. Pure."""

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup
from msgspec import Struct

from portal.pages.charts import stretch_bar
from portal.pages.wording import duration
from portal.timeline import HANDLERS, NODE, SENDER, Hop

#: What happens in each hop, for those who did not read the documentation.
_TEXTS = {
    "decide": "its command goes into the log, and the handlers decide on it",
    "wait for a node": "no node can take it yet",
    "deliver": "the decision goes into the log, and from there into the node's inbox",
    "write the journal": "the agent keeps the order before it acknowledges it",
    "wait for a worker": "until a worker of its queue is free",
    "start the script": "its process is there, and the journal says so",
    "run": "the script itself",
    "tell the end": "the agent writes down how it ended",
}
_CLOCKS = {SENDER: "the sender", HANDLERS: "the handlers", NODE: "the node"}


class Row(Struct, frozen=True):
    """One hop. `note` says what is to be known of its clocks; "" when it was measured by one."""

    name: str
    text: str
    took: str
    note: str
    bar: Markup
    lasts: bool


def rows_of(hops: Sequence[Hop], now: datetime) -> list[Row]:
    """The bars stand one after the other, as long as the hops took: no clock's difference moves them."""
    lengths = [_length(hop, now) for hop in hops]
    total = sum(lengths) or 1.0
    rows, at = [], 0.0
    for hop, length in zip(hops, lengths, strict=True):
        lasts = hop.seconds is None
        bar = stretch_bar(at / total, length / total, "running" if lasts else "run" if hop.name == "run" else "hop")
        took = f"{brief(length)} so far" if lasts else brief(length)
        rows.append(Row(hop.name, _TEXTS[hop.name], took, _note(hop), bar, lasts))
        at += length
    return rows


def brief(seconds: float) -> str:
    """As `duration`, with tenths of milliseconds where these say something."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else duration(seconds)


def _length(hop: Hop, now: datetime) -> float:
    return max(0.0, (now - hop.begin).total_seconds()) if hop.seconds is None else hop.seconds


def _note(hop: Hop) -> str:
    begin, end = (_CLOCKS[clock] for clock in hop.clocks)
    if hop.differ and begin == end:
        return f"the clock of {begin} was set back by at least {brief(hop.differ)} meanwhile; shown as 0"
    if hop.differ:
        return f"the clocks of {begin} and {end} differ by at least {brief(hop.differ)}; shown as 0"
    return "" if begin == end else f"from the clock of {begin} to that of {end}"
