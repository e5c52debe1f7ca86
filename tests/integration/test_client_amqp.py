"""The client over AMQP, against a real broker with real rights, and what breaks between the two."""

import faulthandler
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import kombu
import pytest

from bus import topology
from bus.admission import AdmissionState, Admitted, Duplicate, Verdict, admit
from bus.ports import Bus, Record
from bus.users import ensure_user
from events.actors import HANDLERS, PORTAL, service_user
from events.envelope import Event
from fleetbus_client import AmqpClient, Closed, Misuse, Refused, Unconfirmed, new_id
from fleetbus_client import amqp_client as module
from tests.contract.bus_contract import SOON, RabbitEngine
from tests.proxy import Proxy
from tests.servers.management import Management
from tests.servers.rabbitmq import RabbitMQ
from tests.tls import Tls
from tests.waiting import wait_until

BILLING = service_user("billing")
PAID = "event.billing.invoice.paid"


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
def client(engine: RabbitEngine) -> Iterator[AmqpClient]:
    with AmqpClient(engine.url(BILLING)) as made:
        yield made


def say(client: AmqpClient, n: int = 0, **more: Any) -> str:
    return client.publish(PAID, f"invoice {n}", {"n": n}, **more)


def say_until_confirmed(client: AmqpClient, n: int = 0, id: str = "") -> str:
    """As a service does that must not lose it, however long the broker is away."""
    id = id or new_id()
    while True:
        with suppress(Unconfirmed):
            return say(client, n, id=id)


def log(bus: Bus) -> list[Record]:
    """All of it."""
    records: list[Record] = []
    end = bus.stream("log").next_offset()
    with bus.stream("log").read_from("first") as reader:

        def read() -> bool:
            records.extend(reader.read(timeout=0.2))
            return bool(records) and records[-1].next_offset >= end

        wait_until(read, deadline=60, what=f"the log up to offset {end}")
    return records


def verdicts(bus: Bus) -> list[tuple[Record, Verdict]]:
    state = AdmissionState()
    return [(record, admit(state, record)) for record in log(bus)]


def admitted(bus: Bus) -> list[Event]:
    """What the services said and every reader takes."""
    events = [verdict.event for _, verdict in verdicts(bus) if isinstance(verdict, Admitted)]
    return [event for event in events if event.actor.startswith("service:")]


def opened(client: AmqpClient) -> list[Any]:
    return [connection for connection in client._open if connection.connected]


def open_connections(client: AmqpClient) -> int:
    return len(opened(client))


# ---------------------------------------------------------------- saying things


def test_a_fact_is_in_the_log_with_what_was_said_and_by_whom(engine: RabbitEngine, client: AmqpClient) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    id = client.publish(PAID, "invoice 17", {"amount": 12.5}, time=at)
    (event,) = admitted(engine.bus(PORTAL))
    assert (event.id, event.type, event.subject, event.time) == (id, PAID, "invoice 17", at)
    assert (event.actor, event.data) == ("service:billing", {"amount": 12.5})


def test_a_command_is_in_the_log_and_expires(engine: RabbitEngine, client: AmqpClient) -> None:
    id = client.command("command.job.submit", "facts", {"script": "facts", "target": {"node": "n1"}})
    (event,) = admitted(engine.bus(PORTAL))
    assert (event.id, event.is_command, event.actor) == (id, True, "service:billing")
    assert event.expires is not None


def test_the_broker_knows_who_published_and_what(engine: RabbitEngine, client: AmqpClient) -> None:
    say(client)
    (record,) = [record for record in log(engine.bus(PORTAL)) if record.key == PAID]
    assert record.user == BILLING


def test_an_id_that_is_said_again_counts_once(engine: RabbitEngine, client: AmqpClient) -> None:
    id = new_id()
    assert [say(client, id=id), say(client, id=id)] == [id, id]
    ours = [verdict for record, verdict in verdicts(engine.bus(PORTAL)) if record.key == PAID]
    assert [type(verdict) for verdict in ours] == [Admitted, Duplicate]


def test_threads_share_a_client_and_no_more_connections_than_allowed(engine: RabbitEngine) -> None:
    with AmqpClient(engine.url(BILLING), connections=3) as client, ThreadPoolExecutor(12) as threads:
        ids = list(threads.map(lambda n: say(client, n), range(300)))
        assert 1 <= open_connections(client) <= 3
    assert {event.id for event in admitted(engine.bus(PORTAL))} == set(ids)


# ---------------------------------------------------------------- what is refused


def test_a_service_says_only_what_is_its_own(client: AmqpClient) -> None:
    with pytest.raises(Misuse, match="is for service:shop to say"):
        client.publish("event.shop.order.made", "order", {})


def test_a_platform_type_is_refused_by_the_broker(engine: RabbitEngine, client: AmqpClient) -> None:
    """The broker's topic permissions stand behind the client's own check."""
    client.service = "job"
    with pytest.raises(Refused, match=r"refuses: ACCESS_REFUSED .*event\.job\.finished"):
        client.publish("event.job.finished", "job", {})
    client.service = "billing"
    assert say(client) in {event.id for event in admitted(engine.bus(PORTAL))}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("of-tests@", "wrong@"), "refuses: .*ACCESS_REFUSED - Login was refused"),
        (("/test-", "/no-such-"), "refuses: .*(vhost no-such-|access to vhost)"),
    ],
)
def test_a_login_that_is_wrong_is_said_at_once(engine: RabbitEngine, change: tuple[str, str], why: str) -> None:
    with AmqpClient(engine.url(BILLING).replace(*change)) as client, pytest.raises(Refused, match=why) as caught:
        say(client)
    assert "of-tests" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("amqp://guest:guest@localhost", "the broker user is 'guest'; services have users of their own"),
        ("amqp://service.Billing!:x@localhost", "no name of a service"),
        ("http://service.billing:x@localhost", "no URL of a broker"),
        ("amqp://service.billing:secret@localhost:port/x", "no URL of a broker"),
        ("amqp://service.billing:secret@one;amqp://two", "no URL of a broker"),
        ("localhost", "no URL of a broker"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_without_showing_it(url: str, why: str) -> None:
    with pytest.raises(Misuse, match=why) as caught:
        AmqpClient(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, 60.5])
def test_nobody_sends_again_for_longer_than_the_log_remembers(seconds: float) -> None:
    with pytest.raises(Misuse, match="more than 0 and at most 60 seconds"):
        AmqpClient("amqp://service.billing:x@localhost", give_up_after=seconds)


def test_a_client_shows_no_password(client: AmqpClient) -> None:
    assert "of-tests" not in repr(client)
    assert "service.billing" in repr(client)


def test_a_closed_client_says_so(engine: RabbitEngine) -> None:
    client = AmqpClient(engine.url(BILLING))
    say(client)
    client.close()
    client.close()
    with pytest.raises(Closed):
        say(client)


# ---------------------------------------------------------------- what is not confirmed


def test_an_event_that_never_left_is_known_not_to_be_in_the_log(engine: RabbitEngine, proxy: Proxy) -> None:
    proxy.refuse()
    with AmqpClient(engine.url(BILLING, proxy.port), give_up_after=2.0) as client:
        with pytest.raises(Unconfirmed, match="it is not in the log: nothing was sent") as caught:
            say(client, id=(id := new_id()))
        assert (caught.value.id, caught.value.reached) == (id, False)
        assert caught.value.attempts > 1
        proxy.thaw()
        assert say_until_confirmed(client, id=id) == id
    assert [event.id for event in admitted(engine.bus(PORTAL))] == [id]


def test_an_event_without_an_answer_may_be_in_the_log_and_may_be_sent_again(
    engine: RabbitEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AmqpClient(engine.url(BILLING, proxy.port), give_up_after=2.0) as client:
        say_until_confirmed(client)
        monkeypatch.setattr(module, "CONFIRM_WITHIN", 0.5)
        monkeypatch.setattr(module, "CONNECT_WITHIN", 0.5)
        proxy.freeze()
        with pytest.raises(Unconfirmed, match="it may be in the log or not") as caught:
            say(client, 1)
        assert caught.value.reached
        proxy.thaw()
        monkeypatch.undo()
        say_until_confirmed(client, 1, caught.value.id)
    assert [event.data["n"] for event in admitted(engine.bus(PORTAL))] == [0, 1]


def test_a_late_confirmation_is_not_taken_for_that_of_the_next_event(
    engine: RabbitEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection on which an answer is overdue is not used again."""
    with AmqpClient(engine.url(BILLING, proxy.port), connections=1) as client:
        say(client)
        monkeypatch.setattr(module, "CONFIRM_WITHIN", 0.5)
        before = list(client._open)
        proxy.freeze()
        with ThreadPoolExecutor(1) as threads:
            waiting: Future[str] = threads.submit(say, client, 1)
            wait_until(lambda: not before[0].connected, deadline=SOON, what="the end of the old connection")
            proxy.thaw()
            waiting.result(SOON)
        assert open_connections(client) == 1
        assert before[0] not in opened(client)


def test_a_broker_that_is_not_set_up_yet_is_waited_for(rabbitmq_management: Management, amqp_vhost: str) -> None:
    vhost = amqp_vhost.rpartition("/")[2]
    ensure_user(rabbitmq_management.url, vhost, BILLING, "of-tests")
    url = amqp_vhost.replace(amqp_vhost.partition("@")[0], f"amqp://{BILLING}:of-tests")
    with AmqpClient(url, give_up_after=4.0) as client:
        with pytest.raises(Unconfirmed, match="no exchange 'fleetbus'"):
            say(client)
        topology.apply(amqp_vhost)
        assert say_until_confirmed(client)


def test_an_event_that_no_stream_takes_is_not_confirmed(
    engine: RabbitEngine, client: AmqpClient, rabbitmq_management: Management
) -> None:
    """The broker confirms it all the same; just after a start, the log may not take anything yet."""
    say(client)
    vhost = engine.vhost
    rabbitmq_management.ask("DELETE", f"queues/{vhost}/fleetbus.log")
    with AmqpClient(engine.url(BILLING), give_up_after=4.0) as hasty:
        with pytest.raises(Unconfirmed, match="no stream takes it now") as caught:
            say(hasty)
        assert not caught.value.reached
        topology.apply(engine.url(HANDLERS))
        id = say_until_confirmed(hasty)
    assert [event.id for event in admitted(engine.bus(PORTAL))] == [id]


def test_when_all_connections_are_busy_the_call_waits_no_longer_than_it_may(engine: RabbitEngine, proxy: Proxy) -> None:
    with AmqpClient(engine.url(BILLING, proxy.port), connections=1, give_up_after=1.0) as client:
        with client._pool.acquire(block=True), pytest.raises(Unconfirmed, match="all 1 connections were busy"):
            say(client)
        assert say_until_confirmed(client)


# ---------------------------------------------------------------- forks


def test_a_fork_says_its_own_and_leaves_its_parents_connections_alone(engine: RabbitEngine, client: AmqpClient) -> None:
    say(client, 0)
    (connection,) = opened(client)

    def say_and_close() -> None:
        say(client, 1)
        client.close()

    child = _fork(say_and_close)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    say(client, 2)
    assert connection.connected
    assert opened(client) == [connection]
    assert [event.data["n"] for event in admitted(engine.bus(PORTAL))] == [0, 1, 2]


def test_processes_that_multiprocessing_forks_leave_their_parents_connections_alone(
    engine: RabbitEngine, client: AmqpClient
) -> None:
    """kombu hears of such forks itself, and shuts sockets down."""
    say(client, 0)
    (connection,) = opened(client)
    children = [get_context("fork").Process(target=say, args=(client, n)) for n in (1, 2, 3)]
    for child in children:
        child.start()
    for child in children:
        child.join(SOON)
        assert child.exitcode == 0
    say(client, 4)
    assert connection.connected
    assert {event.data["n"] for event in admitted(engine.bus(PORTAL))} == {0, 1, 2, 3, 4}


def test_a_fork_while_threads_publish_can_publish(engine: RabbitEngine, client: AmqpClient) -> None:
    """Whatever lock a thread holds at that moment is not the child's."""
    stop = threading.Event()

    def go_on() -> int:
        said = 0
        while not stop.is_set():
            say(client, said)
            said += 1
        return said

    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(go_on) for _ in range(4)]
        try:
            children = [_fork(partial(say, client, 10_000 + n)) for n in range(8)]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        finally:
            stop.set()
        said = sum(count.result(SOON) for count in counts)
    assert codes == [0] * 8
    assert len(admitted(engine.bus(PORTAL))) == said + 8


def test_a_fork_does_not_catch_a_lock_of_kombu_in_the_hands_of_another_thread(
    engine: RabbitEngine, client: AmqpClient
) -> None:
    held, forking = threading.Event(), threading.Event()

    def hold() -> None:
        with kombu.Connection.recoverable_connection_errors.lock:
            held.set()
            # the fork waits for the lock; if it does not, the child meets it held
            forking.wait(0.5)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(hold)
        assert held.wait(SOON)
        child = _fork(partial(say, client))
        forking.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _fork(work: Callable[[], object]) -> int:
    """A child that does the work and ends with 0; one that hangs says where and ends with 1."""
    child = os.fork()
    if child:
        return child
    faulthandler.dump_traceback_later(100, exit=True)
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


# ---------------------------------------------------------------- a network and a broker that fail


def test_nothing_is_lost_over_connections_that_keep_breaking(engine: RabbitEngine, proxy: Proxy) -> None:
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.1):
            proxy.cut()

    with AmqpClient(engine.url(BILLING, proxy.port), connections=4) as client, ThreadPoolExecutor(6) as threads:
        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            ids = list(threads.map(lambda n: say(client, n), range(600)))
        finally:
            stop.set()
            disturber.join()
    assert Counter(event.id for event in admitted(engine.bus(PORTAL))) == Counter(ids)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_ten_threads_lose_nothing_while_the_broker_is(how: str, private_rabbitmq: RabbitMQ) -> None:
    broker = private_rabbitmq
    engine = RabbitEngine(broker.management, broker.url)
    each, threads = 500, 10
    done = Counter[int]()

    def go_on(client: AmqpClient, thread: int) -> list[str]:
        ids = []
        for n in range(each):
            ids.append(say_until_confirmed(client, n))
            done[thread] += 1
        return ids

    with AmqpClient(engine.url(BILLING)) as client, ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(go_on, client, thread) for thread in range(threads)]
        for share in (1 / 3, 2 / 3):
            goal = int(each * threads * share)
            wait_until(partial(lambda goal: done.total() >= goal, goal), deadline=120, what=f"{goal} events")
            broker.kill() if how == "killed" else broker.stop()
            broker.start()
        ids = [id for future in futures for id in future.result(120)]
    assert len(set(ids)) == each * threads
    events = admitted(engine.bus(PORTAL))
    assert Counter(event.id for event in events) == Counter(ids)
    engine.close()


# ---------------------------------------------------------------- TLS


@pytest.fixture
def tls(tmp_path: Path, engine: RabbitEngine) -> Iterator[Tls]:
    with Tls(tmp_path, engine.port) as made:
        yield made


def url_of(tls: Tls, engine: RabbitEngine, host: str = "localhost") -> str:
    url = engine.url(BILLING, tls.port).replace("amqp:", "amqps:")
    return url.replace("@127.0.0.1", f"@{host}")


def test_events_go_over_tls_to_a_broker_whose_authority_is_known(engine: RabbitEngine, tls: Tls) -> None:
    with AmqpClient(url_of(tls, engine), ca=str(tls.certificate)) as client:
        id = say(client)
    assert [event.id for event in admitted(engine.bus(PORTAL))] == [id]


def test_a_broker_whose_certificate_nobody_knows_is_told_nothing(engine: RabbitEngine, tls: Tls) -> None:
    began = time.monotonic()
    with AmqpClient(url_of(tls, engine)) as client, pytest.raises(Refused, match="certificate"):
        say(client)
    assert time.monotonic() - began < SOON


def test_a_broker_whose_certificate_is_for_another_name_is_told_nothing(engine: RabbitEngine, tls: Tls) -> None:
    with (
        AmqpClient(url_of(tls, engine, "127.0.0.1"), ca=str(tls.certificate)) as client,
        pytest.raises(Refused, match="certificate"),
    ):
        say(client)
