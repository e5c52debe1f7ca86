"""The agent is killed at the points where it hurts: a job runs at most once, and ends exactly once."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.admission import Duplicate
from tests import leases
from tests.agents import SOON, AgentProcess, Player
from tests.freezing import freeze
from tests.integration.pools import is_running
from tests.jobscripts import EMPTY, MARK, MARK_AND_WAIT
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

StartProcess = Callable[..., AgentProcess]

#: Leaves a mark, starts a program in a session of its own, and writes on for ever.
LEAVES_CHILDREN = """
import subprocess, time

descr = "Starts what wants to outlive it."

def action(path: str, pids: str):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    with open(pids, "a") as file:
        file.write(f"{child.pid}\\n")
    while True:
        with open(path, "a") as file:
            file.write("alive\\n")
        time.sleep(0.01)
"""


def seen(marks: Path) -> list[str]:
    return marks.read_text().split()


def hold(player: Player, marks: Path, text: str = "held") -> tuple[str, Path]:
    """A job that runs, and does not end before the file is there."""
    gate = marks.with_name(f"gate-{text}")
    job = player.run(MARK_AND_WAIT, {"path": str(marks), "text": text, "until": str(gate)})
    wait_until(lambda: text in seen(marks), deadline=SOON, what="the job to run")
    return job, gate


def accepted_in_time(player: Player, agent: AgentProcess, params: dict[str, str]) -> str:
    """A job that was accepted before its start_by: seconds after it was said, more of them on a busy machine."""
    for within in (4.0, 16.0, 64.0):
        job = player.run(MARK_AND_WAIT, params, start_within=within)
        while time.time() < player.start_by[job].timestamp():
            if agent.marks().get(job) == "accepted":
                return job
            time.sleep(0.05)
    raise AssertionError("the agent did not accept a job within a minute")


def test_killed_after_accepting_it_runs_the_job_at_the_next_start_once(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    agent = start_process()
    player.connected()
    _, gate = hold(player, marks)
    waiting = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "waiting", "until": str(gate)})
    wait_until(lambda: agent.marks().get(waiting) == "accepted", deadline=SOON, what="the job to be accepted")
    agent.kill()
    gate.touch()
    start_process()
    assert player.finished(waiting).data.outcome == "succeeded"
    assert seen(marks).count("waiting") == 1


def test_killed_after_accepting_it_does_not_run_the_job_past_its_start_by(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    agent = start_process()
    player.connected()
    _, gate = hold(player, marks)
    waiting = accepted_in_time(player, agent, {"path": str(marks), "text": "waiting", "until": str(gate)})
    agent.kill()
    gate.touch()
    wait_until(lambda: time.time() > player.start_by[waiting].timestamp(), deadline=SOON, what="the deadline")
    start_process()
    player.connected(2)
    player.finished(player.run(EMPTY))
    assert "waiting" not in seen(marks)
    assert player.facts("job", waiting) == []


def test_killed_while_it_runs_the_job_is_failed_and_never_run_again(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    agent = start_process()
    player.connected()
    delivery = player.run_job(MARK_AND_WAIT, {"path": str(marks), "text": "ran", "until": "/nowhere"})
    player.deliver(delivery)
    wait_until(lambda: seen(marks), deadline=SOON, what="the job to run")
    agent.kill()
    player.deliver(delivery)
    start_process()
    end = player.finished(delivery.job)
    assert end.data.outcome == "failed"
    assert "started anew" in end.data.failure.error
    assert end.causationid == delivery.fact
    player.deliver(delivery)
    player.finished(player.run(EMPTY))
    assert seen(marks) == ["ran"]
    player.finished(delivery.job)


def test_what_a_job_started_dies_with_the_agent(player: Player, start_process: StartProcess, marks: Path) -> None:
    agent = start_process()
    player.connected()
    pids = marks.with_name("pids")
    player.run(LEAVES_CHILDREN, {"path": str(marks), "pids": str(pids)})
    wait_until(lambda: seen(marks), deadline=SOON, what="the job to run")
    child = int(pids.read_text())
    agent.kill()
    wait_until(lambda: not is_running(child), deadline=SOON, what="the job's child to be killed")

    def quiet() -> bool:
        before = len(seen(marks))
        time.sleep(0.2)
        return len(seen(marks)) == before

    wait_until(quiet, deadline=SOON, what="the job to be gone")


def test_killed_after_the_end_of_a_job_and_before_its_confirmation_the_end_is_said_once(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    agent = start_process()
    producer = player.connected().data.boot
    player.break_log()
    job = player.run(MARK, {"path": str(marks), "text": "ran"})
    wait_until(lambda: agent.marks().get(job) == "done", deadline=SOON, what="the job to end")
    agent.kill()
    player.mend_log()
    start_process()
    end = player.finished(job)
    assert end.data.outcome == "succeeded"
    assert (end.producer, end.seq) == (producer, 3)
    assert [event.seq for event in player.facts("job", job)] == [2, 3]
    assert seen(marks) == ["ran"]


def test_killed_after_the_confirmation_and_before_the_outbox_knew_the_end_counts_once(
    player: Player, start_process: StartProcess, marks: Path, tmp_path: Path
) -> None:
    agent = start_process()
    player.connected()
    player.break_log()
    job = player.run(MARK, {"path": str(marks), "text": "ran"})
    wait_until(lambda: agent.marks().get(job) == "done", deadline=SOON, what="the job to end")
    agent.kill()
    shutil.copytree(tmp_path / "data", tmp_path / "before", ignore=shutil.ignore_patterns("*.sock"))
    player.mend_log()
    second = start_process()
    player.connected(2)
    player.finished(job)
    second.kill()
    # the journal as it was when the bus had confirmed and the agent had not taken note of it
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "before").rename(tmp_path / "data")
    start_process()
    player.connected(3)
    player.finished(player.run(EMPTY))
    player.finished(job)
    assert [one for one in player.verdicts() if isinstance(one, Duplicate) and one.event.type == "event.job.finished"]
    assert seen(marks) == ["ran"]


def test_a_cancellation_that_was_acknowledged_holds_after_a_crash(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    agent = start_process()
    player.connected()
    _, gate = hold(player, marks)
    waiting = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "waiting", "until": str(gate)})
    player.break_log()
    player.stop(waiting)
    wait_until(lambda: player.inbox_size() == 0, deadline=SOON, what="the cancellation to be acknowledged")
    agent.kill()
    player.mend_log()
    gate.touch()
    start_process()
    assert player.finished(waiting).data.outcome == "cancelled"
    assert "waiting" not in seen(marks)


def test_an_agent_that_was_frozen_takes_its_inbox_up_again(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    agent = start_process(lease=leases.REAL)
    player.connected()
    job, gate = hold(player, marks)
    freeze(agent.process, player.folder)
    time.sleep(leases.REAL + 1)  # its lease on the inbox runs out
    agent.process.send_signal(signal.SIGCONT)
    assert job in player.connected(2).data.open_jobs
    gate.touch()
    assert player.finished(job).data.outcome == "succeeded"
    assert player.finished(player.run(EMPTY)).data.outcome == "succeeded"


def test_an_agent_that_was_frozen_while_a_clone_took_its_place_ends(
    player: Player, start_process: StartProcess, tmp_path: Path
) -> None:
    agent = start_process(lease=leases.REAL)
    player.connected()
    freeze(agent.process, player.folder)
    clone = AgentProcess(player, tmp_path / "clone")
    try:
        player.connected(2)
        agent.process.send_signal(signal.SIGCONT)
        assert agent.process.wait(60) == 3
        assert player.finished(player.run(EMPTY)).data.outcome == "succeeded"
    finally:
        clone.kill()


def test_killed_again_and_again_every_job_runs_at_most_once_and_ends_exactly_once(
    player: Player, start_process: StartProcess, marks: Path
) -> None:
    deliveries = [player.run_job(MARK, {"path": str(marks), "text": f"job{n}"}, start_within=300) for n in range(300)]
    dice = random.Random(11)
    agent = start_process()
    player.connected()
    todo = list(deliveries)
    starts = 1
    while todo:
        for _ in range(50):
            if todo:
                player.deliver(todo.pop(0))
        time.sleep(dice.uniform(0.2, 1.5))
        agent.kill()
        for delivery in dice.sample(deliveries, 20):
            if delivery not in todo:
                player.deliver(delivery)
        agent, starts = start_process(), starts + 1
        player.connected(starts)
    ends = player.all_finished([delivery.job for delivery in deliveries], deadline=120)
    assert agent.stop() == 0
    counts = {text: seen(marks).count(text) for text in seen(marks)}
    assert set(counts.values()) == {1}
    for n, delivery in enumerate(deliveries):
        end = ends[delivery.job].data
        assert end.outcome in ("succeeded", "failed")
        assert end.outcome == "failed" or counts.get(f"job{n}") == 1
        assert end.outcome == "succeeded" or "started anew" in end.failure.error
    assert player.bad() == []
    assert player.gaps() == []
