"""Runners at work in tests, and stories that have everything in them."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from bus.checkpoint import log_id
from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.ports import Bus, Record
from events.actors import PROJECTIONS as USER
from events.node import NodeDisconnected
from projections.admission_store import LIVE
from projections.freshness import view_status
from projections.metrics import Metrics
from projections.osis.documents import Documents, Namespace
from projections.projection import AnyProjection
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.service import keep_running
from tests.folding import Collections
from tests.stories import Agent, Story
from tests.waiting import wait_until

CLOCK = SystemClock()


@contextmanager
def running(
    where: Path | Bus,
    documents: Documents,
    projections: Sequence[AnyProjection] = PROJECTIONS,
    *,
    restart: bool = False,
    before: Callable[[], None] = lambda: None,
) -> Iterator[Metrics]:
    """A runner at work, on a bus or on the embedded one of a folder. Without `restart` its error is the test's.

    `before` is called when its bus is open and it has not looked at the log yet.
    """
    stop, metrics, errors = threading.Event(), Metrics(), list[Exception]()

    def run() -> None:
        try:
            if restart:
                keep_running("runner", runner.run, CLOCK, stop, metrics)
            else:
                runner.run(stop)
        except Exception as error:  # noqa: BLE001  # raised again in the test's own thread
            errors.append(error)

    with closing(EmbeddedBus(where, USER) if isinstance(where, Path) else where) as bus:
        runner = Runner(bus, documents, CLOCK, metrics=metrics, projections=projections)
        thread = threading.Thread(target=run)
        before()
        thread.start()
        try:
            yield metrics
        finally:
            stop.set()
            thread.join(30)
    if errors:
        raise errors[0]


def live(documents: Documents) -> Namespace:
    name = documents.pointed(LIVE)
    assert name is not None
    return documents.namespace(name)


def seen(namespace: Namespace) -> Collections:
    """All views of a generation."""
    return {one.name: {doc["_id"]: doc for doc in namespace.iterate(one.name)} for one in PROJECTIONS}


def caught_up(documents: Documents, folder: Path) -> Namespace:
    """The live views, once they reflect the whole log."""

    def reached() -> bool:
        with closing(sqlite3.connect(folder / "bus.db")) as db:
            (end,) = db.execute("SELECT max(offset) + 1 FROM log").fetchone()
            (body,) = db.execute("SELECT body FROM log ORDER BY offset LIMIT 1").fetchone()
        status = view_status(documents)
        return (status.log, status.next_offset) == (log_id(Record(0, body, "", None)), end)

    wait_until(reached, deadline=30, what="the views to reflect the whole log")
    return live(documents)


def busy_story(seed: int = 1, jobs: int = 20) -> Story:
    """A fleet at work, with garbage and forgeries in between, over more than ten minutes of log time."""
    chance = random.Random(seed)
    story = Story(name=f"busy-{seed}")
    story.script("facts")
    nodes = ["n1", "n2", "n3"]
    for node in nodes:
        story.node(node, roles=("cpu",))
    for n in range(jobs):
        job = story.job("facts", node=chance.choice(nodes), params={"n": n}, wait=chance.choice(["", "busy"]))
        way = chance.randrange(6)
        if way != 0:
            story.started(job)
        if way in (1, 2, 3):
            story.finished(job, chance.choice(["succeeded", "failed"]), result={"n": n})
        if way == 4:
            story.lost(job)
            story.finished(job)
        if n % 5 == 0:
            garbage(story, chance)
            story.batch("facts", nodes, size=chance.choice([0, 1]))
            story.own_run("n2", "facts", slot=str(n))
            story.later(chance.choice([1, 61, 601]))
    return story


def garbage(story: Story, chance: random.Random) -> None:
    """What anybody may put on the exchange: nothing of it may stop a reader, or change what is true."""
    story.again(story.tick())
    story.raw(b"not json")
    story.raw(b'{"specversion": "1.0"}', user="service.billing")
    story.raw(b"\x00\xff" * 10_000, user="node.n1", key="event.job.started.node.n1")
    story.raw(b"[" * 5_000_000 if chance.random() < 0.1 else b"[]")
    story.raw(story.said[1].body, key="event.job.lost", user="node.n1")
    token, story.token = story.token, story.id()
    story.lost(story.id())
    story.token = token
    # a jump in the count of an agent: the gap stays open
    agent = story.agent("n3")
    agent.seq += chance.choice([1, 7, 10**15])
    goodbye = NodeDisconnected(node="n3", boot=story.id())
    story.report("n3", "event.node.disconnected", goodbye)
    story._agents["n3"] = Agent("n3", story.id(), agent.journal)
