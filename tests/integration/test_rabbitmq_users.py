"""What each broker user can do on a real broker: its work, and nothing else.

The attempts are made with bare pika, as somebody who has the credentials and a mind of his own would make them.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ProbableAuthenticationError

from bus.errors import Refused, Unreachable
from bus.ports import Message, Stream
from bus.users import NOTHING, delete_user, ensure_user, rights_of
from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user, service_user
from events.registry import PLATFORM_WORDS
from tests.contract.bus_contract import PASSWORD, SOON, RabbitEngine, event, new_node, read_some
from tests.servers.management import Management
from tests.waiting import wait_until

Attempt = Callable[[BlockingChannel, str, str], object]


@pytest.fixture(scope="module")
def engine(rabbitmq_management: Management) -> Iterator[RabbitEngine]:
    """One for all: what is refused leaves nothing behind."""
    vhost = f"test-{uuid.uuid4().hex[:12]}"
    made = RabbitEngine(rabbitmq_management, rabbitmq_management.add_vhost(vhost))
    yield made
    made.close()
    rabbitmq_management.delete_vhost(vhost)


@pytest.fixture(scope="module")
def log(engine: RabbitEngine) -> Stream:
    return engine.bus(PROJECTIONS).stream("log")


@pytest.fixture(scope="module")
def attacker() -> str:
    """The node whose credentials somebody else has."""
    return new_node()


@pytest.fixture
def node() -> str:
    return new_node()


@pytest.fixture(scope="module")
def other(engine: RabbitEngine) -> str:
    """Another node with an inbox in which something is."""
    name = new_node()
    inbox = engine.bus(agent_user(name)).inbox(name)
    inbox.open([f"{name}.node"])
    assert engine.bus(HANDLERS).deliver(f"{name}.node", b"secret").result(SOON)
    inbox.close()
    return name


@contextlib.contextmanager
def channel_of(engine: RabbitEngine, user: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(engine.url(user)))
    try:
        yield connection.channel()
    finally:
        with contextlib.suppress(AMQPError):
            connection.close()


def publishes(exchange: str, key: str, **properties: Any) -> Attempt:
    def attempt(channel: BlockingChannel, node: str, other: str) -> None:
        channel.confirm_delivery()
        channel.basic_publish(
            exchange, key.format(node=node, other=other), b"forged", pika.BasicProperties(**properties)
        )

    return attempt


def reads(queue: str, **arguments: Any) -> Attempt:
    def attempt(channel: BlockingChannel, node: str, other: str) -> None:
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue.format(node=node, other=other), lambda *_: None, **arguments)

    return attempt


def declares(queue: str, **arguments: Any) -> Attempt:
    def attempt(channel: BlockingChannel, node: str, other: str) -> None:
        name = queue.format(node=node, other=other)
        filled = {key: value.format(node=node, other=other) for key, value in arguments.items()}
        channel.queue_declare(
            name, durable=True, arguments={"x-" + key.replace("_", "-"): v for key, v in filled.items()}
        )

    return attempt


def makes_exchange(exchange: str, kind: str, **arguments: Any) -> Attempt:
    def attempt(channel: BlockingChannel, node: str, other: str) -> None:
        channel.exchange_declare(exchange.format(node=node), kind, arguments=arguments or None)

    return attempt


def binds(queue: str, exchange: str, key: str) -> Attempt:
    def attempt(channel: BlockingChannel, node: str, other: str) -> None:
        fill = {"node": node, "other": other}
        channel.queue_bind(queue.format(**fill), exchange, key.format(**fill))

    return attempt


def does(what: Callable[[BlockingChannel, str, str], object]) -> Attempt:
    return what


STREAMS = ("fleetbus.log", "fleetbus.telemetry", "fleetbus.blobs")

HOSTILE: dict[str, Attempt] = {
    # says what only others may say
    "delivers to itself": publishes("fleetbus.deliver", "{node}.node"),
    "delivers to another": publishes("fleetbus.deliver", "{other}.node"),
    "speaks as another node": publishes("fleetbus", "event.job.finished.node.{other}"),
    "speaks as a longer node": publishes("fleetbus", "event.job.finished.node.x{node}"),
    "speaks as the seat": publishes("fleetbus", "event.seat.taken"),
    "speaks as the seat with a new line": publishes("fleetbus", "event.seat.taken\n.node.{node}"),
    "ends its key with a new line": publishes("fleetbus", "event.a.node.{node}\n"),
    "commands as nobody": publishes("fleetbus", "command.job.submit"),
    "sends telemetry of another": publishes("fleetbus", "telemetry.heartbeat.node.{other}"),
    "sends what is no chunk": publishes("fleetbus", "blob.short.0.1"),
    "uses another's user id": publishes("fleetbus", "event.a.node.{node}", user_id="handlers"),
    "writes to the unrouted": publishes("fleetbus.unrouted", "event.seat.taken"),
    "writes straight into the log": publishes("", "fleetbus.log"),
    "writes straight into its inbox": publishes("", "node.{node}"),
    "writes straight into another's inbox": publishes("", "node.{other}"),
    "writes to a built-in exchange": publishes("amq.topic", "event.seat.taken"),
    # reads what is for others
    "reads another's inbox": reads("node.{other}"),
    "takes from another's inbox": does(lambda channel, _, other: channel.basic_get(f"node.{other}")),
    "takes the seat": reads("seat.fleet", exclusive=True),
    **{f"reads {name}": reads(name) for name in STREAMS},
    # takes away
    "empties another's inbox": does(lambda channel, _, other: channel.queue_purge(f"node.{other}")),
    "deletes another's inbox": does(lambda channel, _, other: channel.queue_delete(f"node.{other}")),
    "deletes its own inbox": does(lambda channel, node, _: channel.queue_delete(f"node.{node}")),
    "deletes the log": does(lambda channel, *_: channel.queue_delete("fleetbus.log")),
    "deletes the seat": does(lambda channel, *_: channel.queue_delete("seat.fleet")),
    **{
        f"deletes the exchange {name}": does(lambda channel, *_, name=name: channel.exchange_delete(name))
        for name in ("fleetbus", "fleetbus.deliver", "fleetbus.unrouted")
    },
    "unbinds the log": does(lambda channel, *_: channel.queue_unbind("fleetbus.log", "fleetbus", "event.#")),
    "unbinds another's inbox": does(
        lambda channel, _, other: channel.queue_unbind(f"node.{other}", "fleetbus.deliver", f"{other}.node")
    ),
    # leads elsewhere
    "binds its inbox to another's deliveries": binds("node.{node}", "fleetbus.deliver", "{other}.node"),
    "binds its inbox to all deliveries": binds("node.{node}", "fleetbus.deliver", "#"),
    "binds its inbox to every node's": binds("node.{node}", "fleetbus.deliver", "*.node"),
    "binds its inbox to a longer node's": binds("node.{node}", "fleetbus.deliver", "{node}x.node"),
    "binds its inbox to the fleet": binds("node.{node}", "fleetbus", "event.a.node.{node}"),
    "binds another's inbox": binds("node.{other}", "fleetbus.deliver", "{node}.node"),
    "binds the log to its deliveries": binds("fleetbus.log", "fleetbus.deliver", "{node}.node"),
    "binds deliveries of others to the fleet": does(
        lambda channel, _, other: channel.exchange_bind("fleetbus", "fleetbus.deliver", f"{other}.#")
    ),
    "binds the fleet to deliveries": does(
        lambda channel, *_: channel.exchange_bind("fleetbus.deliver", "fleetbus", "#")
    ),
    # makes what would forward past its rights
    "makes an exchange of its inbox's name": makes_exchange("node.{node}", "direct"),
    "makes an exchange that overflows into the fleet": makes_exchange(
        "node.{node}", "direct", **{"alternate-exchange": "fleetbus"}
    ),
    "makes a queue that dead-letters into the fleet": declares(
        "node.{node}", dead_letter_exchange="fleetbus", dead_letter_routing_key="event.seat.taken"
    ),
    "makes its inbox anew": declares("node.{node}"),
    "makes another's inbox": declares("node.{other}"),
    "makes a seat": declares("seat.other"),
    "makes a queue of its own": declares("mine"),
    "makes a queue without a name": declares(""),
    "makes an exchange of its own": makes_exchange("mine", "topic"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_agents_credentials_are_refused_what_is_not_the_agents(
    engine: RabbitEngine, log: Stream, attacker: str, other: str, what: str
) -> None:
    before = log.next_offset()
    with channel_of(engine, agent_user(attacker)) as channel, pytest.raises(ChannelClosedByBroker) as caught:
        HOSTILE[what](channel, attacker, other)
    # 406 is for a user id that is not the connection's
    assert caught.value.reply_code in (403, 406)
    assert log.next_offset() == before


def test_an_agents_credentials_are_enough_for_its_work(engine: RabbitEngine, node: str) -> None:
    agent, handlers = engine.bus(agent_user(node)), engine.bus(HANDLERS)
    inbox = agent.inbox(node)
    inbox.open([f"{node}.node", f"{node}.computenode.kvm.#"])
    inbox.bind([f"{node}.node", f"{node}.cpu.#"])
    assert handlers.deliver(f"{node}.cpu", b"work").result(SOON)
    (delivered,) = inbox.read(timeout=SOON)
    inbox.ack([delivered.tag])
    keys = [f"event.job.started.node.{node}", f"telemetry.stats.node.{node}", f"blob.{'0' * 64}.0.1"]
    keys += [f"event.billing.paid.node.{node}", f"command.job.submit.node.{node}"]
    for key in keys:
        agent.publish(Message(key=key, body=b"")).result(SOON)


def test_what_an_agent_may_lead_back_to_the_fleet_is_bad_for_every_reader(engine: RabbitEngine, node: str) -> None:
    """RabbitMQ 3.10 cannot forbid it: who may bind to deliveries and publish on the fleet may join the two. What comes
    that way are the node's own deliveries, under a key that fits no type."""
    handlers = engine.bus(HANDLERS)
    with channel_of(engine, agent_user(node)) as channel:
        channel.exchange_bind("fleetbus", "fleetbus.deliver", f"{node}.#")
    with handlers.stream("log").read_from(handlers.stream("log").next_offset()) as reader:
        handlers.deliver(f"{node}.node", b"work").result(SOON)
        (record,) = read_some(reader, 1)
    assert (record.key, record.user) == (f"{node}.node", HANDLERS)
    assert record.key.partition(".")[0] not in ("command", "event", "telemetry", "blob")


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_more_keys_in_a_header_change_nothing_in_the_record(
    engine: RabbitEngine, log: Stream, node: str, header: str
) -> None:
    """RabbitMQ 3.10 routes by them without a look at the topic permissions; streams keep the first key alone."""
    before = log.next_offset()
    with channel_of(engine, agent_user(node)) as channel:
        publishes("fleetbus", "telemetry.stats.node.{node}", headers={header: ["event.seat.taken"]})(channel, node, "")
    with log.read_from(before) as reader:
        (record,) = read_some(reader, 1)
    assert record.key == f"telemetry.stats.node.{node}"


FORBIDDEN = {
    PORTAL: ["telemetry.heartbeat.node.n1", "nonsense", "blob.x"],
    PROJECTIONS: [
        "event.seat.taken",
        "command.job.submit",
        "event.job.queued",
        "telemetry.stats",
        "blob." + "0" * 64 + ".0.1",
    ],
    service_user("billing"): [
        "event.seat.taken",
        "event.job.queued",
        "event.billing",
        "event.billingx.paid",
        "telemetry.stats",
        "blob.x",
    ],
}
ALLOWED = {
    PORTAL: ["command.job.submit", "event.billing.paid", "telemetry.canary", "blob." + "0" * 64 + ".0.1"],
    PROJECTIONS: ["event.projections.rebuilt", "telemetry.canary"],
    service_user("billing"): ["event.billing.paid", "event.billing.paid.late", "command.job.submit"],
}


@pytest.mark.parametrize("user", FORBIDDEN)
def test_users_publish_their_own_keys_only(engine: RabbitEngine, user: str) -> None:
    bus = engine.bus(user)
    for key in ALLOWED[user]:
        assert bus.publish(Message(key=key, body=b"")).result(SOON) is None
    for key in FORBIDDEN[user]:
        with pytest.raises(Refused):
            bus.publish(Message(key=key, body=b"")).result(SOON)


OF_THE_HOUSE = (
    "delivers to another", "writes straight into the log", "reads another's inbox", "takes the seat",
    "empties another's inbox", "deletes another's inbox", "deletes the log", "unbinds the log",
    "binds another's inbox", "binds the fleet to deliveries", "makes a queue of its own",
    "makes an exchange of its own",
)  # fmt: skip


@pytest.mark.parametrize("user", [PORTAL, PROJECTIONS, service_user("billing")])
@pytest.mark.parametrize("what", OF_THE_HOUSE)
def test_only_the_handlers_run_the_house(engine: RabbitEngine, attacker: str, other: str, user: str, what: str) -> None:
    with channel_of(engine, user) as channel, pytest.raises(ChannelClosedByBroker) as caught:
        HOSTILE[what](channel, attacker, other)
    assert caught.value.reply_code == 403


def test_services_read_nothing(engine: RabbitEngine) -> None:
    for name in STREAMS:
        with channel_of(engine, service_user("billing")) as channel, pytest.raises(ChannelClosedByBroker):
            reads(name)(channel, "", "")


def test_portal_and_projections_read_every_stream(engine: RabbitEngine) -> None:
    for user in (PORTAL, PROJECTIONS):
        bus = engine.bus(user)
        assert bus.stream("log").next_offset() > 0
        assert bus.stream("telemetry").first() is None or bus.stream("telemetry").next_offset() > 0
        assert bus.stream("blobs").next_offset() >= 0


def test_a_user_that_is_made_again_has_the_new_password_and_keeps_its_inbox(
    engine: RabbitEngine, rabbitmq_management: Management, node: str
) -> None:
    agent = engine.bus(agent_user(node))
    agent.inbox(node).open([f"{node}.node"])
    agent.close()
    assert engine.bus(HANDLERS).deliver(f"{node}.node", b"kept").result(SOON)
    ensure_user(rabbitmq_management.url, engine.vhost, agent_user(node), "another")
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(engine.url(agent_user(node))))
    ensure_user(rabbitmq_management.url, engine.vhost, agent_user(node), PASSWORD)
    inbox = engine.bus(agent_user(node)).inbox(node)
    inbox.open([f"{node}.node"])
    assert [delivered.body for delivered in inbox.read(timeout=SOON)] == [b"kept"]


def test_a_deleted_user_is_thrown_out_and_its_inbox_is_gone(
    engine: RabbitEngine, rabbitmq_management: Management, node: str
) -> None:
    agent, handlers = engine.bus(agent_user(node)), engine.bus(HANDLERS)
    agent.inbox(node).open([f"{node}.node"])
    delete_user(rabbitmq_management.url, engine.vhost, agent_user(node))
    wait_until(lambda: not agent.connected, deadline=SOON, what="the end of its connection")
    assert handlers.deliver(f"{node}.node", b"").result(SOON) is False
    delete_user(rabbitmq_management.url, engine.vhost, agent_user(node))


def test_an_uninvited_agent_is_told_that_it_has_no_inbox(
    engine: RabbitEngine, rabbitmq_management: Management, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = engine.bus(agent_user(node))
    engine.bus(HANDLERS).remove_inbox(node)
    monkeypatch.setattr("bus.rabbitmq.inbox.PATIENCE", 2.0)
    with pytest.raises(Refused, match=f"there is no inbox for '{node}'"):
        bus.inbox(node).open([f"{node}.node"])


@pytest.mark.parametrize("user", [
    "", "guest", "handlers.x", "node.", "node.event", "node.A", "node.a.b", "node.a|b", "node..*",
    "service.", "service.a.b",
    *(f"service.{word}" for word in sorted(PLATFORM_WORDS)),
])  # fmt: skip
def test_users_that_fleetbus_does_not_know_get_nothing(user: str) -> None:
    with pytest.raises(ValueError, match="is no user of fleetbus"):
        rights_of(user)


def test_only_the_handlers_declare() -> None:
    for user in (PORTAL, PROJECTIONS, agent_user("n1"), service_user("billing")):
        assert rights_of(user).configure == NOTHING


def test_errors_of_the_management_api_name_no_password(rabbitmq_management: Management, engine: RabbitEngine) -> None:
    wrong = rabbitmq_management.url.replace("@", "-wrong@")
    with pytest.raises(Refused, match="401") as caught:
        ensure_user(wrong, engine.vhost, PORTAL, "hidden")
    assert "wrong" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        ensure_user("http://admin:secret@127.0.0.1:1", engine.vhost, PORTAL, "hidden")
    with pytest.raises(Refused, match=r"404|400"):
        ensure_user(rabbitmq_management.url, f"no-{uuid.uuid4().hex}", PORTAL, PASSWORD)


def test_the_broker_verifies_the_user_of_a_record(engine: RabbitEngine, log: Stream, node: str) -> None:
    """What says no user at all is appended with none; admission finds it bad."""
    with log.read_from(log.next_offset()) as reader:
        with channel_of(engine, agent_user(node)) as channel:
            publishes("fleetbus", "event.a.node.{node}")(channel, node, "")
        engine.bus(HANDLERS).publish(event(1)).result(SOON)
        assert [record.user for record in read_some(reader, 2)] == [None, HANDLERS]
