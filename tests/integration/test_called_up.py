"""Jobs that are called up while they wait for a worker: the pool asks for them before their turn has come."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent import workers
from nodeagent.outcome import Cancelled, Failed, Succeeded
from nodeagent.work import QueueSpec
from nodeagent.workers import CALLED_UP, Phase
from tests.integration.pools import PATIENCE, Pool
from tests.waiting import wait_until

TWO_QUEUES = {"default": QueueSpec(size=1, limit=300), "other": QueueSpec(size=1, limit=300)}
KEEP = "keep_process = True"


class House:
    """A pool that holds jobs back; jobs of a script that leaves a mark, and may run for as long as a file is there."""

    def __init__(self, folder: Path) -> None:
        self.marks, self._gate = folder / "marks", folder / "gate"
        self.marks.touch()
        self._action = (
            "import os, time\ndef action(name: str, long: bool = False):\n"
            f"    with open('{self.marks}', 'a') as marks:\n        print(name, file=marks)\n"
            "    print('here', flush=True)\n"
            f"    while long and os.path.exists('{self._gate}'):\n        time.sleep(0.01)\n"
        )
        self.pool = Pool(TWO_QUEUES, hold=True)

    def submit(self, name: str, *, long: bool = False) -> str:
        return self.pool.submit(self._action, header=KEEP, params={"name": name, "long": long})

    def release(self, *jobs: str) -> None:
        for job in jobs:
            self.pool.pool.release(job)

    def run(self, name: str) -> None:
        job = self.submit(name)
        self.release(self.pool.start_of(job).job_id)
        assert isinstance(self.pool.end_of(job).outcome, Succeeded)

    def occupy(self) -> str:
        """Makes the one worker busy until `free`, with a job in a kept process."""
        self.run("first")
        self._gate.touch()
        job = self.submit("long", long=True)
        self.release(self.pool.start_of(job).job_id)
        self.pool.line_of(job)
        return job

    def free(self) -> None:
        self._gate.unlink()

    def look_twice(self) -> None:
        """Until the pool has been through all that it does."""
        for _ in range(2):
            job = self.pool.submit("def action(): pass", queue="other")
            self.release(self.pool.start_of(job).job_id)
            self.pool.end_of(job)

    def ran(self) -> list[str]:
        return self.marks.read_text().split()

    def asked_for(self, jobs: list[str]) -> list[str]:
        return [job for job in jobs if job in self.pool.started]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    # its jobs take moments; on a busy machine they may take longer, and nothing would be called up
    monkeypatch.setattr(workers, "BRISK", 60.0)
    house = House(tmp_path)
    with house.pool:
        yield house


def test_the_next_jobs_are_asked_for_while_the_worker_is_busy_and_run_in_their_order(house: House) -> None:
    house.occupy()
    names = [f"n{n}" for n in range(CALLED_UP + 2)]
    jobs = [house.submit(name) for name in names]
    for job in jobs[:CALLED_UP]:
        house.pool.start_of(job)
    house.look_twice()
    assert house.asked_for(jobs) == jobs[:CALLED_UP]
    house.release(*jobs)
    house.look_twice()
    assert house.ran() == ["first", "long"]
    house.free()
    for job in jobs:
        house.release(house.pool.start_of(job).job_id)
        assert isinstance(house.pool.end_of(job).outcome, Succeeded)
    assert house.ran() == ["first", "long", *names]


def test_a_job_that_was_called_up_waits_for_its_release(house: House) -> None:
    house.occupy()
    job = house.submit("held")
    house.pool.start_of(job)
    house.free()
    house.look_twice()
    assert house.ran() == ["first", "long"]
    house.release(job)
    assert isinstance(house.pool.end_of(job).outcome, Succeeded)


def test_behind_a_script_that_takes_its_time_nothing_is_called_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "BRISK", 0.0)
    house.occupy()
    jobs = [house.submit("waits") for _ in range(3)]
    house.look_twice()
    assert house.asked_for(jobs) == []
    house.free()


def test_another_script_is_not_called_up(house: House) -> None:
    house.occupy()
    job = house.pool.submit("def action(): pass", header=KEEP)
    house.look_twice()
    assert house.asked_for([job]) == []
    house.free()


def test_a_job_that_was_called_up_can_be_cancelled_and_never_runs(house: House) -> None:
    house.occupy()
    job, behind = house.submit("cancelled"), house.submit("behind")
    house.release(house.pool.start_of(job).job_id, house.pool.start_of(behind).job_id)
    house.pool.pool.cancel(job)
    assert isinstance(house.pool.end_of(job).outcome, Cancelled)
    house.free()
    assert isinstance(house.pool.end_of(behind).outcome, Succeeded)
    assert house.ran() == ["first", "long", "behind"]


@pytest.mark.parametrize("early", [True, False])
def test_jobs_that_were_called_up_run_once_when_the_worker_before_them_dies(house: House, early: bool) -> None:
    long = house.occupy()
    jobs = [house.submit(name) for name in ("a", "b")]
    for job in jobs:
        house.pool.start_of(job)
    if early:
        house.release(*jobs)
        house.look_twice()
    os.kill(house.pool.workers()[0], signal.SIGKILL)
    assert isinstance(house.pool.end_of(long).outcome, Failed)
    house.release(*jobs)
    assert [type(house.pool.end_of(job).outcome) for job in jobs] == [Succeeded, Succeeded]
    assert house.ran() == ["first", "long", "a", "b"]


def test_when_the_pool_drains_what_was_called_up_runs_and_what_was_not_vanishes(house: House) -> None:
    house.occupy()
    jobs = [house.submit(f"n{n}") for n in range(CALLED_UP + 1)]
    for job in jobs[:CALLED_UP]:
        house.pool.start_of(job)
    house.release(*jobs[:CALLED_UP])
    threading.Timer(0.2, house.free).start()  # early or late: it runs before the drain is over
    house.pool.pool.stop(drain=60)
    assert house.ran() == ["first", "long", *(f"n{n}" for n in range(CALLED_UP))]
    assert {end.job_id for end in house.pool.finished}.isdisjoint(jobs[CALLED_UP:])


def test_when_the_pool_stops_at_once_what_was_called_up_fails_and_never_runs(house: House) -> None:
    house.occupy()
    job = house.submit("late")
    house.release(house.pool.start_of(job).job_id)
    house.pool.pool.stop()
    outcome = house.pool.end_of(job).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == "the agent was stopped before the job began"
    assert house.ran() == ["first", "long"]


@pytest.mark.parametrize(("drain", "phase"), [(0.0, Phase.STOPPING), (60.0, Phase.DRAINING)])
def test_a_worker_that_dies_with_a_job_unbegun_does_not_hold_up_a_pool_that_stops(drain: float, phase: Phase) -> None:
    with Pool(hold=True, grace=60.0) as pool:
        ready = pool.submit("def action(): pass")
        pool.pool.release(pool.start_of(ready).job_id)
        pool.end_of(ready)
        worker = pool.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        pool.submit("def action(): pass")
        wait_until(lambda: pool.pool.status()["default"].running, deadline=PATIENCE, what="a worker for the job")
        stop = threading.Thread(target=pool.pool.stop, args=(drain,))
        stop.start()
        wait_until(lambda: pool.pool._phase is phase, deadline=PATIENCE, what=f"the pool to be {phase}")
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: not stop.is_alive() or pool.pool.status()["default"].waiting,
            deadline=PATIENCE,
            what="the end of the pool",
        )
        # what waits now, without a worker, waits until the pool's time is over
        assert not pool.pool.status()["default"].waiting
    # it was accepted and not begun: the agent's next start runs it
    assert [end.job_id for end in pool.finished] == [ready]
