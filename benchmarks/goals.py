"""What the figures are wanted to be, and whether they are. A goal names its table, so that no figure is typed twice."""

import operator
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from benchmarks.measure import Figure, Ratio, Table

Sign = Literal[">=", "<="]
SIGNS: MappingProxyType[Sign, Callable[[float, float], bool]] = MappingProxyType({">=": operator.ge, "<=": operator.le})


class Wanted(Struct, frozen=True):
    """`table` is what a table's title begins with. With `peer` it is about the ratio to it, else about the figure of
    `contestant`; of a figure the worst run counts where `always`.
    """

    what: str
    table: str
    figure: str
    sign: Sign
    bound: float
    peer: str = ""
    contestant: str = "fleetbus"
    unit: str = ""
    always: bool = False


class Verdict(Struct, frozen=True):
    """What came out for one goal, in the table of that title; `share` is how much was reached: 1 is just met."""

    wanted: Wanted
    title: str
    found: Figure | Ratio

    @property
    def value(self) -> float:
        if not self.wanted.always:
            return self.found.median
        return self.found.high if self.wanted.sign == "<=" else self.found.low

    @property
    def met(self) -> bool:
        return SIGNS[self.wanted.sign](self.value, self.wanted.bound)

    @property
    def share(self) -> float:
        if self.wanted.sign == ">=":
            return self.value / self.wanted.bound
        return self.wanted.bound / self.value if self.value else 2.0


WANTED = (
    Wanted(
        "confirmed appends, one process",
        "Confirmed appends",
        "confirmed appends",
        ">=",
        0.7,
        "bare pika, windowed confirms",
    ),
    Wanted(
        "confirmed appends, one process", "Confirmed appends", "confirmed appends", ">=", 10, "kombu, confirm_publish"
    ),
    Wanted("log read, decoded, admitted", "Reading the log", "read", ">=", 0.6, "bare rstream"),
    Wanted("log read, decoded, admitted", "Reading the log", "read", ">=", 2.5, "bare pika"),
    Wanted(
        "rebuild of all views, SQLite",
        "Rebuild",
        "rebuilt",
        ">=",
        20_000,
        contestant="fleetbus, SQLite",
        unit="events/s",
    ),
    Wanted("rebuild of all views, MongoDB's protocol", "Rebuild", "written", ">=", 0.8, "bare bulk_write"),
    Wanted("round trip of an empty job, p50", "Empty jobs", "round trip p50", "<=", 1.5, "Celery"),
    Wanted(
        "round trip of an empty job, p50", "Round trip beside Salt", "round trip p50", "<=", 0.1, "Salt, LocalClient"
    ),
    Wanted("empty jobs completed", "Empty jobs", "empty jobs completed", ">=", 4, "Celery"),
    Wanted(
        "a job on each of 5,000 nodes: the last answer",
        "A job on every node",
        "last answer",
        "<=",
        10,
        contestant="5,000 agents",
        unit="s",
        always=True,
    ),
    Wanted(
        "a job on each of 5,000 nodes: answers missing",
        "A job on every node",
        "missing",
        "<=",
        0,
        contestant="5,000 agents",
        unit="answers",
        always=True,
    ),
    Wanted("lists of 20,000, 30 requests/s, p99", "Lists of 20,000", "p99", "<=", 100, unit="ms"),
    Wanted("1,000 watchers, 100 events/s, p99", "1,000 watchers", "p99", "<=", 1_000, unit="ms"),
    Wanted("1,000 watchers, 100 events/s, missing", "1,000 watchers", "missing", "<=", 0, unit="events", always=True),
    Wanted(
        "round trip, 10^6 events in the log beside none",
        "Growth with the log",
        "round trip p50",
        "<=",
        1.2,
        "0 events",
    ),
    Wanted(
        "memory at rest: agent with 2 workers",
        "Memory at rest",
        "memory",
        "<=",
        100,
        contestant="agent, 2 workers",
        unit="MB",
    ),
    Wanted("memory at rest: handlers", "Memory at rest", "memory", "<=", 100, contestant="handlers", unit="MB"),
    Wanted("memory at rest: projections", "Memory at rest", "memory", "<=", 100, contestant="projections", unit="MB"),
    Wanted("memory at rest: portal", "Memory at rest", "memory", "<=", 100, contestant="portal", unit="MB"),
)


def verdicts(tables: Sequence[Table]) -> list[tuple[Wanted, list[Verdict]]]:
    """Each goal with what was found for it: nothing when it was not measured, several for several tables."""
    return [(wanted, list(_found(wanted, tables))) for wanted in WANTED]


def _found(wanted: Wanted, tables: Sequence[Table]) -> Iterator[Verdict]:
    for table in tables:
        if not table.title.startswith(wanted.table):
            continue
        for ratio in table.ratios:
            if wanted.peer and ratio.name == wanted.figure and ratio.peer.startswith(wanted.peer):
                yield Verdict(wanted, table.title, ratio)
        for figure in table.figures:
            if not wanted.peer and (figure.name, figure.contestant) == (wanted.figure, wanted.contestant):
                yield Verdict(wanted, table.title, figure)
