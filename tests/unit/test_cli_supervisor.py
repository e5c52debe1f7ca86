"""Children that are kept running, with services that end as the test wants."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetbus import supervisor
from fleetbus.supervisor import Child
from tests.waiting import wait_until


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """A service without settings: it ends with 2 at once."""
    found = Child("handlers", ["handlers"], {"PATH": "/usr/bin:/bin"}, tmp_path)
    yield found
    found.stop()


def looks(child: Child) -> bool:
    child.look()
    return child.state != "runs"


def runs(child: Child, program: str) -> None:
    """From now on it is this program."""
    child._args = [sys.executable, "-c", program]
    child.start()


def test_a_service_whose_settings_are_wrong_is_not_started_again(child: Child) -> None:
    child.start()
    wait_until(lambda: looks(child), deadline=60, what="the end of the child")
    assert (child.state, child.code) == ("gave up", 2)
    assert child.last_words().startswith("FLEETBUS_BUS_URL is not set")


def test_a_service_that_ends_otherwise_is_started_again_later_and_later(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    runs(child, 'import sys; print(\'{"event": "the seat is lost"}\', flush=True); sys.exit(3)')
    pauses = []
    for _ in range(3):
        wait_until(lambda: looks(child), deadline=60, what="the end of the child")
        pauses.append(child._pause)
        wait_until(lambda: child.look() or child.state == "runs", deadline=60, what="its start")
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1]
    assert child.last_words() == "the seat is lost"


def test_a_service_that_does_not_stop_is_killed(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_WITHIN", 0.2)
    runs(
        child,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)",
    )
    wait_until(lambda: "up" in child.log.read_text(), deadline=60, what="the child to run")
    child.stop()
    assert child.state == "stopped"


def test_a_log_does_not_grow_for_ever(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG", 1_000)
    runs(child, "import sys, time\nwhile True: print('x' * 100, flush=True); time.sleep(0.01)")
    before = child.log.with_suffix(".log.1")
    wait_until(lambda: child.look() or before.exists(), deadline=60, what="the log to be put away")
    assert before.stat().st_size >= 1_000
    wait_until(lambda: 0 < child.log.stat().st_size < 900, deadline=60, what="the log to begin anew")
