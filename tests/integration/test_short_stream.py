"""A stream of which only the end is kept: handlers, projections and replay take the rest from the archive."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bus.admission import AdmissionState, Admitted, admit
from bus.archive.folder import Archive
from bus.archive.stream import ArchivedBus
from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.errors import Unreachable
from bus.ports import Bus, Message
from events.actors import HANDLERS, PORTAL, PROJECTIONS
from events.codec import encode
from events.envelope import Event
from events.routing import routing_key
from events.script import RetireScript
from handlers.loop import run_handlers
from projections.osis.sqlite_documents import SqliteDocuments
from projections.replay import replay
from tests.archives import write
from tests.folding import fold_log
from tests.projecting import busy_story, running, seen
from tests.stories import Story
from tests.waiting import wait_until


def cut(story: Story, folder: Path) -> Path:
    """The story in a log of which only the last records are left, and its archive."""
    story.write(folder)
    records = story.records()
    write(folder / "archive", records[:-7], 50)
    with closing(sqlite3.connect(folder / "bus.db")) as db, db:
        db.execute("DELETE FROM log WHERE offset < ?", (len(records) - 9,))
    return folder


@contextmanager
def archived(folder: Path, user: str) -> Iterator[Bus]:
    with closing(ArchivedBus(EmbeddedBus(folder, user), Archive(folder / "archive"))) as bus:
        yield bus


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[SqliteDocuments]:
    with closing(SqliteDocuments(tmp_path / "views.db")) as opened:
        yield opened


def test_views_are_those_of_the_whole_log(tmp_path: Path, documents: SqliteDocuments) -> None:
    story = busy_story(jobs=15)
    folder = cut(story, tmp_path / "bus")
    expected = fold_log(story.records())
    with archived(folder, PROJECTIONS) as bus:
        report = replay(bus, documents)
    assert report.records == len(story.said)
    assert seen(documents.namespace(report.generation)) == expected
    story.tick()
    story.write(folder)
    with running(ArchivedBus(EmbeddedBus(folder, PROJECTIONS), Archive(folder / "archive")), documents):
        wait_until(
            lambda: seen(documents.namespace(report.generation)) == fold_log(story.records()),
            deadline=60,
            what="the views to follow the stream",
        )


def test_handlers_know_what_the_stream_has_forgotten(tmp_path: Path) -> None:
    """A script that was published long ago can be retired: for one who saw the stream alone there is none."""
    story = Story()
    story.script("facts")
    for _ in range(100):
        story.tick()
    folder, stop = cut(story, tmp_path / "bus"), threading.Event()
    command = story.event("command.script.retire", RetireScript(name="facts"), actor="user:alice")
    with archived(folder, HANDLERS) as bus, closing(EmbeddedBus(folder, PORTAL)) as portal:
        thread = threading.Thread(target=run_handlers, args=(bus, SystemClock(), None, stop))
        thread.start()
        try:
            message = Message(routing_key(command), encode(command), command.id, command.type)
            portal.publish(message).result(30)
            outcome = wait_until(lambda: outcome_of(bus, command.id), deadline=60, what="the outcome")
        finally:
            stop.set()
            thread.join(30)
    assert outcome is not None
    assert outcome.type == "event.script.retired"


def outcome_of(bus: Bus, command: str) -> Event | None:
    state = AdmissionState()
    end = bus.stream("log").next_offset()
    with bus.stream("log").read_from("first") as reader:
        while state.next_offset < end:
            records = reader.read(timeout=1)
            if not records:
                raise Unreachable(f"nothing behind {state.next_offset}")
            for record in records:
                verdict = admit(state, record)
                if isinstance(verdict, Admitted) and verdict.event.causationid == command:
                    return verdict.event
    return None
