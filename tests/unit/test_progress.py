"""Progress: what counts as behind, and what as standing still, on a clock that the test moves."""

from datetime import UTC, datetime

from bus.progress import MAX_MARKS, Progress


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


def made() -> tuple[Progress, Clock]:
    clock = Clock()
    return Progress("test", clock), clock


def test_a_consumer_that_has_everything_is_not_behind_however_long_nothing_comes() -> None:
    place, clock = made()
    place.at(10)
    for _ in range(5):
        clock.seconds += 1_000
        place.mark(10)
    assert (place.lag().records, place.lag().seconds, place.still_for()) == (0, 0.0, 0.0)


def test_lag_is_the_age_of_the_oldest_end_that_was_not_reached() -> None:
    place, clock = made()
    place.at(10)
    place.mark(20)
    clock.seconds += 5
    place.mark(30)
    clock.seconds += 5
    assert (place.lag().records, place.lag().seconds) == (20, 10.0)
    place.at(20)
    assert (place.lag().records, place.lag().seconds) == (10, 5.0)
    place.at(30)
    assert (place.lag().records, place.lag().seconds) == (0, 0.0)


def test_who_steps_now_and_then_is_late_but_does_not_stand_still() -> None:
    place, clock = made()
    place.at(0)
    for offset in range(1, 20):
        place.mark(1_000)
        clock.seconds += 50
        place.at(offset)
    assert place.lag().seconds == 950.0
    assert place.still_for() == 0.0


def test_standing_still_is_counted_from_the_moment_on_at_which_there_was_something_to_read() -> None:
    place, clock = made()
    place.at(10)
    clock.seconds += 1_000
    place.mark(11)
    assert place.still_for() == 0.0
    clock.seconds += 61
    assert place.still_for() == 61.0


def test_who_waits_for_something_else_or_is_busy_does_not_stand_still() -> None:
    place, clock = made()
    place.at(10)
    place.mark(11)
    clock.seconds += 61
    place.wait()
    assert place.still_for() == 0.0
    with place.busy():
        clock.seconds += 1_000
        assert place.still_for() == 0.0
    assert place.still_for() == 0.0
    assert place.lag().seconds == 1_061.0


def test_who_has_not_begun_does_not_stand_still() -> None:
    place, clock = made()
    place.mark(11)
    clock.seconds += 1_000
    assert place.still_for() == 0.0


def test_a_step_back_as_a_rebuild_makes_is_a_step() -> None:
    place, clock = made()
    place.at(100)
    place.mark(200)
    clock.seconds += 50
    place.at(0)
    assert place.still_for() == 0.0


def test_what_is_remembered_of_ends_is_bounded_and_keeps_the_oldest() -> None:
    place, clock = made()
    place.at(0)
    for end in range(1, 3 * MAX_MARKS):
        clock.seconds += 1
        place.mark(end)
    assert place.lag().seconds == 3 * MAX_MARKS - 2
