"""The contract of `bus.ports`, sentence by sentence, on both engines."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.errors import Closed, InboxTaken, Refused
from bus.ports import Bus, Delivered, Inbox, Message, Record, Seat
from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user
from tests.contract.bus_contract import (
    SOON,
    EmbeddedEngine,
    Engine,
    RabbitEngine,
    event,
    new_node,
    read_some,
)
from tests.servers.management import Management
from tests.waiting import wait_until

ENGINES = [
    pytest.param("embedded", id="embedded"),
    pytest.param("rabbitmq", id="rabbitmq", marks=pytest.mark.servers),
    pytest.param("native", id="native", marks=pytest.mark.servers),
]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made: Engine
    if request.param == "embedded":
        made = EmbeddedEngine(tmp_path / "bus")
    else:
        management: Management = request.getfixturevalue("rabbitmq_management")
        # RabbitMQ again, with streams read over its native protocol
        stream_url = request.getfixturevalue("stream_url") if request.param == "native" else ""
        made = RabbitEngine(management, request.getfixturevalue("amqp_vhost"), stream_url)
    yield made
    made.close()


@pytest.fixture
def handlers(engine: Engine) -> Bus:
    return engine.bus(HANDLERS)


def publish(bus: Bus, messages: list[Message]) -> None:
    for future in [bus.publish(message) for message in messages]:
        assert future.result(SOON) is None


def bodies(records: list[Record]) -> list[bytes]:
    return [record.body for record in records]


# ---------------------------------------------------------------- what is published


def test_a_record_keeps_body_key_and_user_of_its_message(engine: Engine) -> None:
    portal = engine.bus(PORTAL)
    publish(portal, [Message(key="command.job.submit", body=b'{"a": 1}', id="i", type="command.job.submit")])
    with portal.stream("log").read_from("first") as reader:
        record = read_some(reader, 2)[-1]
    assert (record.body, record.key, record.user) == (b'{"a": 1}', "command.job.submit", PORTAL)


def test_the_key_decides_on_the_stream_and_what_none_is_bound_to_goes_to_the_log(handlers: Bus) -> None:
    keys = {
        "log": ["command.a.b", "event.a.b.node.n1", "nonsense", "a.telemetry", "eventual.b"],
        "telemetry": ["telemetry.heartbeat.node.n1", "telemetry.stats"],
        "blobs": ["blob." + "0" * 64 + ".0.1"],
    }
    publish(handlers, [event(0, key) for group in keys.values() for key in group])
    found = {}
    for name in ("log", "telemetry", "blobs"):
        with handlers.stream(name).read_from("first") as reader:
            expected = len(keys[name]) + (name == "log")
            found[name] = [record.key for record in read_some(reader, expected)]
    assert found == keys | {"log": ["event.log.created", *keys["log"]]}


def test_messages_of_one_process_are_appended_in_the_order_of_their_calls(handlers: Bus) -> None:
    publish(handlers, [event(n) for n in range(3_000)])
    with handlers.stream("log").read_from(1) as reader:
        assert bodies(read_some(reader, 3_000)) == [str(n).encode() for n in range(3_000)]


def test_any_thread_may_publish_and_each_keeps_its_order(handlers: Bus) -> None:
    def send(thread: int) -> None:
        publish(handlers, [event(n, f"event.thread.t{thread}") for n in range(500)])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send, range(4)))
    with handlers.stream("log").read_from(1) as reader:
        records = read_some(reader, 2_000)
    for thread in range(4):
        said = [record.body for record in records if record.key == f"event.thread.t{thread}"]
        assert said == [str(n).encode() for n in range(500)]


def test_a_body_is_not_looked_into(handlers: Bus) -> None:
    def publishes_and_finds(body: bytes) -> None:
        publish(handlers, [Message(key="event.test.said", body=body)])
        assert read_some(reader, 1)[0].body == body

    # one engine for all examples: what differs between them is in the records alone
    check = given(st.binary(max_size=2_000))(publishes_and_finds)
    with handlers.stream("log").read_from("next") as reader:
        settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))(check)()
        publishes_and_finds(b"")
        publishes_and_finds(bytes(1_000_000))


def test_a_future_says_none_when_the_message_is_appended(handlers: Bus) -> None:
    log = handlers.stream("log")
    for n in range(30):
        assert handlers.publish(event(n)).result(SOON) is None
        assert log.next_offset() >= n + 2


def test_publishing_on_a_closed_bus_fails_with_closed(engine: Engine) -> None:
    bus = engine.bus(PORTAL)
    bus.close()
    bus.close()
    assert not bus.connected
    with pytest.raises(Closed):
        bus.publish(event(1)).result(SOON)


def test_closing_settles_every_future(engine: Engine) -> None:
    bus = engine.bus(HANDLERS)
    futures = [bus.publish(event(n)) for n in range(500)]
    bus.close()
    for future in futures:
        error = future.exception(SOON)
        assert error is None or isinstance(error, Closed)


def test_a_bus_knows_its_user_and_whether_it_is_connected(engine: Engine) -> None:
    bus = engine.bus(PORTAL)
    assert bus.user == PORTAL
    assert wait_until(lambda: bus.connected, deadline=SOON, what="the connection")


# ---------------------------------------------------------------- streams


def test_offsets_grow_and_next_offset_is_what_is_read_next(handlers: Bus) -> None:
    publish(handlers, [event(n) for n in range(100)])
    with handlers.stream("log").read_from("first") as reader:
        records = read_some(reader, 101)
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))
    for record, following in itertools.pairwise(records):
        assert record.next_offset <= following.offset


def test_a_reader_begins_at_the_offset_it_was_given_also_amid_what_was_appended_at_once(handlers: Bus) -> None:
    publish(handlers, [event(n) for n in range(1_000)])
    for start in (0, 1, 2, 500, 998, 1_000):
        with handlers.stream("log").read_from(start) as reader:
            records = read_some(reader, 1_001 - start)
        assert [record.offset for record in records] == list(range(start, 1_001))


def test_a_reader_beyond_the_end_waits_for_its_offset(handlers: Bus) -> None:
    with handlers.stream("log").read_from(6) as reader:
        assert reader.read(timeout=0.3) == []
        publish(handlers, [event(n) for n in range(10)])
        assert [record.offset for record in read_some(reader, 5)] == [6, 7, 8, 9, 10]


def test_a_reader_from_next_sees_what_this_process_publishes_after_it_and_nothing_before(engine: Engine) -> None:
    bus = engine.bus(HANDLERS)
    for round_ in range(5):
        before, after = event(2 * round_), event(2 * round_ + 1)
        early = bus.publish(before)
        with bus.stream("log").read_from("next") as reader:
            late = bus.publish(after)
            early.result(SOON)
            late.result(SOON)
            # what was on its way at the call may come, too
            read = bodies(read_some(reader, 1))
            assert read in ([after.body], [before.body], [before.body, after.body])
            assert after.body in read or bodies(read_some(reader, 1)) == [after.body]
        with bus.stream("log").read_from("next") as reader:
            assert reader.read(timeout=0.1) == []


def test_every_record_comes_once_while_it_is_published_and_read_at_the_same_time(engine: Engine) -> None:
    writer, other = engine.bus(HANDLERS), engine.bus(PROJECTIONS)
    with other.stream("log").read_from(1) as reader, ThreadPoolExecutor(1) as threads:
        sent = threads.submit(publish, writer, [event(n) for n in range(5_000)])
        records = read_some(reader, 5_000)
        sent.result(SOON)
        assert reader.read(timeout=0.2) == []
    assert bodies(records) == [str(n).encode() for n in range(5_000)]


def test_read_gives_at_most_its_limit_and_leaves_the_rest(handlers: Bus) -> None:
    publish(handlers, [event(n) for n in range(50)])
    with handlers.stream("log").read_from(1) as reader:
        read: list[Record] = []
        while len(read) < 50:
            part = reader.read(limit=7, timeout=SOON)
            assert 1 <= len(part) <= 7
            read += part
    assert bodies(read) == [str(n).encode() for n in range(50)]


def test_read_waits_for_the_first_record_and_answers_with_nothing_when_none_comes(handlers: Bus) -> None:
    with handlers.stream("log").read_from("next") as reader:
        began = time.monotonic()
        assert reader.read(timeout=0.5) == []
        assert time.monotonic() - began >= 0.5
        threading.Timer(0.2, lambda: handlers.publish(event(7))).start()
        assert bodies(reader.read(timeout=SOON)) == [b"7"]


def test_a_reader_that_was_left_alone_has_missed_nothing(handlers: Bus) -> None:
    """Back-pressure: more than any buffer holds waits in the stream."""
    with handlers.stream("log").read_from(1) as reader:
        assert reader.read(timeout=0.1) == []
        publish(handlers, [event(n) for n in range(6_000)])
        assert bodies(read_some(reader, 6_000)) == [str(n).encode() for n in range(6_000)]


def test_a_closed_reader_says_so_also_to_a_thread_that_waits(handlers: Bus) -> None:
    reader = handlers.stream("log").read_from("next")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(reader.read, timeout=60.0)
        threading.Timer(0.2, reader.close).start()
        with pytest.raises(Closed):
            waiting.result(SOON)
    with pytest.raises(Closed):
        reader.read(timeout=0)
    reader.close()


def test_closing_the_bus_closes_its_readers_and_inboxes(engine: Engine) -> None:
    bus, node = engine.bus(HANDLERS), new_node()
    agent = engine.bus(agent_user(node))
    reader, inbox = bus.stream("log").read_from("next"), agent.inbox(node)
    inbox.open([f"{node}.node"])
    with ThreadPoolExecutor(2) as threads:
        waiting: list[Future[list[Record]] | Future[list[Delivered]]] = [
            threads.submit(reader.read, timeout=60.0),
            threads.submit(inbox.read, timeout=60.0),
        ]
        threading.Timer(0.2, bus.close).start()
        threading.Timer(0.2, agent.close).start()
        for future in waiting:
            assert isinstance(future.exception(SOON), Closed)


def test_first_is_the_oldest_record_and_nothing_in_an_empty_stream(handlers: Bus) -> None:
    assert handlers.stream("blobs").first() is None
    publish(handlers, [event(n, f"blob.{'a' * 64}.{n}.3") for n in range(3)])
    first = handlers.stream("blobs").first()
    assert first is not None
    assert first.body == b"0"
    log = handlers.stream("log").first()
    assert log is not None
    assert (log.offset, log.key) == (0, "event.log.created")


def test_next_offset_is_zero_for_an_empty_stream_and_above_every_record_else(handlers: Bus) -> None:
    blobs = handlers.stream("blobs")
    assert blobs.next_offset() == 0
    publish(handlers, [event(n, f"blob.{'a' * 64}.{n}.9") for n in range(9)])
    with blobs.read_from("first") as reader:
        assert blobs.next_offset() == read_some(reader, 9)[-1].next_offset


def test_next_offset_is_above_what_others_append_meanwhile(engine: Engine) -> None:
    writer, other = engine.bus(HANDLERS), engine.bus(PROJECTIONS)
    confirmed = 1
    stop = threading.Event()

    def write() -> None:
        nonlocal confirmed
        while not stop.is_set():
            publish(writer, [event(n) for n in range(50)])
            confirmed += 50

    thread = threading.Thread(target=write)
    thread.start()
    try:
        log = other.stream("log")
        for _ in range(30):
            before = confirmed
            assert log.next_offset() >= before
    finally:
        stop.set()
        thread.join()
    assert log.next_offset() == confirmed


def test_offset_at_is_at_or_before_the_first_record_of_that_time_or_later(handlers: Bus) -> None:
    log = handlers.stream("log")
    publish(handlers, [event(n) for n in range(20)])
    assert log.offset_at(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert log.offset_at(datetime.now(UTC) + timedelta(hours=1)) == log.next_offset()
    # the engine may take whole seconds: what is later must not be in the same one
    between = int(time.time()) + 2
    wait_until(lambda: time.time() >= between, deadline=3, what="the next second")
    moment = datetime.now(UTC)
    publish(handlers, [event(n) for n in range(20, 40)])
    assert 0 < log.offset_at(moment) <= 21


# ---------------------------------------------------------------- deliveries and inboxes


@pytest.fixture
def node() -> str:
    return new_node()


@pytest.fixture
def agent(engine: Engine, node: str, tmp_path: Path) -> Bus:
    return engine.bus(agent_user(node), tmp_path)


def opened(bus: Bus, node: str, *words: str) -> Inbox:
    inbox = bus.inbox(node)
    inbox.open([f"{node}.{word}" for word in words])
    return inbox


def deliver(bus: Bus, key: str, body: bytes = b"") -> bool:
    return bus.deliver(key, body, "id").result(SOON)


def read_all(inbox: Inbox, count: int) -> list[bytes]:
    """The bodies of the next `count` deliveries, which are acknowledged."""
    found: list[bytes] = []

    def enough() -> bool:
        read = inbox.read(timeout=0.2)
        inbox.ack([delivered.tag for delivered in read])
        found.extend(delivered.body for delivered in read)
        return len(found) >= count

    wait_until(enough, deadline=SOON, what=f"{count} deliveries")
    return found


def test_a_delivery_says_whether_there_was_an_inbox(handlers: Bus, agent: Bus, node: str) -> None:
    assert deliver(handlers, f"{node}.node") is False
    opened(agent, node, "node", "cpu.#")
    answers = {key: deliver(handlers, f"{node}.{key}") for key in ("node", "cpu", "cpu.fast", "gpu", "node.more")}
    assert answers == {"node": True, "cpu": True, "cpu.fast": True, "gpu": False, "node.more": False}
    assert deliver(handlers, f"{new_node()}.node") is False


def test_each_of_many_deliveries_gets_its_own_answer(handlers: Bus, agent: Bus, node: str) -> None:
    opened(agent, node, "node")
    there = [n % 3 == 0 for n in range(300)]
    futures = [handlers.deliver(f"{node}.{'node' if each else 'nobody'}", b"") for each in there]
    assert [future.result(SOON) for future in futures] == there


def test_only_the_handlers_deliver(agent: Bus, node: str, engine: Engine) -> None:
    for bus in (agent, engine.bus(PORTAL), engine.bus(PROJECTIONS)):
        for _ in range(2):
            with pytest.raises(Refused):
                deliver(bus, f"{node}.node")


def test_deliveries_come_in_order_with_key_and_body(handlers: Bus, agent: Bus, node: str) -> None:
    inbox = opened(agent, node, "node", "cpu.#")
    for n in range(200):
        handlers.deliver(f"{node}.node" if n % 2 else f"{node}.cpu.fast", str(n).encode())
    read: list[Delivered] = []
    while len(read) < 200:
        part = inbox.read(limit=30, timeout=SOON)
        assert 1 <= len(part) <= 30
        inbox.ack([delivered.tag for delivered in part])
        read += part
    assert [delivered.body for delivered in read] == [str(n).encode() for n in range(200)]
    assert {delivered.key for delivered in read} == {f"{node}.node", f"{node}.cpu.fast"}


def test_an_inbox_answers_with_nothing_when_nothing_comes(agent: Bus, node: str) -> None:
    assert opened(agent, node, "node").read(timeout=0.2) == []


def test_what_is_acknowledged_is_gone_and_the_rest_comes_again(
    engine: Engine, handlers: Bus, agent: Bus, node: str
) -> None:
    inbox = opened(agent, node, "node")
    assert inbox.generation == 1
    for n in range(6):
        deliver(handlers, f"{node}.node", str(n).encode())
    read = inbox.read(timeout=SOON)
    while len(read) < 6:
        read += inbox.read(timeout=SOON)
    inbox.ack([delivered.tag for delivered in read if int(delivered.body) % 2])
    inbox.close()
    again = opened(engine.bus(agent_user(node)), node, "node")
    assert read_all(again, 3) == [b"0", b"2", b"4"]


def test_an_inbox_outlives_its_agent(engine: Engine, handlers: Bus, agent: Bus, node: str) -> None:
    opened(agent, node, "node").close()
    agent.close()
    assert deliver(handlers, f"{node}.node", b"meanwhile") is True
    assert read_all(opened(engine.bus(agent_user(node)), node, "node"), 1) == [b"meanwhile"]


def test_exactly_the_given_keys_are_bound(handlers: Bus, agent: Bus, node: str) -> None:
    inbox = opened(agent, node, "node", "a.#", "b.#")

    def bound() -> set[str]:
        return {role for role in ("node", "a", "b", "c") if deliver(handlers, f"{node}.{role}")}

    assert bound() == {"node", "a", "b"}
    inbox.bind([f"{node}.node", f"{node}.b.#", f"{node}.c.#"])
    assert bound() == {"node", "b", "c"}
    inbox.bind([])
    assert bound() == set()
    inbox.bind([f"{node}.a.#"])
    assert bound() == {"a"}


def test_keys_of_a_former_process_are_not_bound_any_more(
    engine: Engine, handlers: Bus, agent: Bus, node: str, tmp_path: Path
) -> None:
    opened(agent, node, "node", "old.#", "kept.#")
    agent.close()
    opened(engine.bus(agent_user(node), tmp_path), node, "node", "kept.#")
    assert deliver(handlers, f"{node}.kept") is True
    assert deliver(handlers, f"{node}.old") is False


@pytest.mark.slow
def test_a_clone_is_told_that_the_inbox_is_taken_and_changes_nothing(
    engine: Engine, handlers: Bus, agent: Bus, node: str
) -> None:
    first = opened(agent, node, "node")
    clone = engine.bus(agent_user(node)).inbox(node)
    with pytest.raises(InboxTaken, match=node):
        clone.open([f"{node}.node", f"{node}.mine.#"])
    assert clone.generation == 0
    assert deliver(handlers, f"{node}.mine") is False
    deliver(handlers, f"{node}.node", b"to the first")
    assert read_all(first, 1) == [b"to the first"]


def test_the_next_agent_gets_the_inbox_when_the_former_closes_it(engine: Engine, agent: Bus, node: str) -> None:
    first = opened(agent, node, "node")
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(opened, engine.bus(agent_user(node)), node, "node")
        first.close()
        assert second.result(SOON).generation == 1


def test_a_closed_inbox_says_so(agent: Bus, node: str) -> None:
    inbox = opened(agent, node, "node")
    inbox.close()
    inbox.close()
    with pytest.raises(Closed):
        inbox.read(timeout=0)


def test_unknown_tags_are_passed_over(handlers: Bus, agent: Bus, node: str) -> None:
    inbox = opened(agent, node, "node")
    inbox.ack([1, 2, 3, 10**9])
    deliver(handlers, f"{node}.node", b"still here")
    assert read_all(inbox, 1) == [b"still here"]


def test_removing_an_inbox_takes_what_is_in_it_and_is_harmless_without_one(
    engine: Engine, handlers: Bus, agent: Bus, node: str
) -> None:
    handlers.remove_inbox(new_node())
    opened(agent, node, "node").close()
    agent.close()
    deliver(handlers, f"{node}.node", b"gone")
    handlers.remove_inbox(node)
    assert deliver(handlers, f"{node}.node") is False
    handlers.remove_inbox(node)
    engine.invite(node)
    assert opened(engine.bus(agent_user(node)), node, "node").read(timeout=0.3) == []


# ---------------------------------------------------------------- the seat


def connected(engine: Engine) -> Bus:
    """The handlers' bus, over which something went already."""
    bus = engine.bus(HANDLERS)
    publish(bus, [event(0, "telemetry.canary")])
    return bus


def held(*seats: Seat) -> list[bool]:
    return [seat.held for seat in seats]


def test_one_process_has_the_seat_and_the_next_gets_it_when_it_is_given_up(engine: Engine) -> None:
    first, second = connected(engine).seat("fleet"), connected(engine).seat("fleet")
    assert held(first, second) == [False, False]
    assert first.acquire(SOON) is True
    assert second.acquire(0.3) is False
    assert held(first, second) == [True, False]
    first.release()
    assert held(first, second) == [False, False]
    assert second.acquire(SOON) is True
    first.release()
    assert held(first, second) == [False, True]


def test_the_seat_is_free_when_its_bus_is_closed(engine: Engine) -> None:
    holder, other = engine.bus(HANDLERS), engine.bus(HANDLERS).seat("fleet")
    seat = holder.seat("fleet")
    assert seat.acquire(SOON)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(other.acquire, SOON)
        holder.close()
        assert waiting.result(2 * SOON) is True
    assert held(seat) == [False]


def test_of_many_who_want_the_seat_one_gets_it(engine: Engine) -> None:
    seats = [connected(engine).seat("fleet") for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(lambda seat: seat.acquire(2.0), seats)) == [False, False, False, True]
    assert held(*seats).count(True) == 1
