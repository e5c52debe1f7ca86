"""A script that says `keep_process` gets the process of its last run again, when that is as it was."""

import os
import signal
from pathlib import Path

import pytest

from nodeagent import workers
from nodeagent.outcome import Cancelled, Failed, Succeeded, TimedOut
from tests.integration.pools import PATIENCE, Pool, is_running, wait_until_gone
from tests.waiting import wait_until

KEEP = "keep_process = True"
PID = "def action():\n    import os\n    return os.getpid()"


def twice(pool: Pool, body: str, **work: object) -> tuple[int, int]:
    """The processes of two runs of a script whose action does `body`."""
    action = "import os\ndef action():\n    pid = os.getpid()\n" + "".join(
        f"    {line}\n" for line in body.splitlines()
    )
    action += "    return pid"
    first: int = pool.result(action, header=KEEP, **work)
    second: int = pool.result(action, header=KEEP, **work)
    return first, second


def test_the_next_job_of_a_script_that_asks_for_it_runs_in_the_same_process() -> None:
    with Pool() as pool:
        pids = {pool.result(PID, header=KEEP) for _ in range(5)}
        assert len(pids) == 1
        assert {start.pgid for start in pool.started.values()} == pids


def test_without_asking_every_job_has_a_process_of_its_own() -> None:
    with Pool() as pool:
        assert len({pool.result(PID) for _ in range(3)}) == 3


def test_another_script_never_gets_a_kept_process() -> None:
    with Pool() as pool:
        first = pool.result(PID, header=KEEP)
        other = pool.result(PID, header=f"{KEEP}\nversion = 2")
        plain = pool.result(PID)
        assert len({first, other, plain}) == 3
        wait_until_gone(first, other)


def test_modules_stay_and_the_scripts_own_variables_do_not() -> None:
    action = (
        "import string\nseen = []\ndef action():\n"
        "    seen.append(1)\n    string.kept = getattr(string, 'kept', 0) + 1\n"
        "    return [len(seen), string.kept]"
    )
    with Pool() as pool:
        assert [pool.result(action, header=KEEP) for _ in range(3)] == [[1, 1], [1, 2], [1, 3]]


@pytest.mark.parametrize(
    "body",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "import subprocess\nsubprocess.Popen(['sleep', '60'])",
        "import subprocess\nsubprocess.run('(setsid sleep 60 >/dev/null 2>&1 &)', shell=True)",
        "open_for_ever = os.open('/dev/null', os.O_RDONLY)",
        "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "import signal\nsignal.alarm(60)",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))",
        "os.nice(1)",
        "os.close(2)",
        "import sys\nsys.settrace(lambda *_: None)",
        "ballast = bytearray(200_000_000)",
    ],
)
def test_a_process_that_is_not_as_it_was_is_not_kept(body: str) -> None:
    with Pool() as pool:
        first, second = twice(pool, body)
        assert first != second
        wait_until_gone(first)


def test_what_a_job_left_about_is_cleared_away_for_the_next() -> None:
    action = (
        "import os, sys\ndef action():\n"
        "    found = [os.listdir('.'), os.environ.get('LEFT'), sys.path[0] == 'left', os.umask(0o777)]\n"
        "    os.mkdir('d')\n    open('d/f', 'w').close()\n    open('g', 'w').close()\n    os.environ['LEFT'] = '1'\n"
        "    sys.path.insert(0, 'left')\n    sys.stdout = None\n    os.chdir('/')\n    return [os.getpid(), *found]"
    )
    with Pool() as pool:
        first, second = pool.result(action, header=KEEP), pool.result(action, header=KEEP)
        assert first == second
        assert first[1:4] == [[], None, False]


def test_each_job_in_a_kept_process_has_its_own_output_and_identity() -> None:
    action = "import os\ndef action(n: int):\n    print('line', n)\n    return os.environ['FLEETBUS_JOB_ID']"
    with Pool() as pool:
        for n in (1, 2):
            job = pool.submit(action, header=KEEP, params={"n": n})
            end = pool.end_of(job)
            assert isinstance(end.outcome, Succeeded)
            assert end.outcome.value == job
            assert end.output.text() == f"line {n}\n"


def test_a_job_that_was_given_a_secret_is_the_last_of_its_process(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-hush")
    action = f"{PID}\nparams = {{'key': {{'type': 'secret'}}}}".replace("action()", "action(key: str)")
    with Pool() as pool:
        runs = [pool.result(action, header=KEEP, params={"key": f"file:{tmp_path}/secret"}) for _ in range(2)]
        assert runs[0] != runs[1]


def test_a_failed_job_is_the_last_of_its_process() -> None:
    fails = "if fail:\n        raise ValueError(os.getpid())"
    action = f"import os\ndef action(fail: bool):\n    {fails}\n    return os.getpid()"
    with Pool() as pool:
        first = pool.result(action, header=KEEP, params={"fail": False})
        assert pool.failure(action, header=KEEP, params={"fail": True}).error == f"ValueError: {first}"
        assert pool.result(action, header=KEEP, params={"fail": False}) != first


def test_a_cancelled_job_in_a_kept_process_ends_with_its_process() -> None:
    action = "import os, time\ndef action(s: int):\n    print(os.getpid())\n    time.sleep(s)\n    return os.getpid()"
    with Pool() as pool:
        first = pool.result(action, header=KEEP, params={"s": 0})
        job = pool.submit(action, header=KEEP, params={"s": 60})
        assert pool.line_of(job).text == str(first)
        pool.pool.cancel(job)
        assert isinstance(pool.end_of(job).outcome, Cancelled)
        wait_until_gone(first)


def test_a_job_over_its_limit_ends_with_its_kept_process() -> None:
    action = "import os, time\ndef action(s: int):\n    time.sleep(s)\n    return os.getpid()"
    with Pool() as pool:
        first = pool.result(action, header=KEEP, params={"s": 0})
        end = pool.run(action, header=KEEP, params={"s": 60}, timeout=0.5)
        assert isinstance(end.outcome, TimedOut)
        wait_until_gone(first)
        assert pool.result(action, header=KEEP, params={"s": 0}) != first


def test_a_held_job_for_a_kept_process_can_be_cancelled_before_it_runs(tmp_path: Path) -> None:
    action = f"import os\ndef action():\n    open('{tmp_path}/ran', 'a').write('x')\n    return os.getpid()"
    with Pool(hold=True) as pool:
        first = pool.submit(action, header=KEEP)
        pool.pool.release(pool.start_of(first).job_id)
        pool.end_of(first)
        second = pool.submit(action, header=KEEP)
        assert pool.start_of(second).pgid == pool.start_of(first).pgid
        pool.pool.cancel(second)
        assert isinstance(pool.end_of(second).outcome, Cancelled)
        third = pool.submit(action, header=KEEP)
        pool.start_of(third)
        pool.pool.release(third)
        assert isinstance(pool.end_of(third).outcome, Succeeded)
    assert (tmp_path / "ran").read_text() == "xx"


def test_a_kept_process_that_somebody_killed_fails_the_next_job_and_no_other() -> None:
    with Pool() as pool:
        first: int = pool.result(PID, header=KEEP)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_running(first), deadline=PATIENCE, what="the end of the process")
        assert "was killed before the job began" in pool.failure(PID, header=KEEP).error
        assert pool.result(PID, header=KEEP) != first


def test_a_kept_process_ends_with_its_worker() -> None:
    with Pool() as pool:
        first: int = pool.result(PID, header=KEEP)
        os.kill(pool.workers()[0], signal.SIGKILL)
        wait_until_gone(first)
        assert pool.result(PID, header=KEEP) != first


def test_a_process_that_nobody_needs_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "KEPT_FOR", 0.1)
    with Pool() as pool:
        first: int = pool.result(PID, header=KEEP)
        wait_until_gone(first)
        assert pool.result(PID, header=KEEP) != first


def test_a_script_whose_process_is_killed_midway_fails_and_leaves_none() -> None:
    action = "import os, signal\ndef action(die: bool):\n    if die:\n        os.kill(os.getpid(), signal.SIGKILL)"
    with Pool() as pool:
        pool.result(action, header=KEEP, params={"die": False})
        assert isinstance(pool.run(action, header=KEEP, params={"die": True}).outcome, Failed)
        pool.result(action, header=KEEP, params={"die": False})
