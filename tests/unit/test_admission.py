"""Admission: the same log gives every reader the same verdicts; nobody counts twice, nobody speaks for another."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.admission import ID_WINDOW, MAX_INTERVALS, AdmissionState, Admitted, Bad, Duplicate, Verdict, Void, admit
from bus.ports import Record
from events.codec import encode
from events.envelope import Event, derived_id
from events.job import CancelJob, JobFinished, JobStarted
from events.node import NodeConnected
from events.routing import routing_key
from events.script import ScriptRetired
from events.seat import SeatTaken, SeatTick

ROOT = "01900000-0000-7000-8000-000000000000"
START = datetime(2026, 1, 1, tzinfo=UTC)


def uid(name: object) -> str:
    return derived_id(ROOT, str(name))


@dataclass
class Log:
    """A log in a test: what is said gets the next offset, and its verdict at once."""

    state: AdmissionState = field(default_factory=AdmissionState)
    offset: int = 0

    def record(self, event: Event, user: str | None, key: str | None = None) -> Record:
        record = Record(self.offset, encode(event), key or routing_key(event), user)
        self.offset = record.next_offset
        return record

    def say(self, event: Event, user: str | None, key: str | None = None) -> Verdict:
        return admit(self.state, self.record(event, user, key))

    def take_seat(self, name: str, previous: str | None = None, at: datetime = START) -> Verdict:
        data = SeatTaken(seat="fleet", previous=previous, holder=name)
        return self.say(make("event.seat.taken", data, id=uid(name), time=at), "handlers")


def make(type: str, data: Any, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "id": uid("event"),
        "source": "test",
        "type": type,
        "subject": "s",
        "time": START,
        "actor": "system:fleet",
        "data": data,
    }
    return Event(**{**fields, **changes})


def started(seq: int, node: str = "n1", producer: str = "boot", **changes: Any) -> Event:
    data = JobStarted(job=uid("job"), node=node)
    fields: dict[str, Any] = {
        "actor": f"node:{node}",
        "producer": uid(producer),
        "seq": seq,
        "id": uid((producer, seq)),
    }
    return make("event.job.started", data, **{**fields, **changes})


def cancel(id: str = "command", actor: str = "user:alice") -> Event:
    return make("command.job.cancel", CancelJob(job=uid("job")), id=uid(id), actor=actor)


# rule 1: parse


@pytest.mark.parametrize(
    ("event", "user", "key", "said"),
    [
        (cancel(), None, None, "no user_id"),
        (cancel(), "portal", "command.job.retry", "the routing key is"),
        (cancel(actor="user:alice"), "service.billing", None, "may not speak as"),
        (cancel(actor="service:shop"), "service.billing", None, "may not speak as"),
        (cancel(actor="node:n1"), "node.n1", None, "agents do not give commands"),
        (started(1, node="n2"), "node.n1", None, "may not speak as"),
        (make("event.job.started", JobStarted(job=uid("j"), node="n2"), actor="node:n1"), "node.n1", None, "its agent"),
        (make("event.billing.paid", {}, actor="service:shop"), "service.shop", None, "belongs to service:billing"),
        (make("event.seat.tick", SeatTick(), actor="user:alice"), "portal", None, None),
        (make("event.job.started", JobStarted(job=uid("j"), node="n1"), actor="node:n1"), "node.n1", None, "producer"),
    ],
)
def test_who_says_what_he_may_not_say_is_bad(event: Event, user: str | None, key: str | None, said: str | None) -> None:
    verdict = Log().say(event, user, key)
    if said is None:
        assert isinstance(verdict, Void)
    else:
        assert isinstance(verdict, Bad)
        assert said in verdict.reason


def test_an_agent_passes_on_what_a_local_service_says_under_its_own_key() -> None:
    event = make("event.backup.done", {}, actor="service:backup", producer=uid("boot"), seq=1)
    assert isinstance(Log().say(event, "node.n1", "event.backup.done.node.n1"), Admitted)
    assert isinstance(Log().say(event, "node.n1", "event.backup.done.node.n2"), Bad)


# rule 2: once


def test_an_agents_fact_counts_once_per_seq_whatever_its_id() -> None:
    log = Log()
    assert isinstance(log.say(started(1), "node.n1"), Admitted)
    assert isinstance(log.say(started(1), "node.n1"), Duplicate)
    assert isinstance(log.say(started(1, id=uid("other")), "node.n1"), Duplicate)


def test_a_jump_opens_an_interval_that_retries_fill_in_any_order() -> None:
    log = Log()
    for seq in (1, 5, 3):
        assert isinstance(log.say(started(seq), "node.n1"), Admitted)
    assert [gap[1:] for gap in log.state.gaps()] == [(2, 2), (4, 4)]
    assert isinstance(log.say(started(4), "node.n1"), Admitted)
    assert isinstance(log.say(started(4), "node.n1"), Duplicate)
    assert [gap[1:] for gap in log.state.gaps()] == [(2, 2)]


def test_a_bad_record_of_an_agent_uses_up_its_seq() -> None:
    log = Log()
    log.say(started(1), "node.n1")
    body = encode(started(2)).replace(b'"specversion":"1.0"', b'"specversion":"9.9"')
    assert isinstance(admit(log.state, Record(log.offset, body, "event.job.started.node.n1", "node.n1")), Bad)
    assert isinstance(log.say(started(3), "node.n1"), Admitted)
    assert list(log.state.gaps()) == []


def test_nobody_uses_up_the_seqs_of_another_nodes_producer() -> None:
    log = Log()
    assert isinstance(log.say(started(1, node="n2", producer="boot of n1"), "node.n2"), Admitted)
    assert isinstance(log.say(started(1, node="n1", producer="boot of n1"), "node.n1"), Admitted)


def test_nobody_uses_up_the_id_of_another_users_event() -> None:
    log = Log()
    assert isinstance(log.say(cancel("x", "service:billing"), "service.billing"), Admitted)
    assert isinstance(log.say(cancel("x"), "portal"), Admitted)
    assert isinstance(log.say(cancel("x"), "portal"), Duplicate)


def test_what_was_void_does_not_use_up_its_id() -> None:
    log = Log()
    log.take_seat("a")
    retired = make("event.script.retired", ScriptRetired(name="x"), id=uid("fact"))
    assert isinstance(log.say(retired, "handlers"), Void)
    true = make("event.script.retired", ScriptRetired(name="x"), id=uid("fact"), seattoken=uid("a"))
    assert isinstance(log.say(true, "handlers"), Admitted)


def test_a_seq_of_ten_to_the_fifteenth_neither_blocks_nor_fills_memory() -> None:
    log = Log()
    assert isinstance(log.say(started(10**15), "node.n1"), Admitted)
    for seq in range(1, 50):
        assert isinstance(log.say(started(seq), "node.n1"), Admitted)
    assert len(list(log.state.gaps())) == 1


def test_open_intervals_are_bounded_and_the_lowest_is_given_up() -> None:
    log = Log()
    for seq in range(2, 2 * MAX_INTERVALS + 4, 2):
        log.say(started(seq), "node.n1")
    assert len(list(log.state.gaps())) == MAX_INTERVALS
    assert isinstance(log.say(started(1), "node.n1"), Duplicate)


def test_ids_are_forgotten_by_log_time_and_not_by_any_clock() -> None:
    log = Log()
    log.take_seat("a")
    log.say(cancel("x"), "portal")
    tick = {"actor": "system:fleet", "seattoken": uid("a")}
    log.say(make("event.seat.tick", SeatTick(), id=uid("t1"), time=START + ID_WINDOW, **tick), "handlers")
    assert isinstance(log.say(cancel("x"), "portal"), Duplicate)
    later = START + ID_WINDOW + timedelta(microseconds=1)
    log.say(make("event.seat.tick", SeatTick(), id=uid("t2"), time=later, **tick), "handlers")
    assert isinstance(log.say(cancel("x"), "portal"), Admitted)


# rule 3: the seat


def test_without_the_holders_token_a_deciders_fact_is_void() -> None:
    log = Log()
    log.take_seat("a")
    assert isinstance(log.say(make("event.seat.tick", SeatTick()), "handlers"), Void)
    assert isinstance(log.say(make("event.seat.tick", SeatTick(), seattoken=uid("b")), "handlers"), Void)
    assert isinstance(log.say(make("event.seat.tick", SeatTick(), seattoken=uid("a")), "handlers"), Admitted)


def test_the_seat_is_taken_by_compare_and_set() -> None:
    log = Log()
    assert isinstance(log.take_seat("a"), Admitted)
    assert isinstance(log.take_seat("b"), Void), "b did not know of a"
    assert isinstance(log.take_seat("c", previous=uid("a")), Admitted)
    assert isinstance(log.take_seat("d", previous=uid("a")), Void), "c was faster"
    assert log.state.token == uid("c")


def test_a_former_holders_late_facts_are_void() -> None:
    log = Log()
    log.take_seat("a")
    log.take_seat("b", previous=uid("a"))
    assert isinstance(log.say(make("event.seat.tick", SeatTick(), seattoken=uid("a")), "handlers"), Void)


def test_nobody_but_the_handlers_takes_the_seat() -> None:
    log = Log()
    data = SeatTaken(seat="fleet", previous=None, holder="me")
    assert isinstance(log.say(make("event.seat.taken", data, actor="user:eve"), "portal"), Void)
    assert log.state.token is None


def test_only_valid_facts_of_the_seat_move_log_time() -> None:
    log = Log()
    log.take_seat("a")
    far = START + timedelta(days=365)
    log.say(make("event.seat.tick", SeatTick(), time=far), "handlers")
    log.say(make("command.job.cancel", CancelJob(job=uid("j")), actor="user:a", time=far), "portal")
    assert log.state.log_time == START


# all of it


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["n1", "n2"])), max_size=60))
def test_however_facts_are_repeated_and_mixed_each_counts_once(said: list[tuple[int, str]]) -> None:
    log = Log()
    counted: list[tuple[int, str]] = []
    for seq, node in said:
        data = JobFinished(job=uid("job"), node=node, outcome="succeeded", duration=1)
        event = make("event.job.finished", data, actor=f"node:{node}", producer=uid(node), seq=seq, id=uid((node, seq)))
        if isinstance(log.say(event, f"node.{node}"), Admitted):
            counted.append((seq, node))
    assert sorted(counted) == sorted(set(said))


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 40))
def test_two_readers_agree_wherever_one_of_them_began_to_batch(choices: list[int], cut: int) -> None:
    events = [
        (cancel("x"), "portal"),
        (started(1), "node.n1"),
        (started(3), "node.n1"),
        (make("event.seat.tick", SeatTick(), id=uid("t"), seattoken=uid("a")), "handlers"),
        (
            make("event.node.connected", NodeConnected(node="n1", boot=uid("b"), journal=uid("j")), actor="node:n1"),
            "node.n1",
        ),
        (make("event.seat.taken", SeatTaken(seat="fleet", previous=None, holder="a"), id=uid("a")), "handlers"),
    ]
    writer = Log()
    records = [writer.record(*events[choice]) for choice in choices]
    one, other = AdmissionState(), AdmissionState()
    verdicts = [admit(one, record) for record in records]
    first = [admit(other, record) for record in records[:cut]]
    assert verdicts == first + [admit(other, record) for record in records[cut:]]
