"""What a confirm means: `stream` and `fsync` as the topology has them, and a power cut that shows the difference."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest

from bus import topology
from bus.broker import Broker, Durability
from bus.checkpoint import digest
from bus.errors import NotConfirmed, Refused
from bus.ports import Bus
from bus.rabbitmq import RabbitBus
from bus.rabbitmq.archive_queue import ArchiveQueue
from bus.rabbitmq.recovery import recover
from bus.users import ensure_user
from events.actors import ARCHIVER, HANDLERS
from fleetbus.settings import Settings
from fleetbus.wiring import run_archiver
from tests.contract.bus_contract import PASSWORD, SOON, event, read_some
from tests.servers.management import Management
from tests.servers.rabbitmq import RabbitMQ
from tests.waiting import wait_until


class Place:
    """A virtual host, and the broker as its handlers and its administrator see it."""

    def __init__(self, management: Management, admin_url: str) -> None:
        at = urlsplit(admin_url)
        self.management, self.admin_url = management, admin_url
        self.vhost = at.path.removeprefix("/")
        ensure_user(management.url, self.vhost, HANDLERS, PASSWORD)
        self.url = at._replace(netloc=f"{HANDLERS}:{PASSWORD}@{at.hostname}:{at.port}").geturl()
        # who recovers speaks for others; the tag is of the broker's user, and all tests agree on it
        name = at.username or ""
        user = management.ask("GET", f"users/{name}")
        management.ask(
            "PUT", f"users/{name}", {"password_hash": user["password_hash"], "tags": "administrator,impersonator"}
        )

    def durability(self) -> Durability:
        return Broker(self.management.url, self.vhost).look().durability

    def waiting(self) -> int:
        return Broker(self.management.url, self.vhost).look().waiting

    def wait_for_at_most(self, messages: int) -> None:
        wait_until(lambda: 0 < self.waiting() <= messages, deadline=SOON * 4, what=f"at most {messages} messages")

    def wait_for(self, messages: int) -> None:
        """The broker counts every few seconds."""
        wait_until(lambda: self.waiting() == messages, deadline=SOON * 4, what=f"{messages} messages in the queue")


@pytest.fixture
def place(rabbitmq_management: Management, amqp_vhost: str) -> Place:
    return Place(rabbitmq_management, amqp_vhost)


@pytest.fixture
def bus(place: Place) -> Iterator[RabbitBus]:
    topology.apply(place.url, "fsync")
    made = RabbitBus(place.url)
    yield made
    made.close()


def say(bus: Bus, numbers: range) -> list[bytes]:
    """Says them, and returns the bodies when all are confirmed."""
    messages = [event(n) for n in numbers]
    for future in [bus.publish(message) for message in messages]:
        future.result(SOON)
    return [message.body for message in messages]


def bodies(bus: Bus) -> list[bytes]:
    """All of the log but its first record."""
    end = bus.stream("log").next_offset()
    with bus.stream("log").read_from("first") as reader:
        return [record.body for record in read_some(reader, end)][1:]


def test_a_new_broker_confirms_by_the_stream_alone(place: Place) -> None:
    assert topology.apply(place.url) is None
    assert place.durability() == "stream"


def test_fsync_stays_until_somebody_says_stream(place: Place) -> None:
    choices: list[Durability | None] = ["fsync", None, "fsync"]
    for said in choices:
        assert topology.apply(place.url, said) is None
        assert place.durability() == "fsync"


def test_under_fsync_everything_that_the_log_gets_is_in_the_queue_too(place: Place, bus: RabbitBus) -> None:
    bus.publish(event(1, "command.test.do")).result(SOON)
    bus.publish(event(2, "event.test.said")).result(SOON)
    bus.publish(event(3, "telemetry.stats")).result(SOON)
    # the log's own beginning, the command and the fact
    place.wait_for(3)


def test_stream_keeps_a_queue_that_is_not_empty_and_says_so_and_deletes_an_empty_one(
    place: Place, bus: RabbitBus
) -> None:
    say(bus, range(3))
    kept = topology.apply(place.url, "stream")
    assert kept is not None
    assert kept.messages == 4
    assert place.durability() == "stream"
    say(bus, range(3, 5))
    assert topology.make_durable(place.url, "stream") == topology.Kept(4)
    assert recover(place.admin_url, settled_after=-60.0).in_log == 4
    assert topology.make_durable(place.url, "stream") is None
    names = [row["name"] for row in place.management.ask("GET", f"queues/{place.vhost}")]
    assert "fleetbus.archive" not in names


def test_recovery_lets_go_of_what_the_log_has_once_it_is_old_enough(place: Place, bus: RabbitBus) -> None:
    said = say(bus, range(20))
    young = recover(place.admin_url)
    assert (young.in_log, young.appended, young.left) == (21, 0, 21)
    place.wait_for(21)
    old = recover(place.admin_url, settled_after=-60.0)
    assert (old.in_log, old.appended, old.left) == (21, 0, 0)
    place.wait_for(0)
    assert bodies(bus) == said


def test_recovery_without_a_queue_or_without_the_right_says_so(place: Place) -> None:
    topology.apply(place.url)
    with pytest.raises(Refused, match=r"no queue 'fleetbus\.archive'"):
        recover(place.admin_url)


def test_what_is_sealed_leaves_the_queue_and_what_is_in_no_segment_stays_and_is_told(
    place: Place, bus: RabbitBus
) -> None:
    said = say(bus, range(10))
    with closing(ArchiveQueue(place.url)) as queue:
        wait_until(lambda: queue.held == 11, deadline=SOON, what="the queue to be held")
        with bus.stream("log").read_from("first") as reader:
            records = read_some(reader, 11)
        lost = records.pop(4)
        queue.sealed(map(digest, records[:5]))
        assert (queue.held, queue.stranded) == (6, 0)
        # it came before two segments' last, and is in neither
        queue.sealed(map(digest, records[5:7]))
        assert (queue.held, queue.stranded) == (4, 1)
        queue.sealed(map(digest, records[7:]))
        assert queue.held == 1
        place.wait_for(1)
        queue.sealed([digest(lost)])
        place.wait_for(0)
    assert bodies(bus) == said


@pytest.mark.slow
@pytest.mark.chaos
def test_a_power_cut_loses_what_a_stream_confirmed_and_nothing_of_what_fsync_confirmed(
    private_rabbitmq: RabbitMQ,
) -> None:
    """The cut: the broker is killed, and the streams' files are what they were at an earlier moment on the disk."""
    broker = private_rabbitmq
    places: dict[Durability, Place] = {}
    for name in get_args(Durability):
        places[name] = Place(broker.management, broker.management.add_vhost(f"v-{name}"))
        topology.apply(places[name].url, name)
    before = {name: _say_on(place, range(50)) for name, place in places.items()}
    broker.stop()
    files = _copied(broker)
    broker.start()
    after = {name: _say_on(place, range(50, 100)) for name, place in places.items()}
    broker.kill()
    _put_back(files)
    broker.start()

    with closing(RabbitBus(places["stream"].url)) as bus:
        # confirmed, and gone
        assert _bodies_soon(bus, 50) == before["stream"]
    with closing(RabbitBus(places["fsync"].url)) as bus:
        assert _bodies_soon(bus, 50) == before["fsync"]
        found = recover(places["fsync"].admin_url, settled_after=-3600.0)
        assert (found.in_log, found.appended) == (51, 50)
        assert bodies(bus) == before["fsync"] + after["fsync"]
        # the copies are in the queue until they have settled; nothing is appended a second time
        again = recover(places["fsync"].admin_url)
        assert (again.in_log, again.appended, again.left) == (50, 0, 50)
        with bus.stream("log").read_from("first") as reader:
            assert {record.user for record in read_some(reader, 101)} == {HANDLERS}


def _say_on(place: Place, numbers: range) -> list[bytes]:
    """A broker that has just started throws messages away, and tells; what it throws away leaves no trace."""
    with closing(RabbitBus(place.url)) as bus:
        wait_until(lambda: _took(bus, numbers[0]), deadline=120.0, what="the broker to take messages")
        return [event(numbers[0]).body, *say(bus, numbers[1:])]


def _took(bus: Bus, number: int) -> bool:
    try:
        say(bus, range(number, number + 1))
    except NotConfirmed as error:
        if "no stream took it" not in str(error):
            raise
        return False
    return True


def _bodies_soon(bus: Bus, count: int) -> list[bytes]:
    """A broker that has just started serves its streams a moment later."""
    wait_until(lambda: bus.stream("log").next_offset() == count + 1, deadline=120.0, what=f"{count} records")
    return bodies(bus)


def _streams(broker: RabbitMQ) -> list[Path]:
    found = [path for path in broker.directory.glob("data/*/stream/*") if path.is_dir()]
    assert found
    return found


def _copied(broker: RabbitMQ) -> dict[Path, Path]:
    """Stream's folder -> its copy."""
    return {path: Path(shutil.copytree(path, broker.directory / "copies" / path.name)) for path in _streams(broker)}


def _put_back(copies: dict[Path, Path]) -> None:
    for path, copy in copies.items():
        shutil.rmtree(path)
        shutil.copytree(copy, path)


def test_the_archiver_lets_go_of_what_it_has_sealed(place: Place, bus: RabbitBus, tmp_path: Path) -> None:
    at = urlsplit(place.url)
    ensure_user(place.management.url, place.vhost, ARCHIVER, PASSWORD)
    url = at._replace(netloc=f"{ARCHIVER}:{PASSWORD}@{at.hostname}:{at.port}").geturl()
    settings = Settings(bus_url=url, data=tmp_path, archive=tmp_path / "archive", archive_records=4)
    said, stop = say(bus, range(19)), threading.Event()
    thread = threading.Thread(target=run_archiver, args=(settings, stop))
    thread.start()
    try:
        # 19 and the log's beginning are five segments; their seals make facts, which wait for a segment of their own
        place.wait_for_at_most(4)
    finally:
        stop.set()
        thread.join(SOON)
    assert [body for body in bodies(bus) if body in said] == said
