"""What the bus does when the network fails between it and the broker."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from pika.spec import BasicProperties

from bus.errors import BadUrl, Closed, InboxTaken, NotConfirmed, Refused, Unreachable
from bus.ports import Bus, Message, Record
from bus.rabbitmq import RabbitBus, publisher
from bus.rabbitmq.channel import ChannelGone
from bus.rabbitmq.connection import FIRST_PAUSE, LONGEST_PAUSE, Connection, pause_after
from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user
from tests.contract.bus_contract import SOON, RabbitEngine, event, new_node, read_some
from tests.proxy import Proxy
from tests.servers.management import Management
from tests.waiting import wait_until


@pytest.fixture
def engine(rabbitmq_management: Management, amqp_vhost: str) -> Iterator[RabbitEngine]:
    made = RabbitEngine(rabbitmq_management, amqp_vhost)
    yield made
    made.close()


@pytest.fixture
def proxy(engine: RabbitEngine) -> Iterator[Proxy]:
    with Proxy(engine.port) as between:
        yield between


@pytest.fixture
def bus(engine: RabbitEngine, proxy: Proxy) -> Bus:
    """The handlers' bus, behind the proxy."""
    return connected(engine.bus(HANDLERS, port=proxy.port))


def connected(bus: Bus) -> Bus:
    """When it publishes; what it says leaves no trace in the log."""
    assert bus.publish(event(0, "telemetry.canary")).result(SOON) is None
    return bus


def gone(bus: Bus) -> None:
    """When the bus has taken note of the loss: what is published now waits."""
    wait_until(lambda: not bus.connected, deadline=SOON, what="the loss of the connection")
    assert not bus.publish(event(0, "telemetry.canary")).done()


def send(bus: Bus, message: Message) -> None:
    """Until it is confirmed, as every sender does."""

    def confirmed() -> bool:
        try:
            bus.publish(message).result(SOON)
        except NotConfirmed:
            return False
        return True

    wait_until(confirmed, deadline=60, what="a confirm")


# ---------------------------------------------------------------- publishing


def test_what_is_on_its_way_when_the_connection_breaks_is_not_confirmed(bus: Bus, proxy: Proxy) -> None:
    proxy.freeze()
    futures = [bus.publish(event(n)) for n in range(100)]
    proxy.cut()
    proxy.thaw()
    for future in futures:
        with pytest.raises(NotConfirmed):
            future.result(SOON)
    send(bus, event(100))


def test_a_message_waits_for_the_connection_without_blocking_its_caller(bus: Bus, proxy: Proxy) -> None:
    proxy.refuse()
    gone(bus)
    futures = [bus.publish(event(n)) for n in range(200)]
    # each call has returned though nothing was confirmed, or given up
    assert not any(future.done() for future in futures)
    proxy.thaw()
    assert [future.result(SOON) for future in futures] == [None] * 200


def test_a_bus_may_be_opened_before_there_is_a_broker(engine: RabbitEngine, proxy: Proxy) -> None:
    proxy.refuse()
    bus = engine.bus(HANDLERS, port=proxy.port)
    future, reader = bus.publish(event(1)), bus.stream("log").read_from("first")
    assert reader.read(timeout=0.3) == []
    proxy.thaw()
    assert future.result(SOON) is None
    assert read_some(reader, 2)[1].body == b"1"


def test_a_message_is_given_up_after_its_time(
    engine: RabbitEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 2.0)
    proxy.refuse()
    bus = engine.bus(HANDLERS, port=proxy.port)
    with pytest.raises(NotConfirmed, match="not confirmed within 2 s"):
        bus.publish(event(1)).result(SOON)


def test_the_window_is_bounded_and_the_call_blocks_until_there_is_room(
    bus: Bus, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "WINDOW", 50)
    proxy.freeze()
    futures = [bus.publish(event(n)) for n in range(50)]
    with ThreadPoolExecutor(1) as threads:
        blocked: Future[Future[None]] = threads.submit(bus.publish, event(50))
        with pytest.raises(TimeoutError):
            blocked.result(0.5)
        proxy.thaw()
        assert blocked.result(SOON).result(SOON) is None
    assert [future.result(SOON) for future in futures] == [None] * 50


def test_when_no_room_comes_the_call_ends_and_the_message_is_not_confirmed(
    bus: Bus, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "WINDOW_BYTES", 1_000)
    proxy.freeze()
    bus.publish(Message(key="event.test.said", body=bytes(900)))
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 0.3)
    with pytest.raises(NotConfirmed, match="have waited"):
        bus.publish(Message(key="event.test.said", body=bytes(900))).result(SOON)


def test_a_callback_may_publish_and_never_waits_for_room(
    bus: Bus, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the I/O thread: if it blocked, nothing would ever make room."""
    monkeypatch.setattr(publisher, "WINDOW", 1)
    answers: list[Future[Any]] = []
    done = threading.Event()

    def again(_: Future[None]) -> None:
        answers.extend(bus.publish(event(n)) for n in range(2))
        done.set()

    # so that it is confirmed, in the I/O thread, only when somebody waits for that
    proxy.freeze()
    bus.publish(event(0)).add_done_callback(again)
    proxy.thaw()
    assert done.wait(SOON)
    assert answers[0].result(SOON) is None
    assert isinstance(answers[1].exception(SOON), NotConfirmed)


def test_a_channel_that_confirms_nothing_is_opened_anew(
    engine: RabbitEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a restarted broker took for a stream whose writer was not there is never confirmed."""
    monkeypatch.setattr(publisher, "PROVEN_WITHIN", 0.5)
    bus = engine.bus(HANDLERS, port=proxy.port)
    first = wait_until(lambda: bus._fleet._channel, deadline=SOON, what="the first channel")
    proxy.freeze()
    lost = bus.publish(event(1))
    assert first is not None
    wait_until(lambda: first.raw.is_closing, deadline=SOON, what="the end of that channel")
    proxy.thaw()
    assert lost.exception(SOON) is None or isinstance(lost.exception(), NotConfirmed)
    send(bus, event(2))
    assert bus._fleet._channel is not first


def test_what_the_broker_says_on_a_channel_that_was_given_up_confirms_nothing(engine: RabbitEngine) -> None:
    """Its tags count anew on the next channel: a late confirm would be taken for that of another message."""
    connection = Connection(engine.url(HANDLERS))
    heard: list[int] = []

    async def give_up_and_listen() -> None:
        channel = await connection.channel()
        await channel.confirm(lambda tag, _multiple, _taken: heard.append(tag))
        for n in range(100):
            said = event(n)
            channel.raw.basic_publish("fleetbus", said.key, said.body, BasicProperties(user_id=HANDLERS))
        channel.lose(ChannelGone(0, "nothing was confirmed"))
        before = len(heard)
        closed = asyncio.Event()
        channel.raw.add_on_close_callback(lambda *_: closed.set())
        # the broker confirms all before it answers this
        channel.close()
        await closed.wait()
        assert len(heard) == before

    try:
        connection.wait(give_up_and_listen())
    finally:
        connection.close()


def test_closing_a_bus_whose_broker_hangs_fails_what_is_not_confirmed(bus: Bus, proxy: Proxy) -> None:
    proxy.freeze()
    futures = [bus.publish(event(n)) for n in range(10)]
    bus.close()
    for future in futures:
        assert isinstance(future.exception(SOON), Closed)


@pytest.mark.slow
def test_nothing_is_lost_and_each_sender_keeps_its_order_over_a_connection_that_keeps_breaking(
    engine: RabbitEngine, bus: Bus, proxy: Proxy
) -> None:
    senders, each = 6, 1_500

    def say(sender: int) -> None:
        for n in range(each):
            send(bus, Message(key=f"event.sender.s{sender}", body=str(n).encode()))

    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(random.uniform(0.2, 1.5)):
            proxy.cut()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with ThreadPoolExecutor(senders) as threads:
            list(threads.map(say, range(senders)))
    finally:
        stop.set()
        disturber.join()
    other = engine.bus(PROJECTIONS)
    end = other.stream("log").next_offset()
    records = read_until(other, end)
    for sender in range(senders):
        said = [int(record.body) for record in records if record.key == f"event.sender.s{sender}"]
        assert list(dict.fromkeys(said)) == list(range(each))


def read_until(bus: Bus, end: int) -> list[Record]:
    records: list[Record] = []
    with bus.stream("log").read_from(1) as reader:
        while not records or records[-1].next_offset < end:
            records += reader.read(timeout=SOON)
    return records


# ---------------------------------------------------------------- a broker that says no


def test_only_the_guilty_message_is_refused(engine: RabbitEngine) -> None:
    """The broker closes the channel at the first forbidden key; the others are sent again and arrive."""
    portal = engine.bus(PORTAL)
    keys = ["event.a.b" if n % 20 else f"event.fine.k{n}" for n in range(100)]
    keys[37] = "telemetry.stats"
    futures = [portal.publish(Message(key=key, body=b"")) for key in keys]
    errors = [future.exception(SOON) for future in futures]
    assert isinstance(errors[37], Refused)
    assert "telemetry.stats" in str(errors[37])
    assert all(error is None or isinstance(error, NotConfirmed) for n, error in enumerate(errors) if n != 37)
    for key in keys[:37]:
        send(portal, Message(key=key, body=b""))


def test_every_guilty_message_is_told_in_the_end(engine: RabbitEngine) -> None:
    portal = engine.bus(PORTAL)
    for key in ("telemetry.a", "telemetry." + "long" * 60, "telemetry.a", "nothing", "blob.short.1.2"):
        with pytest.raises(Refused, match="ACCESS_REFUSED"):
            portal.publish(Message(key=key, body=b"")).result(SOON)
    send(portal, event(1))


@pytest.mark.parametrize("message", [
    Message(key="event." + "k" * 250, body=b""),
    Message(key="event.a", body=b"", id="i" * 256),
    Message(key="event.a", body=b"", type="\u00e4" * 128),
])  # fmt: skip
def test_what_amqp_cannot_carry_is_refused(engine: RabbitEngine, message: Message) -> None:
    bus = engine.bus(HANDLERS)
    with pytest.raises(Refused, match="255"):
        bus.publish(message).result(SOON)
    send(bus, event(1))


def test_a_refusal_to_deliver_does_not_disturb_publishing(engine: RabbitEngine) -> None:
    portal = engine.bus(PORTAL)
    published = [portal.publish(event(n)) for n in range(200)]
    delivered = [portal.deliver("n1.node", b"") for _ in range(50)]
    assert [future.result(SOON) for future in published] == [None] * 200
    assert {type(future.exception(SOON)) for future in delivered} == {Refused}


def test_a_stream_that_may_not_be_read_is_refused(engine: RabbitEngine) -> None:
    agent = engine.bus(agent_user(new_node()))
    log = agent.stream("log")
    for question in (log.first, log.next_offset, lambda: log.read_from("first").read(timeout=SOON)):
        with pytest.raises(Refused, match=r"fleetbus\.log"):
            question()
    with log.read_from("next") as reader:
        with pytest.raises(Refused):
            reader.read(timeout=SOON)
        # the reader that found no end does not hold back what its process publishes
        send(agent, Message(key=f"event.a.{agent.user}", body=b""))


# ---------------------------------------------------------------- a broker that is not there


def test_questions_fail_with_unreachable_when_nobody_answers(
    engine: RabbitEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.refuse()
    bus = engine.bus(HANDLERS, port=proxy.port)
    monkeypatch.setattr("bus.rabbitmq.connection.PATIENCE", 1.0)
    with pytest.raises(Unreachable, match=f"127.0.0.1:{proxy.port}") as caught:
        bus.seat("fleet").acquire(1.0)
    assert "of-tests" not in str(caught.value)


def test_a_wrong_password_is_named_as_the_reason(engine: RabbitEngine) -> None:
    url = engine.url(PORTAL).replace("of-tests", "wrong-one")
    bus = RabbitBus(url)
    try:
        with pytest.raises(Unreachable, match="ACCESS_REFUSED") as caught:
            bus.seat("fleet").acquire(8.0)
        assert "wrong-one" not in str(caught.value)
    finally:
        bus.close()


@pytest.mark.parametrize("url", [
    "amqp://", "amqp://host", "amqp://:secret@host", "amqp://user:secret@host:port/", "http://user:secret@host/",
    "amqp://user:secret@host/?heartbeat=often",
])  # fmt: skip
def test_a_bad_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(BadUrl, match="amqp://USER:PASSWORD@HOST:PORT/VHOST") as caught:
        RabbitBus(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("failures", [0, 1, 3, 10, 1_000_000])
def test_pauses_grow_to_a_bound_and_are_spread(failures: int) -> None:
    shortest, longest = pause_after(failures, 0.0), pause_after(failures, 1.0)
    assert 0 < shortest < longest <= LONGEST_PAUSE
    assert longest == min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 100))


# ---------------------------------------------------------------- readers, inboxes and the seat


@pytest.mark.slow
def test_a_reader_goes_on_behind_what_it_returned(engine: RabbitEngine, proxy: Proxy) -> None:
    writer, behind = engine.bus(HANDLERS), engine.bus(PROJECTIONS, port=proxy.port)
    stop = threading.Event()
    count = 0

    def write() -> None:
        nonlocal count
        while not stop.is_set():
            for future in [writer.publish(event(count + n)) for n in range(100)]:
                future.result(SOON)
            count += 100

    thread = threading.Thread(target=write)
    thread.start()
    records: list[Record] = []
    with behind.stream("log").read_from(1) as reader:
        for _ in range(8):
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                records += reader.read(limit=77, timeout=0.1)
            proxy.cut()
        stop.set()
        thread.join()
        while len(records) < count:
            records += reader.read(timeout=SOON)
    assert [record.body for record in records] == [str(n).encode() for n in range(count)]


def test_a_reader_from_next_that_breaks_before_its_first_record_misses_nothing(
    engine: RabbitEngine, proxy: Proxy
) -> None:
    writer, behind = engine.bus(HANDLERS), connected(engine.bus(PROJECTIONS, port=proxy.port))
    with behind.stream("log").read_from("next") as reader:
        # what its process says is held back until "next" is a number
        connected(behind)
        assert reader.read(timeout=0) == []
        proxy.refuse()
        send(writer, event(1))
        proxy.thaw()
        assert read_some(reader, 1)[0].body == b"1"


@pytest.mark.slow
def test_the_reader_of_a_broker_that_hangs_comes_back(engine: RabbitEngine, proxy: Proxy) -> None:
    """Heartbeats find what TCP does not tell."""
    writer, behind = engine.bus(HANDLERS), connected(engine.bus(PROJECTIONS, port=proxy.port))
    end = behind.stream("log").next_offset()
    with behind.stream("log").read_from(end) as reader:
        assert reader.read(timeout=0.2) == []
        proxy.freeze()
        wait_until(lambda: not behind.connected, deadline=30, what="missed heartbeats")
        send(writer, event(1))
        proxy.cut()
        proxy.thaw()
        assert read_some(reader, 1, within=30)[0].body == b"1"


def test_an_inbox_opens_itself_anew_with_the_same_keys(engine: RabbitEngine, proxy: Proxy) -> None:
    node = new_node()
    handlers, agent = engine.bus(HANDLERS), engine.bus(agent_user(node), port=proxy.port)
    inbox = agent.inbox(node)
    inbox.open([f"{node}.node"])
    inbox.bind([f"{node}.node", f"{node}.cpu.#"])
    for n in range(3):
        handlers.deliver(f"{node}.cpu", str(n).encode()).result(SOON)
    before = inbox.read(timeout=SOON)
    proxy.cut()
    wait_until(lambda: inbox.generation >= 2, deadline=30, what="the second generation")
    inbox.ack([delivered.tag for delivered in before])
    again: list[bytes] = []
    while len(again) < 3:
        again += [delivered.body for delivered in inbox.read(timeout=SOON)]
    assert again == [b"0", b"1", b"2"]
    assert handlers.deliver(f"{node}.cpu.fast", b"").result(SOON) is True


def test_an_inbox_that_another_took_meanwhile_says_so(
    engine: RabbitEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = new_node()
    inbox = engine.bus(agent_user(node), port=proxy.port).inbox(node)
    inbox.open([f"{node}.node"])
    proxy.refuse()
    engine.bus(agent_user(node)).inbox(node).open([f"{node}.node"])
    monkeypatch.setattr("bus.rabbitmq.inbox.PATIENCE", 3.0)
    proxy.thaw()
    with pytest.raises(InboxTaken, match=node):
        inbox.read(timeout=SOON)


def test_an_inbox_holds_back_what_is_too_much_at_a_time(engine: RabbitEngine) -> None:
    node = new_node()
    handlers, inbox = engine.bus(HANDLERS), engine.bus(agent_user(node)).inbox(node)
    inbox.open([f"{node}.node"])
    for future in [handlers.deliver(f"{node}.node", str(n).encode()) for n in range(250)]:
        assert future.result(SOON)
    first: list[int] = []
    while len(first) < 100:
        first += [delivered.tag for delivered in inbox.read(timeout=SOON)]
    assert len(first) == 100
    assert inbox.read(timeout=0.5) == []
    inbox.ack(first)
    assert inbox.read(timeout=SOON)


def test_a_seat_is_lost_with_its_connection_and_never_comes_back(engine: RabbitEngine, bus: Bus, proxy: Proxy) -> None:
    seat = bus.seat("fleet")
    assert seat.acquire(SOON)
    proxy.cut()
    wait_until(lambda: not seat.held, deadline=SOON, what="the loss of the seat")
    connected(bus)
    assert seat.acquire(0.2) is False
    assert engine.bus(HANDLERS).seat("fleet").acquire(SOON) is True
    assert seat.held is False


@pytest.mark.slow
def test_a_holder_that_hangs_loses_the_seat_to_another(engine: RabbitEngine, bus: Bus, proxy: Proxy) -> None:
    seat = bus.seat("fleet")
    assert seat.acquire(SOON)
    proxy.freeze()
    assert engine.bus(HANDLERS).seat("fleet").acquire(120) is True
    wait_until(lambda: not seat.held, deadline=30, what="the holder's own heartbeats")


@pytest.mark.slow
def test_channels_are_given_back(engine: RabbitEngine) -> None:
    """More than the 2,047 channels that the broker allows one connection."""
    bus = engine.bus(HANDLERS)
    log = bus.stream("log")
    for n in range(1_100):
        assert log.next_offset() == 1, n
        log.read_from("next").close()


@pytest.mark.slow
def test_every_part_works_again_after_each_of_many_cuts(engine: RabbitEngine, bus: Bus, proxy: Proxy) -> None:
    node = new_node()
    inbox = engine.bus(agent_user(node), port=proxy.port).inbox(node)
    inbox.open([f"{node}.node"])
    with bus.stream("log").read_from(1) as reader:
        for n in range(10):
            proxy.cut()
            send(bus, event(n))
            while not reader.read(timeout=SOON):
                pass
            wait_until(lambda: _delivers(bus, node), deadline=30, what="a delivery")
            while not (read := inbox.read(timeout=SOON)):
                pass
            inbox.ack([delivered.tag for delivered in read])


def _delivers(bus: Bus, node: str) -> bool:
    try:
        return bus.deliver(f"{node}.node", b"").result(SOON)
    except NotConfirmed:
        return False
