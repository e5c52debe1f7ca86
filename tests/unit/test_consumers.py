"""What a portal remembers of the consumers whose canaries it hears."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from bus.ports import Record
from events.codec import encode
from events.envelope import Event
from events.telemetry import Canary
from portal.consumers import MAX_CONSUMERS, SILENT_AFTER, Consumers


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def sing(
    clock: Clock, holder: str, *, user: str = "projections", name: str = "projections", age: float = 0.0
) -> Record:
    event = Event(
        id=str(uuid4()),
        source="test",
        type="telemetry.canary",
        subject=name,
        time=clock.now() - timedelta(seconds=age),
        actor="service:projections",
        data=Canary(holder=holder, beat=1, consumer=name, next_offset=3, end=7, lag_seconds=2.5),
    )
    return Record(0, encode(event), "telemetry.canary", user)


def test_the_last_word_of_each_is_told_with_its_age() -> None:
    clock = Clock()
    consumers = Consumers(clock)
    consumers.hear(sing(clock, "a:1"))
    clock.seconds += 4
    (one,) = consumers.all()
    assert (one.name, one.lag_records, one.lag_seconds, one.heard, one.silent) == ("projections", 4, 2.5, 4.0, False)


def test_the_last_of_its_name_is_told_as_silent_and_gives_way_to_a_successor() -> None:
    clock = Clock()
    consumers = Consumers(clock)
    consumers.hear(sing(clock, "a:1"))
    clock.seconds += SILENT_AFTER + 1
    assert [(one.holder, one.silent) for one in consumers.all()] == [("a:1", True)]
    consumers.hear(sing(clock, "a:2"))
    assert [(one.holder, one.silent) for one in consumers.all()] == [("a:2", False)]


def test_what_was_sung_before_the_portal_listened_is_passed_over() -> None:
    clock = Clock()
    consumers = Consumers(clock)
    consumers.hear(sing(clock, "a:1", age=300.0))
    assert consumers.all() == []


def test_only_the_fleets_own_are_heard_and_nobody_as_another() -> None:
    clock = Clock()
    consumers = Consumers(clock)
    consumers.hear(sing(clock, "a:1", user="node.n1"))
    # the portal's user may not speak as system, nor the handlers' as a service
    consumers.hear(sing(clock, "a:1", user="handlers"))
    assert consumers.all() == []


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    consumers = Consumers(clock)
    for n in range(2 * MAX_CONSUMERS):
        consumers.hear(sing(clock, f"a:{n}"))
    assert len(consumers.all()) == MAX_CONSUMERS
