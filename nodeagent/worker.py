"""A worker: a warm process that makes one process after another, each for one job. Started by the pool.

It never runs a script itself, so it always answers, and no job can spoil the next. It ends when the pool says so, or
when its standard input ends: the agent holds the other end of that pipe and nothing else does, so that not even a
`kill -9` of the agent leaves anything running. Orphans that a job leaves behind become its children, and it kills them.

    python -m nodeagent.worker DIRECTORY NAME
"""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import zmq

from events.telemetry import Line
from nodeagent.job_process import JobProcess
from nodeagent.messages import (
    Begin,
    Drop,
    Ended,
    Go,
    Hello,
    Made,
    Printed,
    Quit,
    Stop,
    ToPool,
    decode_for_worker,
    encode,
)
from nodeagent.outcome import Failed
from nodeagent.processes import adopt_orphans, kill_children
from nodeagent.script import Script, prepare

#: The socket of the pool, in its directory.
SOCKET = "pool"
#: What most scripts import: once here instead of once per job.
_WARM = ("json", "platform", "psutil", "re", "shutil", "socket", "subprocess", "tempfile")
_LIFELINE = 0
#: What is waited for, as the numbers that they are: their names cost more than the waiting.
_IN, _OUT, _IN_OR_GONE = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.POLLIN | zmq.POLLERR)
#: Messages on their way to the pool. When it does not keep up, jobs wait in `print`, and nothing piles up here.
_HIGH_WATER = 16
#: Lines in one message.
_LINES = 1_000
#: Seconds between two looks while a job runs: orphans that end must be reaped.
_LOOK = 5.0
#: Seconds to get rid of everything when the agent is gone, and to pass on the last word when told to quit.
_LAST_WORDS = 5.0


class Worker:
    """`run` until told to quit. `directory` is the pool's: its socket, and the working directories of jobs."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, name.encode())
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, int(_LAST_WORDS * 1000))
        self._outbox: deque[bytes] = deque()
        self._job: JobProcess | None = None
        #: A process for the next job, made ahead: to fork takes longer than most other things a worker does.
        self._spare: JobProcess | None = None
        self._forks = 0
        self._quit = False

    def run(self) -> None:
        self._socket.connect(f"ipc://{self._directory}/{SOCKET}")
        self._make_spare()
        self._say(Hello())
        while not self._quit:
            job, ready = self._job, self._wait()
            if _LIFELINE in ready:
                self._die_with_agent()
            self._flush()
            if self._socket in ready:
                self._listen()
            if job is self._job:  # a new one has nothing to say yet
                self._tend()
            self._flush()
        if spare := self._take_spare():
            spare.discard()
        self._socket.close()
        self._context.term()

    # ---------------------------------------------------------------------- waiting

    def _wait(self) -> set[object]:
        """Wait for anything to do; the socket and the descriptors that are ready."""
        waited: list[tuple[Any, int]] = [
            (_LIFELINE, _IN_OR_GONE),
            (self._socket, _IN | (_OUT if self._outbox else 0)),
        ]
        seconds = None
        if job := self._job:
            descriptors = job.signs() + (() if self._outbox else job.outputs())
            waited += [(descriptor, _IN_OR_GONE) for descriptor in descriptors]
            seconds = min(_LOOK, max(0.0, job.deadline - time.monotonic()))
        return {one for one, _ in zmq.zmq_poll(waited, -1 if seconds is None else int(seconds * 1000) + 1)}

    # -------------------------------------------------------------------- listening

    def _listen(self) -> None:
        """One message; where there are more, the next wait is none."""
        with contextlib.suppress(zmq.Again):
            match decode_for_worker(self._socket.recv(zmq.NOBLOCK)):
                case Begin() as begin:
                    self._begin(begin)
                case Go(job_id=job_id):
                    if job := self._current(job_id):
                        job.go()
                case Stop(job_id=job_id, reason=reason):
                    if job := self._current(job_id):
                        job.stop(reason)
                case Drop():
                    self._drop()
                case Quit():
                    self._quit = True

    def _current(self, job_id: str) -> JobProcess | None:
        """The job, unless it has ended in the meantime."""
        return self._job if self._job and self._job.job_id == job_id else None

    def _begin(self, begin: Begin) -> None:
        job_id = begin.work.job_id
        script = prepare(begin.work.script, begin.work.source)
        if isinstance(script, Failed):
            self._say(Ended(job_id=job_id, outcome=script))
        elif problems := script.problems(begin.work.params):
            self._say(Ended(job_id=job_id, outcome=Failed(problems)))
        else:
            self._start(begin, script)

    def _start(self, begin: Begin, script: Script) -> None:
        try:
            job = self._kept(begin, script) if begin.kept else self._assigned(begin, script)
        except OSError as error:
            outcome = Failed(f"the node cannot make a process for the job: {error}")
            self._say(Ended(job_id=begin.work.job_id, outcome=outcome))
            return
        if job is None:
            # another process is not the one that the agent has noted down as this job's
            outcome = Failed("the process kept for this script was killed before the job began")
            self._say(Ended(job_id=begin.work.job_id, outcome=outcome))
            return
        self._job = job
        if begin.kept:
            job.go()
        else:
            self._say(Made(job.job_id, job.pid, job.stamp))

    def _kept(self, begin: Begin, script: Script) -> JobProcess | None:
        """The process kept for the script, with the job. None when it is gone."""
        spare = self._take_spare()
        if spare and spare.kept_for is script:
            with contextlib.suppress(BrokenPipeError):
                spare.assign(begin, script)
                return spare
        if spare:
            spare.discard()
        self._make_spare()
        return None

    def _assigned(self, begin: Begin, script: Script) -> JobProcess:
        """A process that has the job: the spare one, or if that is another script's or killed, a new one."""
        if spare := self._take_spare():
            if spare.fits(script):
                with contextlib.suppress(BrokenPipeError):
                    spare.assign(begin, script)
                    return spare
            spare.discard()
        job = self._fork()
        job.assign(begin, script)
        return job

    def _drop(self) -> None:
        """Back to a process that may run any script."""
        if spare := self._take_spare():
            spare.discard()
        self._make_spare()

    def _take_spare(self) -> JobProcess | None:
        spare, self._spare = self._spare, None
        return spare

    def _fork(self) -> JobProcess:
        self._forks += 1
        return JobProcess(self._directory / f"{self._name}.{self._forks}", self._print)

    def _make_spare(self) -> None:
        try:
            self._spare = self._fork()
        except OSError:
            self._spare = None  # the job that needs it will say what is wrong

    # --------------------------------------------------------------------- the job

    def _tend(self) -> None:
        job = self._job
        if job is None:
            return
        job.read(outputs=not self._outbox)
        job.reap()
        job.tick(time.monotonic())
        if job.is_over:
            self._job = None
            self._say(job.finish())
            self._flush()
            if job.is_spare:
                self._spare = job
            elif job.is_clean:
                self._make_spare()
            else:  # what hangs would be taken for the next job's
                self._quit = True

    def _print(self, job_id: str, lines: tuple[Line, ...], is_head: bool) -> None:
        for first in range(0, len(lines), _LINES):
            self._say(Printed(job_id, lines[first : first + _LINES], is_head))

    def _die_with_agent(self) -> None:
        """The agent is gone: leave nothing that it started."""
        kill_children(_LAST_WORDS)
        shutil.rmtree(self._directory, ignore_errors=True)
        os._exit(1)

    # --------------------------------------------------------------------- speaking

    def _say(self, message: ToPool) -> None:
        self._outbox.append(encode(message))

    def _flush(self) -> None:
        with contextlib.suppress(zmq.Again):
            while self._outbox:
                self._socket.send(self._outbox[0], zmq.NOBLOCK)
                self._outbox.popleft()


def main() -> None:
    directory, name = sys.argv[1:]
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # whoever signals a whole group means the agent, and the agent tells its workers what to do
        signal.signal(signum, signal.SIG_IGN)
    # ZeroMQ's thread holds no lock that a forked process, which never touches ZeroMQ, would wait for
    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
    adopt_orphans()
    for module in _WARM:
        importlib.import_module(module)
    gc.freeze()
    Worker(Path(directory), name).run()


if __name__ == "__main__":
    main()
