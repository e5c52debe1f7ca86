"""A broker that is restarted, and one that is killed, in the middle of the traffic."""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bus.errors import NotConfirmed, Unreachable
from bus.ports import Bus, Message, Record
from events.actors import HANDLERS, PROJECTIONS, agent_user
from tests.contract.bus_contract import SOON, RabbitEngine, new_node
from tests.servers.rabbitmq import RabbitMQ
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

#: Seconds within which a broker is up again and everyone has come back.
UP_AGAIN = 120.0
SENDERS, EACH = 8, 2_500


@pytest.fixture
def engine(private_rabbitmq: RabbitMQ) -> RabbitEngine:
    return RabbitEngine(private_rabbitmq.management, private_rabbitmq.url)


@pytest.fixture
def native(engine: RabbitEngine, private_rabbitmq: RabbitMQ) -> Iterator[RabbitEngine]:
    """The same broker, whose streams are read over its native protocol."""
    stream_url = f"rabbitmq-stream://127.0.0.1:{private_rabbitmq.port('stream')}"
    made = RabbitEngine(private_rabbitmq.management, private_rabbitmq.url, stream_url)
    yield made
    made.close()


def send(bus: Bus, message: Message) -> None:
    def confirmed() -> bool:
        try:
            bus.publish(message).result(60)
        except NotConfirmed:
            return False
        return True

    wait_until(confirmed, deadline=UP_AGAIN, what="a confirm")


def crash(broker: RabbitMQ) -> None:
    broker.kill()
    broker.start()


def test_20000_messages_survive_a_restart_at_a_third_and_a_kill_at_half(
    engine: RabbitEngine, native: RabbitEngine, private_rabbitmq: RabbitMQ
) -> None:
    """Each sender waits for its confirms and sends again what is not confirmed; readers read all the while."""
    buses = [engine.bus(HANDLERS) for _ in range(2)]
    sent = 0
    counting = threading.Lock()
    marks: dict[int, Callable[[], None]] = {
        SENDERS * EACH // 3: private_rabbitmq.restart,
        SENDERS * EACH // 2: lambda: crash(private_rabbitmq),
    }
    disturbances: list[threading.Thread] = []

    def say(sender: int) -> None:
        nonlocal sent
        for n in range(EACH):
            send(buses[sender % 2], Message(key=f"event.sender.s{sender}", body=b"%d" % n))
            with counting:
                sent += 1
                if disturb := marks.pop(sent, None):
                    disturbances.append(threading.Thread(target=disturb))
                    disturbances[-1].start()

    asker = engine.bus(PROJECTIONS).stream("log")
    short: list[str] = []

    def ask() -> None:
        """A log that has just come back must not look shorter than it is: the seat would decide on half of it."""
        while sent < SENDERS * EACH:
            before = 1 + sent
            with contextlib.suppress(Unreachable):
                if (end := asker.next_offset()) < before or asker.first() is None:
                    short.append(f"{before} confirmed, seen to {end}, then to {asker.next_offset()} of {1 + sent}")

    reader = engine.bus(PROJECTIONS).stream("log").read_from(1)
    other = native.bus(PROJECTIONS).stream("log").read_from(1)
    with ThreadPoolExecutor(SENDERS + 3) as threads:
        senders = [*(threads.submit(say, sender) for sender in range(SENDERS)), threads.submit(ask)]
        records, same = threads.submit(read_all, reader.read), threads.submit(read_all, other.read)
        for future in senders:
            future.result()
        for thread in disturbances:
            thread.join()
        read, also = records.result(UP_AGAIN), same.result(UP_AGAIN)
    reader.close()
    other.close()
    both = min(len(read), len(also))
    assert also[:both] == read[:both]
    check(read)
    assert short == []


def check(read: list[Record]) -> None:
    """That nothing is missing, and that each sender's order is kept."""
    assert [record.offset for record in read] == sorted({record.offset for record in read})
    said = defaultdict(list)
    for record in read:
        said[record.key].append(int(record.body))
    for key, numbers in sorted(said.items()):
        firsts = list(dict.fromkeys(numbers))
        assert sorted(firsts) == list(range(EACH)), f"lost of {key}: {sorted(set(range(EACH)) - set(firsts))}"
        assert firsts == list(range(EACH)), f"order of {key}"


def read_all(read: Callable[[], list[Record]]) -> list[Record]:
    """Until every sender's last message came."""
    records: list[Record] = []
    missing = {f"event.sender.s{sender}" for sender in range(SENDERS)}
    last = b"%d" % (EACH - 1)

    def complete() -> bool:
        new = read()
        records.extend(new)
        missing.difference_update(record.key for record in new if record.body == last)
        return not missing

    wait_until(complete, deadline=3 * UP_AGAIN, what="every sender's last message")
    return records


@pytest.mark.parametrize("way", ["restarted", "killed"])
def test_inbox_seat_and_reader_of_a_broker_that_went_away(
    engine: RabbitEngine, native: RabbitEngine, private_rabbitmq: RabbitMQ, way: str
) -> None:
    node = new_node()
    handlers, agent = engine.bus(HANDLERS), engine.bus(agent_user(node))
    seat, inbox, reader = handlers.seat("fleet"), agent.inbox(node), handlers.stream("log").read_from("next")
    also = native.bus(PROJECTIONS).stream("log").read_from("next")
    inbox.open([f"{node}.node", f"{node}.cpu.#"])
    assert seat.acquire(SOON)
    assert also.read(timeout=0.5) == []
    for n in range(20):
        assert handlers.deliver(f"{node}.cpu", b"%d" % n).result(SOON)
    assert inbox.read(timeout=SOON)

    private_rabbitmq.restart() if way == "restarted" else crash(private_rabbitmq)

    wait_until(lambda: inbox.generation >= 2, deadline=UP_AGAIN, what="the inbox")
    assert not seat.held
    again: list[bytes] = []
    while len(again) < 20:
        again += [delivered.body for delivered in inbox.read(timeout=SOON)]
    assert again == [b"%d" % n for n in range(20)]
    assert handlers.deliver(f"{node}.node", b"").result(SOON)
    send(handlers, Message(key="event.test.said", body=b"after"))
    assert [record.body for record in reader.read(timeout=SOON)] == [b"after"]
    assert [record.body for record in also.read(timeout=SOON)] == [b"after"]
    also.close()
    assert handlers.seat("fleet").acquire(SOON)
    assert not seat.held
    reader.close()
    inbox.close()
