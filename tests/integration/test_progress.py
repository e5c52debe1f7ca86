"""A consumer that is connected and does not advance: it is found, and its process ends so that it can begin anew.

Consumers are made to stand still in ways that happen: a file that never answers, a fold that never returns, deliveries
that never come although the connection lives.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.ports import Bus
from bus.progress import Progress, Watch
from bus.rabbitmq import inbox as inbox_module
from events.actors import HANDLERS, PROJECTIONS, agent_user
from fleetbus.errors import STALLED
from projections.osis.documents import Document
from projections.osis.sqlite_documents import SqliteDocuments
from projections.projection import Entry, EntryProjection
from projections.runner import Runner
from tests.contract.bus_contract import RabbitEngine, event, new_node, read_some
from tests.proxy import Proxy
from tests.servers.management import Management
from tests.stories import Story
from tests.waiting import wait_until

CLOCK = SystemClock()
#: Seconds within which what must happen has happened, on a busy machine.
SOON = 60.0


@contextmanager
def watched(bus: Bus, place: Progress, patience: float = 1.0) -> Iterator[list[str]]:
    """What the watch says of a consumer that stands still."""
    found: list[str] = []
    with Watch(bus, [place], CLOCK, found.append, every=0.2, patience=patience):
        yield found


@contextmanager
def following(bus: Bus, place: Progress) -> Iterator[None]:
    """A consumer of the log that does nothing but read it."""
    stop = threading.Event()

    def follow() -> None:
        place.at(0)
        with bus.stream("log").read_from("first") as reader:
            while not stop.is_set():
                for record in reader.read(timeout=0.1):
                    place.at(record.next_offset)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SOON)


def say(bus: Bus, count: int = 1) -> None:
    for n in range(count):
        bus.publish(event(n)).result(SOON)


def test_a_consumer_whose_deliveries_stop_while_the_connection_lives_is_found(
    rabbitmq_management: Management, amqp_vhost: str
) -> None:
    with closing(RabbitEngine(rabbitmq_management, amqp_vhost)) as engine, Proxy(engine.port, amqp=True) as proxy:
        bus, other = engine.bus(PROJECTIONS, port=proxy.port), engine.bus(HANDLERS)
        place = Progress("reader", CLOCK)
        with following(bus, place):
            say(other, 3)
            wait_until(lambda: place.lag().next_offset == 4, deadline=SOON, what="the reader at the end")
            with watched(bus, place, patience=3.0) as found:
                proxy.starve()
                say(other)
                wait_until(lambda: found, deadline=SOON, what="the watch to notice")
                assert bus.connected
        assert "reader stands still" in found[0]
        assert "at offset 4 of log, which ends at 5" in found[0]


def test_an_inbox_whose_consumer_the_broker_forgot_opens_itself_anew(
    rabbitmq_management: Management, amqp_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "LOOK_EVERY", 0.2)
    monkeypatch.setattr(inbox_module, "DEAF_AFTER", 1.0)
    node = new_node()
    with closing(RabbitEngine(rabbitmq_management, amqp_vhost)) as engine:
        engine.invite(node)
        handlers, bus = engine.bus(HANDLERS), engine.bus(agent_user(node))
        inbox = bus.inbox(node)
        inbox.open([f"{node}.node"])
        assert handlers.deliver(f"{node}.node", b"one").result(SOON)
        wait_until(lambda: inbox.read(timeout=0.2), deadline=SOON, what="the first delivery")
        before = inbox.generation
        # the broker has no consumer any more, and the inbox does not know
        raw = inbox._channel.raw  # type: ignore[attr-defined]
        bus._connection.soon(lambda: [raw.basic_cancel(tag) for tag in raw.consumer_tags])
        wait_until(lambda: not raw.consumer_tags, deadline=SOON, what="the consumer to be gone")
        assert bus.connected
        assert inbox.generation == before
        assert handlers.deliver(f"{node}.node", b"two").result(SOON)
        got: list[bytes] = []

        def came() -> bool:
            got.extend(one.body for one in inbox.read(timeout=0.2))
            return b"two" in got

        wait_until(came, deadline=SOON, what="the delivery that waited")
        assert inbox.generation > before


def test_a_consumer_that_reads_what_there_is_is_left_alone(tmp_path: Path) -> None:
    with closing(EmbeddedBus(tmp_path / "bus", PROJECTIONS)) as bus:
        place = Progress("reader", CLOCK)
        with (
            following(bus, place),
            watched(bus, place, patience=2.0) as found,
            bus.stream("telemetry").read_from("first") as canaries,
        ):
            say(bus, 3)
            wait_until(lambda: place.lag().next_offset == 4, deadline=SOON, what="the records")
            # long enough for the patience to run out more than once
            assert len(read_some(canaries, 25, SOON)) >= 25
        assert found == []


def test_a_runner_whose_fold_never_returns_is_found(tmp_path: Path) -> None:
    wedged, let_go = threading.Event(), threading.Event()

    def fold(_document: Document | None, _entry: Entry) -> None:
        wedged.set()
        let_go.wait()

    wedge = EntryProjection(name="wedge", version=1, keys=lambda entry: ("x",), fold=fold)
    story = Story()
    story.script("facts")
    story.write(tmp_path / "bus")
    with (
        closing(EmbeddedBus(tmp_path / "bus", HANDLERS)) as bus,
        closing(SqliteDocuments(tmp_path / "views.db")) as docs,
    ):
        place, stop = Progress("projections", CLOCK), threading.Event()
        runner = Runner(bus, docs, CLOCK, projections=[wedge], place=place)
        thread = threading.Thread(target=runner.run, args=(stop,))
        place.at(0)
        with watched(bus, place) as found:
            thread.start()
            assert wedged.wait(SOON)
            wait_until(lambda: found, deadline=SOON, what="the watch to notice")
        stop.set()
        let_go.set()
        thread.join(SOON)
    assert "projections stands still" in found[0]


def test_a_service_that_stands_still_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    """The handlers write their snapshot into what never takes it."""
    story = Story()
    story.script("facts")
    story.write(tmp_path / "bus")
    # it is opened for writing, which waits for somebody who reads
    os.mkfifo(tmp_path / "handlers.new")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.standstill", str(tmp_path)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with closing(EmbeddedBus(tmp_path / "bus", HANDLERS)) as bus:
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.2):
                say(bus)

        talking = threading.Thread(target=go_on)
        talking.start()
        try:
            _, said = process.communicate(timeout=SOON)
        finally:
            ended.set()
            talking.join()
            process.kill()
    assert process.returncode == STALLED
    assert b"handlers stands still: connected, at offset" in said
