import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.header import Header
from nodeagent.schedule import LATE_SECONDS, Due, Planned, boot_starts, due, next_wake, run_id

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()


def planned(
    name: str = "facts", period: int | str = 0, *, order: int = 1, boot: bool = False, on: bool = True
) -> Planned:
    header = Header(name=name, descr="x", period=period, order=order, startatboot=boot, enable=on)
    return Planned(f"hash of {name}", header)


def slots(answer: Due) -> list[tuple[str, str]]:
    return [(start.planned.header.name, start.slot) for start in answer.starts]


def test_a_period_comes_due_on_multiples_of_itself_since_1970() -> None:
    every_five = [planned(period=300)]
    assert slots(due(every_five, (), since=NOON - 10, now=NOON - 0.1)) == []
    assert slots(due(every_five, (), since=NOON - 0.1, now=NOON)) == [("facts", "2026-03-01T12:00:00Z")]
    assert slots(due(every_five, (), since=NOON, now=NOON + 5)) == []
    assert next_wake(every_five, NOON) == NOON + 300
    assert next_wake(every_five, NOON - 0.5) == NOON


def test_a_cron_line_comes_due_in_utc_whatever_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/St_Johns")
    time.tzset()
    try:
        daily = [planned(period="0 12 * * *")]
        assert slots(due(daily, (), since=NOON - 1, now=NOON)) == [("facts", "2026-03-01T12:00:00Z")]
        assert next_wake(daily, NOON) == NOON + 86_400
        assert next_wake(daily, NOON - 0.5) == NOON
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_slot_is_skipped_while_the_previous_run_is_unfinished() -> None:
    answer = due([planned(period=5), planned("other", period=5)], {"facts"}, since=NOON - 1, now=NOON)
    assert slots(answer) == [("other", "2026-03-01T12:00:00Z")]
    assert [(skip.planned.header.name, skip.reason) for skip in answer.skipped] == [
        ("facts", "previous run unfinished")
    ]


def test_missed_slots_are_not_made_up() -> None:
    hourly = [planned(period=3600)]
    answer = due(hourly, (), since=NOON - 5 * 3600, now=NOON + LATE_SECONDS + 1)
    assert answer.starts == ()
    assert [skip.reason for skip in answer.skipped] == ["missed"]
    assert len(due(hourly, (), since=NOON - 5 * 3600, now=NOON + LATE_SECONDS).starts) == 1


def test_what_is_due_together_begins_by_order_and_then_by_name() -> None:
    scripts = [planned("b", 60), planned("last", 60, order=9), planned("a", 60), planned("first", 60, order=0)]
    assert [name for name, _ in slots(due(scripts, (), since=NOON - 1, now=NOON))] == ["first", "a", "b", "last"]


def test_boot_runs_begin_by_order_once_per_start_of_the_agent() -> None:
    scripts = [
        planned("b", boot=True),
        planned("off", boot=True, on=False),
        planned("a", boot=True, order=5),
        planned("c"),
    ]
    starts = boot_starts(scripts, "start-1")
    assert [(start.planned.header.name, start.slot) for start in starts] == [
        ("b", "boot start-1"),
        ("a", "boot start-1"),
    ]


def test_scripts_that_are_switched_off_or_on_demand_never_come_due() -> None:
    scripts = [planned("off", 1, on=False), planned("on_demand")]
    assert due(scripts, (), since=0, now=NOON) == Due()
    assert next_wake(scripts, NOON) is None
    assert next_wake([], NOON) is None


def test_the_id_of_a_run_follows_from_node_version_and_slot() -> None:
    first = run_id("n1", "h", "2026-03-01T12:00:00Z")
    assert UUID(first).version == 5
    assert first == run_id("n1", "h", "2026-03-01T12:00:00Z")
    assert len({first, run_id("n2", "h", "2026-03-01T12:00:00Z"), run_id("n1", "i", "2026-03-01T12:00:00Z")}) == 3


PERIODS = st.integers(1, 100_000) | st.sampled_from(
    ["* * * * *", "*/7 3 * * *", "0 0 1 * *", "15 10 * * mon", "@weekly"]
)


@settings(deadline=None)
@given(PERIODS, st.floats(1.6e9, 2e9), st.lists(st.floats(0.01, 29), max_size=30))
def test_looking_often_enough_finds_every_slot_once(period: int | str, begin: float, steps: list[float]) -> None:
    scripts, found, now = [planned(period=period)], [], begin
    expected: list[str] = []
    wake = next_wake(scripts, begin)
    for step in steps:
        since, now = now, now + step
        found += [slot for _, slot in slots(due(scripts, (), since=since, now=now))]
    while wake is not None and wake <= now and len(expected) < 1000:
        expected.append(datetime.fromtimestamp(wake, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        wake = next_wake(scripts, wake)
    assert len(set(found)) == len(found)
    # when several slots pass between two looks, only the latest is taken
    assert set(found) <= set(expected)
    if not isinstance(period, int) or period >= 30:
        assert found == expected


@settings(deadline=None)
@given(PERIODS, st.floats(1.6e9, 2e9))
def test_waking_at_the_next_slot_finds_it_due(period: int | str, now: float) -> None:
    scripts = [planned(period=period)]
    wake = next_wake(scripts, now)
    assert wake is not None
    assert wake > now
    assert len(due(scripts, (), since=now, now=wake).starts) == 1
