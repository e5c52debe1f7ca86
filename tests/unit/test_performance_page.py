"""docs/performance.md says what the runs' JSON says, and all of it."""

from dataclasses import dataclass

import pytest

from benchmarks import report
from benchmarks.goals import WANTED, Verdict, Wanted
from benchmarks.measure import Figure, Ratio, Table


def test_the_page_is_what_its_data_renders_to() -> None:
    page = report.PAGE.read_text()
    assert report.render(page, report.read()) == page, "run `python -m benchmarks.report`"


def test_the_charts_are_what_their_data_renders_to() -> None:
    for name, chart in report.charts(report.read()).items():
        assert (report.DATA / name).read_text() == chart, "run `python -m benchmarks.report`"


def test_every_table_that_was_measured_stands_on_the_page() -> None:
    page = report.PAGE.read_text()
    for one in report.read():
        for table in one.tables:
            assert f"*{table.title}*" in page


FASTER = Wanted("speed", "Speed", "rate", ">=", 2.0, "the peer")
ALWAYS = Wanted("delay", "Delay", "delay", "<=", 10.0, unit="s", always=True)


@dataclass
class Case:
    wanted: Wanted
    found: Figure | Ratio
    met: bool
    share: float


@pytest.mark.parametrize(
    "case",
    [
        Case(FASTER, Ratio("rate", "the peer", 3.0, 1.0, 4.0, ""), True, 1.5),
        Case(FASTER, Ratio("rate", "the peer", 1.0, 1.0, 4.0, ""), False, 0.5),
        Case(ALWAYS, Figure("delay", "fleetbus", "s", 5.0, 1.0, 8.0), True, 1.25),
        Case(ALWAYS, Figure("delay", "fleetbus", "s", 5.0, 1.0, 20.0), False, 0.5),
    ],
)
def test_a_goal_is_judged_by_its_sign_and_of_always_by_the_worst_run(case: Case) -> None:
    verdict = Verdict(case.wanted, "Title", case.found)
    assert (verdict.met, verdict.share) == (case.met, case.share)


def test_a_goal_missed_says_so_on_the_page_and_one_without_figures_that_it_was_not_measured() -> None:
    slow = Figure("last answer", "5,000 agents", "s", 9.0, 8.0, 11.0)
    tables = [Table("A job on every node", [slow], [])]
    page = "<!-- goals -->\nsomething old\n<!-- end -->\n"
    made = report.render(page, [report.Report(began="2026-01-02", machine={}, tables=tables)])
    assert "something old" not in made
    assert (
        "| a job on each of 5,000 nodes: the last answer | <= 10.0 s, always | 11.0 s | 8.00 to 11.0 | **missed** |"
        in made
    )
    assert made.count("not measured") == len(WANTED) - 1
