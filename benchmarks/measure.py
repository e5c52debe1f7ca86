"""Figures: medians of alternating runs, their spread, and the ratio to a peer."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from benchmarks.place import Progress

#: One run of one contestant: its figures by name.
Run = Callable[[], Mapping[str, float]]


class Figure(Struct, frozen=True):
    """One figure of one contestant over all runs: median, lowest and highest."""

    name: str
    contestant: str
    unit: str
    median: float
    low: float
    high: float


class Ratio(Struct, frozen=True):
    """fleetbus against a peer: the median of the ratios run by run, which holds when the machine's speed drifts."""

    name: str
    peer: str
    median: float
    low: float
    high: float
    goal: str


class Goal(Struct, frozen=True):
    """What a ratio is wanted to be, such as `>= 0.7`."""

    figure: str
    peer: str
    text: str


class Table(Struct, frozen=True):
    title: str
    figures: list[Figure]
    ratios: list[Ratio]


def compare(
    title: str,
    contestants: Mapping[str, Run],
    units: Mapping[str, str],
    goals: Sequence[Goal],
    runs: int,
    progress: Progress,
) -> Table:
    """Runs the contestants in turn, `runs` times, after one round that does not count. The first is fleetbus."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in contestants}
    for turn in range(runs + 1):
        for name, run in contestants.items():
            progress(f"{title}: {name}, run {turn} of {runs}" if turn else f"{title}: {name}, warming up")
            figures = run()
            if turn:
                found[name].append(figures)
    return tabulate(title, found, units, goals)


def tabulate(
    title: str, found: Mapping[str, list[Mapping[str, float]]], units: Mapping[str, str], goals: Sequence[Goal]
) -> Table:
    """The table of what each contestant's runs gave. The first contestant is compared with the goals' peers."""
    rows = [_figure(name, contestant, units, runs) for contestant, runs in found.items() for name in units]
    return Table(title, rows, [_ratio(goal, next(iter(found)), found) for goal in goals])


def compare_once(title: str, contestants: Mapping[str, Run], units: Mapping[str, str]) -> Table:
    """Runs each contestant a single time: for what happens only once."""
    return tabulate(title, {name: [run()] for name, run in contestants.items()}, units, ())


def _figure(name: str, contestant: str, units: Mapping[str, str], runs: list[Mapping[str, float]]) -> Figure:
    values = [run[name] for run in runs]
    return Figure(name, contestant, units[name], statistics.median(values), min(values), max(values))


def _ratio(goal: Goal, own: str, found: Mapping[str, list[Mapping[str, float]]]) -> Ratio:
    pairs = zip(found[own], found[goal.peer], strict=True)
    values = [mine[goal.figure] / theirs[goal.figure] for mine, theirs in pairs]
    return Ratio(goal.figure, goal.peer, statistics.median(values), min(values), max(values), goal.text)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
