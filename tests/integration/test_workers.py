import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nodeagent import workers
from nodeagent.outcome import Cancelled, Failed, Succeeded, TimedOut
from nodeagent.output import KEPT_BYTES, MAX_LINE_BYTES
from nodeagent.processes import kill_group, stamp
from nodeagent.work import QueueSpec
from nodeagent.workers import PoolStopped
from tests.integration.pools import ONE, PATIENCE, Pool, is_running, wait_until_gone
from tests.waiting import wait_until

#: Seconds of a limit in which a script gets to where it is to be found, on a busy machine, too.
ENOUGH = 3.0
#: It speaks and sleeps on one line: whoever hears it may stop it before it sleeps.
SLEEP = "import time\ndef action():\n    print('asleep'); time.sleep(1000)"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool for all tests that do not harm it."""
    with Pool(ONE) as pool:
        yield pool


# ------------------------------------------------------------------------------ outcomes


def test_a_job_returns_what_its_action_returns(pool: Pool) -> None:
    finished = pool.run("def action(a, b=2): return {'sum': a + b, 'text': 'ä'}", params={"a": 1})
    assert isinstance(finished.outcome, Succeeded)
    assert finished.outcome.value == {"sum": 3, "text": "ä"}
    assert finished.outcome.size == len('{"sum":3,"text":"ä"}'.encode())
    assert finished.duration > 0


def test_an_action_may_be_a_coroutine(pool: Pool) -> None:
    assert pool.result("import asyncio\nasync def action():\n    await asyncio.sleep(0)\n    return 5") == 5


def test_a_script_with_the_old_async_line_runs(pool: Pool) -> None:
    assert pool.result("def action(): return is_async", header="async = True") is True


def test_a_failure_shows_the_frames_of_the_script_and_none_above(pool: Pool) -> None:
    failure = pool.failure("def inner():\n    raise ValueError('bad luck')\ndef action():\n    inner()")
    assert failure.error == "ValueError: bad luck"
    first, *rest = failure.traceback.splitlines()
    name = rest[0].split('"')[1]
    assert name.startswith("test@")
    assert first == "Traceback (most recent call last):"
    assert rest == [
        f'  File "{name}", line 6, in action',
        "    inner()",
        f'  File "{name}", line 4, in inner',
        "    raise ValueError('bad luck')",
        "ValueError: bad luck",
    ]


def test_a_failure_shows_what_it_followed_from_and_frames_of_libraries(pool: Pool) -> None:
    failure = pool.failure(
        """
def action():
    import json
    try:
        json.loads('{')
    except ValueError as error:
        raise RuntimeError('no config') from error
"""
    )
    assert "json/decoder.py" in failure.traceback
    assert "The above exception was the direct cause" in failure.traceback
    assert "nodeagent" not in failure.traceback


def test_a_failure_in_the_body_of_the_file_shows_its_line(pool: Pool) -> None:
    failure = pool.failure("1 / 0\ndef action(): pass")
    assert "line 3, in <module>\n    1 / 0" in failure.traceback


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("def action(): raise SystemExit(3)", "the script called sys.exit(3)"),
        ("import sys\ndef action(): sys.exit('enough')", "enough"),
        ("import os\ndef action(): os._exit(3)", "the script ended its process with exit code 3 instead of returning"),
        ("def action(): raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n    def __str__(self): return 1\ndef action(): raise E", "E"),
        ("import os\ndef action(): os.kill(os.getpid(), 9)", "the job's process was killed by signal 9 (Killed)"),
        ("import os\ndef action(): os.write(5, b'x' * 99) or os._exit(0)", None),
    ],
)
def test_every_way_to_end_badly_is_a_failure_that_says_how(pool: Pool, action: str, error: str | None) -> None:
    failure = pool.failure(action)
    assert failure.error == (error or failure.error)
    assert "nodeagent" not in failure.traceback


def test_sys_exit_without_a_code_is_a_success(pool: Pool) -> None:
    assert pool.result("import sys\ndef action(): sys.exit()") is None


def test_a_crash_in_c_code_shows_where_the_script_was(pool: Pool) -> None:
    failure = pool.failure("import ctypes\ndef action():\n    ctypes.string_at(0)")
    assert "signal 11" in failure.error
    assert "line 5, in action\n    ctypes.string_at(0)" in failure.traceback


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("{'disks': [1, {'when': __import__('datetime').date(2026, 1, 1)}]}", "result.disks[1].when is a date"),
        ("{1, 2}", "result is a set"),
        ("[float('nan')]", "result[0] is nan"),
        ("{1: 2}", "the key 1, a int"),
        ("'\\ud800'", "no Unicode text"),
        ("[b'x']", "result[0] is a bytes"),
        ("'x' * 11_000_000", "11,000,002 bytes"),
    ],
)
def test_a_result_that_json_cannot_say_is_a_clear_failure(pool: Pool, expression: str, part: str) -> None:
    failure = pool.failure(f"def action(): return {expression}")
    assert part in failure.error
    assert failure.traceback == ""


def test_a_result_that_holds_itself_is_a_clear_failure(pool: Pool) -> None:
    assert "nested" in pool.failure("def action():\n    x = []\n    x.append(x)\n    return x").error


def test_a_large_result_comes_through(pool: Pool) -> None:
    assert len(pool.result("def action(): return 'x' * 5_000_000")) == 5_000_000


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("def action(: pass", "is not valid Python"),
        ("return 5\ndef action(): pass", "'return' outside function"),
        ("def run(): pass", "action: is missing"),
    ],
)
def test_a_file_that_cannot_run_fails_with_what_is_wrong(pool: Pool, source: str, part: str) -> None:
    assert part in pool.failure(source).error


def test_wrong_parameters_fail_before_the_script_runs(pool: Pool) -> None:
    failure = pool.failure("def action(path: str): print('ran')", params={"path": 1, "pat": 2})
    assert "path must be a str" in failure.error
    assert "did you mean path?" in failure.error


# -------------------------------------------------------------------------- time and stops


def test_a_job_over_its_limit_times_out_where_it_was(pool: Pool) -> None:
    action = "def action():\n    import subprocess\n    subprocess.run(['sleep', '1000'])"
    finished = pool.run(action, timeout=ENOUGH)
    assert isinstance(finished.outcome, TimedOut)
    assert finished.outcome.limit == ENOUGH
    assert "line 5, in action\n    subprocess.run(['sleep', '1000'])" in finished.outcome.traceback
    assert "subprocess.py" in finished.outcome.traceback
    assert "nodeagent" not in finished.outcome.traceback


def test_the_limit_of_the_queue_holds_when_the_script_has_none() -> None:
    with Pool({"short": QueueSpec(size=1, limit=0.2)}) as pool:
        assert isinstance(pool.run(SLEEP, queue="short").outcome, TimedOut)


def test_a_job_that_is_stopped_may_clean_up(pool: Pool, tmp_path: Path) -> None:
    mark = tmp_path / "cleaned"
    action = f"import time\ndef action():\n    try: time.sleep(1000)\n    finally: open({str(mark)!r}, 'w').close()"
    assert isinstance(pool.run(action, timeout=ENOUGH).outcome, TimedOut)
    assert mark.exists()


@pytest.mark.parametrize(
    "action",
    [
        "from signal import *\ndef action():\n    signal(SIGTERM, SIG_IGN)\n    sigwait([SIGUSR1])",
        "import time\ndef action():\n  while True:\n    try: time.sleep(1000)\n    except BaseException: pass",
        "def action():\n    sum(range(10**15))",
    ],
    ids=["ignores SIGTERM", "swallows everything", "is busy in C"],
)
def test_a_job_that_does_not_end_is_killed_and_still_says_where_it_was(pool: Pool, action: str) -> None:
    outcome = pool.run(action, timeout=ENOUGH).outcome
    assert isinstance(outcome, TimedOut)
    assert "in action" in outcome.traceback


def test_a_running_job_is_cancelled_where_it_is(pool: Pool) -> None:
    job = pool.submit(SLEEP)
    pool.line_of(job)
    pool.pool.cancel(job)
    outcome = pool.end_of(job).outcome
    assert isinstance(outcome, Cancelled)
    assert "time.sleep(1000)" in outcome.traceback


def test_a_waiting_job_is_cancelled_without_being_started(pool: Pool) -> None:
    first, second = pool.submit(SLEEP), pool.submit("def action(): pass")
    pool.pool.cancel(second)
    assert pool.end_of(second).outcome == Cancelled()
    assert second not in pool.started
    pool.pool.cancel(first)
    pool.end_of(first)


def test_cancelling_what_has_ended_or_was_never_there_is_harmless(pool: Pool) -> None:
    job = pool.submit("def action(): pass")
    pool.end_of(job)
    pool.pool.cancel(job)
    pool.pool.cancel("nobody")
    assert pool.result("def action(): return 1") == 1


def test_a_sigterm_from_outside_is_a_failure(pool: Pool) -> None:
    job = pool.submit(SLEEP)
    pool.line_of(job)
    os.kill(pool.started[job].pgid, signal.SIGTERM)
    outcome = pool.end_of(job).outcome
    assert isinstance(outcome, Failed)
    assert "SIGTERM" in outcome.error


def test_a_held_job_runs_nothing_before_it_is_released(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with Pool(ONE, hold=True) as pool:
        held = pool.submit(f"open({str(mark)!r}, 'w').close()\ndef action(): return 1")
        assert is_running(pool.start_of(held).pgid)
        assert not mark.exists()
        pool.pool.release(held)
        assert isinstance(pool.end_of(held).outcome, Succeeded)
        assert mark.exists()


def test_a_held_job_can_be_cancelled_and_then_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with Pool(ONE, hold=True) as pool:
        held = pool.submit(f"open({str(mark)!r}, 'w').close()\ndef action(): return 1")
        pool.start_of(held)
        pool.pool.cancel(held)
        pool.pool.release(held)
        assert isinstance(pool.end_of(held).outcome, Cancelled)
    assert not mark.exists()


# -------------------------------------------------------------------------------- output


def test_lines_come_numbered_in_order_from_both_streams_and_from_children(pool: Pool) -> None:
    action = """
import os, subprocess, sys
def action():
    print('one')
    subprocess.run(['sh', '-c', 'echo two; echo three >&2'])
    os.write(1, b'four\\n')
    print('five', file=sys.stderr)
    print('six', end='')
"""
    job = pool.submit(action)
    output = pool.end_of(job).output
    assert [line.n for line in output.kept()] == [1, 2, 3, 4, 5, 6]
    assert [line.text for line in output.kept() if line.stream == "o"] == ["one", "two", "four", "six"]
    assert [line.text for line in output.kept() if line.stream == "e"] == ["three", "five"]
    assert sorted(pool.lines[job], key=lambda line: line.n) == list(output.kept())
    assert (output.lines, output.size, output.dropped_lines) == (6, 27, 0)


def test_lines_come_while_the_job_runs(pool: Pool) -> None:
    job = pool.submit(SLEEP)
    assert pool.line_of(job).text == "asleep"
    assert not any(end.job_id == job for end in pool.finished)
    pool.pool.cancel(job)
    pool.end_of(job)


def test_what_is_no_text_becomes_text(pool: Pool) -> None:
    output = pool.run(
        "import os\ndef action():\n    os.write(1, bytes(range(256)) + 'ä\\r\\n'.encode())\n    print('\\ud800')"
    ).output
    texts = [line.text for line in output.kept()]
    assert texts[1].startswith("\x0b\x0c")
    assert texts[1].endswith("\N{REPLACEMENT CHARACTER}ä")
    assert texts[2] == "\\ud800"


def test_a_long_line_is_cut_between_characters(pool: Pool) -> None:
    output = pool.run("def action(): print('ä' * 20_000)").output
    texts = [line.text for line in output.kept()]
    assert "".join(texts) == "ä" * 20_000
    assert max(len(text.encode()) for text in texts) <= MAX_LINE_BYTES


def test_of_a_large_output_head_and_tail_are_kept_and_the_rest_is_counted(pool: Pool) -> None:
    count = 300_000
    job = pool.submit(f"def action():\n    for i in range({count}): print('line', i, 'x' * 40)")
    output = pool.end_of(job).output
    kept = [line.n for line in output.kept()]
    assert output.lines == count
    assert output.size == sum(len(f"line {i} {'x' * 40}\n") for i in range(count))
    assert kept[0] == 1
    assert kept[-1] == count
    assert len(kept) + output.dropped_lines == count
    assert output.head[-1].n + output.dropped_lines + 1 == output.tail[0].n
    assert KEPT_BYTES * 0.5 < sum(len(line.text) for line in output.kept()) <= KEPT_BYTES
    assert f"{output.dropped_lines:,} lines" in output.text()
    live = [line.n for line in pool.lines[job]]
    assert live == sorted(live)
    assert set(live) >= {line.n for line in output.head}


def test_a_million_empty_lines_are_no_burden(pool: Pool) -> None:
    output = pool.run("import os\ndef action():\n    for _ in range(100): os.write(1, b'\\n' * 10_000)").output
    assert output.lines == 1_000_000
    assert len(list(output.kept())) + output.dropped_lines == 1_000_000


# ----------------------------------------------------------------------------- isolation


def test_jobs_share_nothing(pool: Pool) -> None:
    look = """
import builtins, json, os, random, sys
def action():
    seen = [getattr(builtins, 'left', None), getattr(json, 'left', None), os.environ.get('LEFT'), os.listdir('.')]
    builtins.left = json.left = os.environ['LEFT'] = 'behind'
    open('left', 'w').close()
    return seen, os.getcwd(), random.random()
"""
    (seen_first, place_first, random_first), (seen, place, random) = pool.result(look), pool.result(look)
    assert seen_first == seen == [None, None, None, []]
    assert place_first != place
    assert random_first != random
    assert not Path(place_first).exists()


def test_a_job_sees_its_own_ids_and_none_of_the_agents_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETBUS_BUS_URL", "amqp://agent:password@broker")
    with Pool(ONE) as pool:
        job = pool.submit(
            "import os\ndef action(): return {k: v for k, v in os.environ.items() if 'FLEETBUS' in k or k == 'X'}",
            env={"X": "1", "FLEETBUS_JOB_ID": "another"},
        )
        outcome = pool.end_of(job).outcome
    assert isinstance(outcome, Succeeded)
    assert outcome.value == {
        "FLEETBUS_JOB_ID": job,
        "FLEETBUS_NODE_ID": "n1",
        "FLEETBUS_ACTOR": "user:alice",
        "X": "1",
    }


def test_a_job_has_no_input_and_no_descriptor_of_the_worker(pool: Pool) -> None:
    action = (
        "import os, sys\ndef action(): return sys.stdin.read(), [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]"
    )
    text, (stdin, stdout, stderr) = pool.result(action)
    assert (text, stdin) == ("", "/dev/null")
    assert stdout.startswith("pipe:")
    assert stderr.startswith("pipe:")
    assert not [
        link
        for link in pool.result("import os\ndef action(): return os.popen('ls -l /proc/self/fd').read().split('\\n')")
        if "socket" in link
    ]


def test_the_kernel_takes_jobs_first_when_memory_is_short(pool: Pool) -> None:
    assert pool.result("def action(): return open('/proc/self/oom_score_adj').read()") == "500\n"


def test_a_process_that_the_script_forks_does_not_answer_for_it(pool: Pool) -> None:
    assert (
        pool.result("import os\ndef action(): return 'child' if os.fork() == 0 else os.wait() and 'parent'") == "parent"
    )


LEAVE_BEHIND = """
import os, subprocess, sys, time
DAEMON = "import os, subprocess as s; os.setsid(); print(s.Popen(['sleep', '1000'], stdout=-3, stderr=-3).pid)"
def action():
    plain = subprocess.Popen(['sleep', '1000'])
    hidden = int(subprocess.run([sys.executable, '-c', DAEMON], capture_output=True, text=True).stdout)
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    print(plain.pid, hidden, forked); %s
"""


def left_behind(pool: Pool, ending: str) -> tuple[str, list[int]]:
    job = pool.submit(LEAVE_BEHIND % ending)
    pids = [int(pid) for pid in pool.line_of(job).text.split()]
    return job, pids


def test_whatever_a_job_leaves_running_is_gone_when_it_is_said_to_have_ended(pool: Pool) -> None:
    job, pids = left_behind(pool, "return")
    assert isinstance(pool.end_of(job).outcome, Succeeded)
    assert [pid for pid in pids if is_running(pid)] == []


def test_whatever_a_cancelled_job_has_started_is_gone_with_it(pool: Pool) -> None:
    job, pids = left_behind(pool, "time.sleep(1000)")
    assert all(map(is_running, pids))
    pool.pool.cancel(job)
    pool.end_of(job)
    assert [pid for pid in pids if is_running(pid)] == []


# ------------------------------------------------------------------------------- secrets


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Pool, Path]]:
    monkeypatch.setenv("DB_PASSWORD", "hunter2-of-env")
    path = tmp_path / "key"
    path.write_text("hunter2 in a file\nsecond line\n")
    with Pool(ONE) as pool:
        yield pool, path


SECRET = 'params = {"key": {"type": "secret"}}'


def test_secrets_are_looked_up_on_the_node_for_the_script_alone(secrets: tuple[Pool, Path]) -> None:
    pool, path = secrets
    action = "def action(key): return [len(key), key == %r]"
    assert pool.result(action % "hunter2-of-env", header=SECRET, params={"key": "env:DB_PASSWORD"}) == [14, True]
    assert pool.result(action % "hunter2 in a file\nsecond line", header=SECRET, params={"key": f"file:{path}"}) == [
        29,
        True,
    ]


def test_a_secret_that_the_script_shows_is_masked_wherever_it_shows_it(secrets: tuple[Pool, Path]) -> None:
    pool, path = secrets
    action = "import subprocess\ndef action(key):\n    print('it is', key)\n    subprocess.run(['echo', key])\n    %s"
    for reference in ("env:DB_PASSWORD", f"file:{path}"):
        for ending in ("return {'k': [key]}", "raise ValueError('not ' + key)", "import sys; sys.exit(key)"):
            job = pool.submit(action % ending, header=SECRET, params={"key": reference})
            finished = pool.end_of(job)
            shown = f"{finished} {pool.lines[job]}"
            assert "hunter2" not in shown
            assert "second line" not in shown
            assert finished.output.head[0].text == "it is ***"


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ("env:NOT_THERE", "no variable NOT_THERE"),
        ("file:/not/there", "/not/there cannot be read on this node: No such file or directory"),
        ("file:/dev/zero", "/dev/zero is larger than"),
        ("hunter2", "a literal is refused"),
    ],
)
def test_a_secret_that_cannot_be_had_is_a_clear_failure(secrets: tuple[Pool, Path], reference: str, part: str) -> None:
    failure = secrets[0].failure("def action(key): pass", header=SECRET, params={"key": reference})
    assert part in failure.error
    assert "hunter2" not in failure.error
    assert failure.traceback == ""


# -------------------------------------------------------------------------------- queues


def test_jobs_of_a_queue_of_one_run_in_the_order_in_which_they_came(pool: Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [pool.submit(f"def action(): open({str(log)!r}, 'a').write('{n} ')") for n in range(30)]
    for job in jobs:
        pool.end_of(job)
    assert log.read_text().split() == [str(n) for n in range(30)]


def test_a_full_queue_does_not_keep_another_waiting() -> None:
    with Pool({"default": QueueSpec(1, 300), "io": QueueSpec(1, 3600)}) as pool:
        blocked = pool.submit(SLEEP)
        waiting = pool.submit("def action(): pass")
        assert pool.result("def action(): return 'io'", queue="io") == "io"
        assert not {blocked, waiting} & {end.job_id for end in pool.finished}


def test_a_queue_that_nobody_configured_comes_into_being_with_one_worker() -> None:
    with Pool({}) as pool:
        first, second = pool.submit(SLEEP, queue="backup"), pool.submit(SLEEP, queue="backup")
        pool.line_of(first)
        assert pool.pool.status()["backup"].waiting == 1
        pool.pool.cancel(second)
        pool.pool.cancel(first)
        pool.end_of(first)
        assert len(pool.workers("backup")) == 1


def test_a_queue_that_nobody_configured_goes_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_QUEUE_IDLE", 0.1)
    with Pool({}) as pool:
        pool.result("def action(): pass", queue="backup")
        wait_until(lambda: "backup" not in pool.pool.status(), deadline=PATIENCE, what="the queue to go")
        assert pool.result("def action(): return 2", queue="backup") == 2


def test_a_queue_uses_all_its_workers() -> None:
    with Pool({"default": QueueSpec(size=3, limit=60)}) as pool:
        jobs = [pool.submit(SLEEP) for _ in range(4)]
        for job in jobs[:3]:
            pool.line_of(job)
        assert pool.pool.status()["default"].running == 3
        assert pool.pool.status()["default"].waiting == 1


# ------------------------------------------------------------------------ deaths and ends


@pytest.mark.slow
def test_a_thousand_empty_jobs_end_once_each() -> None:
    with Pool({"default": QueueSpec(size=2, limit=60)}) as pool:
        jobs = [pool.submit("def action(): pass") for _ in range(1000)]
        for job in jobs:
            assert isinstance(pool.end_of(job).outcome, Succeeded)
        assert Counter(end.job_id for end in pool.finished) == Counter(jobs)


@pytest.mark.chaos
@pytest.mark.slow
def test_every_job_ends_once_and_none_runs_twice_while_workers_are_killed(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    action = f"""
import os, time
def action():
    with open({str(marks)!r}, 'a') as marks: print(os.environ['FLEETBUS_JOB_ID'], file=marks)
    time.sleep(0.01)
"""
    with Pool({"default": QueueSpec(size=2, limit=60)}) as pool:
        jobs = [pool.submit(action) for _ in range(200)]
        for job in jobs[20:180:20]:
            pool.end_of(job)
            for pid in pool.workers():
                os.kill(pid, signal.SIGKILL)
        ends = {job: pool.end_of(job).outcome for job in jobs}
        assert Counter(end.job_id for end in pool.finished) == Counter(jobs)
    runs = Counter(marks.read_text().split())
    assert max(runs.values()) == 1
    assert all(runs[job] == 1 for job, outcome in ends.items() if isinstance(outcome, Succeeded))
    assert all("worker" in outcome.error for outcome in ends.values() if isinstance(outcome, Failed))


@pytest.mark.chaos
def test_a_killed_worker_fails_its_job_leaves_nothing_and_is_replaced(pool: Pool) -> None:
    worker = pool.warm()
    job, pids = left_behind(pool, "time.sleep(1000)")
    os.kill(worker, signal.SIGKILL)
    outcome = pool.end_of(job).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == "the worker of this job died (signal 9)"
    wait_until(lambda: pool.workers() and worker not in pool.workers(), deadline=PATIENCE, what="another worker")
    assert pool.end_of(job).output.head[0].text  # what it had printed is not lost
    wait_until_gone(*pids)
    assert pool.result("def action(): return 1") == 1


@pytest.mark.chaos
def test_an_idle_worker_that_is_killed_is_replaced_and_costs_no_job(pool: Pool) -> None:
    for _ in range(3):
        worker = pool.warm()
        os.kill(worker, signal.SIGKILL)
        assert pool.result("def action(): return 1") == 1
        assert pool.workers() != (worker,)


@pytest.mark.chaos
def test_a_process_kept_ready_for_the_next_job_may_be_killed(pool: Pool) -> None:
    worker = psutil.Process(pool.warm())
    wait_until(worker.children, deadline=PATIENCE, what="the spare process")
    for spare in worker.children():
        spare.kill()
        wait_until_gone(spare.pid)
    assert pool.result("def action(): return 1") == 1
    assert pool.workers() == (worker.pid,)


@pytest.mark.chaos
def test_a_worker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_OVERDUE", 0.5)
    with Pool(ONE) as pool:
        worker = pool.warm()
        job = pool.submit(SLEEP, timeout=ENOUGH)
        pool.line_of(job)
        os.kill(worker, signal.SIGSTOP)
        assert pool.end_of(job).outcome == TimedOut(ENOUGH)
        assert pool.result("def action(): return 1") == 1


@pytest.mark.parametrize(("program", "how"), [("/bin/false", "exit code 1"), ("/not/there", "No such file")])
def test_jobs_do_not_wait_for_ever_when_no_worker_can_start(
    monkeypatch: pytest.MonkeyPatch, program: str, how: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with Pool(ONE) as pool:
        error = pool.failure("def action(): pass").error
        assert "cannot start worker processes" in error
        assert how in error
        monkeypatch.undo()
        assert pool.result("def action(): return 1") == 1


def test_a_worker_is_replaced_after_its_share_of_jobs() -> None:
    with Pool(ONE, max_jobs=3) as pool:
        seen = {pool.result("import os\ndef action(): return os.getppid()") for _ in range(10)}
    assert len(seen) >= 3


def test_a_worker_is_replaced_when_it_is_old() -> None:
    with Pool(ONE, max_age=0.5) as pool:
        first = pool.result("import os\ndef action(): return os.getppid()")
        wait_until(lambda: pool.workers() not in ((first,), ()), deadline=PATIENCE, what="a younger worker")
        assert pool.result("def action(): return 1") == 1


def test_stopping_gives_running_jobs_time_and_takes_no_more() -> None:
    with Pool(ONE) as pool:
        running = pool.submit("import time\ndef action():\n    print('on')\n    time.sleep(3)\n    return 'done'")
        pool.line_of(running)
        waiting = pool.submit("def action(): pass")
        pool.pool.stop(drain=PATIENCE)
        assert isinstance(pool.end_of(running).outcome, Succeeded)
        assert waiting not in {end.job_id for end in pool.finished}
        with pytest.raises(PoolStopped):
            pool.submit("def action(): pass")


def test_stopping_ends_what_does_not_end_by_itself() -> None:
    with Pool(ONE) as pool:
        job, pids = left_behind(pool, "time.sleep(1000)")
        everybody = (*pool.workers(), *pids)
        pool.pool.stop(drain=0)
        outcome = pool.end_of(job).outcome
        assert isinstance(outcome, Failed)
        assert outcome.error == "the agent was stopped while the job ran"
        assert "time.sleep(1000)" in outcome.traceback
        wait_until_gone(*everybody)


@pytest.mark.chaos
def test_stopping_leaves_nothing_even_if_a_worker_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_OVERDUE", 0.5)
    with Pool(ONE) as pool:
        worker = pool.warm()
        _, pids = left_behind(pool, "time.sleep(1000)")
        os.kill(worker, signal.SIGSTOP)
        pool.pool.stop()
        wait_until_gone(worker, *pids)


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.integration.pools import Pool, ONE
from tests.integration.test_workers import left_behind
with Pool(ONE) as pool:
    job, pids = left_behind(pool, "time.sleep(1000)")
    print(*pids, pool.started[job].pgid, *pool.workers(), pool.pool._directory, flush=True)
    time.sleep(1000)
"""


@pytest.mark.chaos
def test_nothing_of_a_job_survives_a_kill_9_of_the_agent() -> None:
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", HOLDER.format(root=root)], stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout
        *numbers, directory = holder.stdout.readline().decode().split()
        pids = [int(number) for number in numbers]
        assert all(map(is_running, pids))
        holder.kill()
    wait_until_gone(*pids)
    wait_until(lambda: not Path(directory).exists(), deadline=PATIENCE, what="its directory to go")


@pytest.mark.chaos
def test_a_job_does_not_outlive_its_worker_even_if_the_agent_cannot_see_to_it() -> None:
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", HOLDER.format(root=root)], stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout
        *pids, job, worker, directory = holder.stdout.readline().decode().split()
        try:
            holder.send_signal(signal.SIGSTOP)
            os.kill(int(worker), signal.SIGKILL)
            wait_until_gone(int(job))
        finally:
            holder.kill()
            # a process that notices its end may be clearing it away, too
            shutil.rmtree(directory, ignore_errors=True)
            for pid in map(int, [*pids, job]):
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------------- groups of the dead


def test_a_group_is_killed_by_its_number_and_stamp_only() -> None:
    victim = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        known = stamp(victim.pid)
        assert known
        boot, ticks = known.split()
        assert not kill_group(victim.pid, f"{boot} {int(ticks) + 1}")
        assert not kill_group(victim.pid, f"another-boot {ticks}")
        assert is_running(victim.pid)
        assert kill_group(victim.pid, known)
        assert victim.wait() == -signal.SIGKILL
        assert not kill_group(victim.pid, known)
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize("marked", [True, False])
def test_of_a_group_without_its_leader_only_marked_members_are_killed(marked: bool) -> None:
    script = "sleep 1000 & echo $!; exit 0"
    environment = {**os.environ, **({"FLEETBUS_JOB_ID": "x"} if marked else {})}
    leader = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True, env=environment)
    known = stamp(leader.pid)
    assert leader.stdout
    assert known
    member = int(leader.stdout.readline())
    leader.stdout.close()
    leader.wait()
    try:
        assert kill_group(leader.pid, known) is marked
        if marked:
            wait_until_gone(member)
        assert is_running(member) is not marked
    finally:
        if is_running(member):
            os.kill(member, signal.SIGKILL)


def test_the_stamp_of_a_process_survives_its_odd_name(tmp_path: Path) -> None:
    odd = tmp_path / "a ) b (c"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "1000"]) as process:
        try:
            known = stamp(process.pid)
            assert known
            assert known.split()[1].isdigit()
        finally:
            process.kill()
