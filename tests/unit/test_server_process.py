"""A program that was started can be found, asked to end and killed by whoever has its folder."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.servers.ports import FIRST, LAST, free_ports, is_free
from tests.servers.process import Process
from tests.waiting import wait_until

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);print('ready', flush=True); time.sleep(600)"
)


def start(process: Process, script: str) -> None:
    process.start([sys.executable, "-c", script], dict(os.environ))


def test_a_running_program_is_found_through_its_folder_and_ends_when_asked(tmp_path: Path) -> None:
    process = Process(tmp_path, "sleeper")
    start(process, "import time; time.sleep(600)")
    assert Process(tmp_path, "sleeper").pid() is not None

    Process(tmp_path, "sleeper").terminate(grace=10)

    assert process.pid() is None


def test_a_program_that_will_not_end_is_killed(tmp_path: Path) -> None:
    process = Process(tmp_path, "stubborn")
    start(process, STUBBORN)
    wait_until(lambda: "ready" in process.log_tail(), deadline=30, what="the program")

    process.terminate(grace=0.1)

    assert process.pid() is None


def test_a_program_that_ended_by_itself_is_not_running_and_left_its_log(tmp_path: Path) -> None:
    process = Process(tmp_path, "brief")
    start(process, "print('all said')")

    wait_until(lambda: process.pid() is None, deadline=30, what="the program to end")

    assert process.log_tail() == "all said"


def test_another_program_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old.pid").write_text(f"{os.getpid()} 1000000.0\n")
    process = Process(tmp_path, "old")

    assert process.pid() is None
    process.kill()


def test_ending_what_does_not_run_is_harmless(tmp_path: Path) -> None:
    process = Process(tmp_path, "never")
    process.terminate(grace=1)
    process.kill()

    assert process.log_tail() == "(no log)"


def test_free_ports_are_different_and_outside_the_range_of_outgoing_connections() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert all(FIRST <= port <= LAST < 32768 for port in ports)


def test_a_port_on_which_something_listens_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not is_free(listener.getsockname()[1])


def test_waiting_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"waited 0 s for rain"):
        wait_until(lambda: False, deadline=0, what="rain")
