"""The door for local services while the journal cannot be written."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from bus.clock import SystemClock
from nodeagent.journal import Journal
from nodeagent.local import LocalDoor
from tests.integration.test_agent_local import EVENT, Service
from tests.unit.test_journal import SPEAKER, with_blob
from tests.waiting import wait_until

SOON = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    # a socket's path is short
    with tempfile.TemporaryDirectory(prefix="fb-") as name:
        yield Path(name)


def test_while_the_disk_is_full_services_are_told_at_once_and_nothing_piles_up(folder: Path) -> None:
    with Journal(folder / "journal.db", str(uuid4())) as journal:
        door = LocalDoor(folder / "agent.sock", journal, SPEAKER, SystemClock())
        door.start()
        try:
            with closing(Service(folder / "agent.sock")) as service:
                assert service.ask(**EVENT)["id"]
                journal._db.execute("PRAGMA max_page_count = 1")
                waits = journal.write(facts=(with_blob(b"x" * 1_000_000),))
                wait_until(lambda: journal.trouble, deadline=SOON, what="the journal to notice that the disk is full")
                answers = [service.ask(**EVENT) for _ in range(5)]
                assert all("cannot be written" in answer["error"] for answer in answers)
                assert journal._waiting.qsize() == 0
                journal._db.execute("PRAGMA max_page_count = 1000000")
                waits.result(SOON)
                assert service.ask(**EVENT)["id"]
        finally:
            door.stop()
        # what was taken, and the fact that waited; nothing of what was refused
        assert len(journal.file.rows(0, 10)) == 3
