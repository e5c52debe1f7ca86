"""A worker's side of one job: from the fork to the verdict."""

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Literal

import msgspec

from events.telemetry import Line
from nodeagent import tracebacks
from nodeagent.child import (
    FRAME_HEAD,
    MAX_RESULT,
    WHERE_SIGNAL,
    Assignment,
    Interrupted,
    Masks,
    Pipes,
    Raised,
    Report,
    Returned,
    run_job,
    write_frame,
)
from nodeagent.messages import Begin, Ended, Kept, StopReason
from nodeagent.outcome import Cancelled, Failed, Outcome, Succeeded, TimedOut
from nodeagent.output import STDERR, STDOUT, OutputReader
from nodeagent.processes import children, kill_children, stamp
from nodeagent.script import Script

#: Bytes read from a pipe at a time: what a pipe of Linux holds.
_CHUNK = 65_536
#: Where a job is told to write down is read up to this many bytes.
_MAX_WHERE = 100_000
#: Seconds that killed processes may take to vanish.
_KILL_DEADLINE = 3.0

#: A result and its frame, or the two texts of a failure in their widest UTF-8.
_MAX_REPORT = MAX_RESULT + 100_000

_decoder = msgspec.msgpack.Decoder(Report)

Why = StopReason | Literal["limit"]


class Phase(Enum):
    """Of a job's process. It may end in any of them, and is OVER then.

    SPARE (no job yet) → GATED (it has one, and waits) → RUNNING → STOPPING (SIGTERM was sent) → KILLED (SIGKILL).
    RUNNING → RETURNED (the script has, and the process may be kept) → SPARE.
    """

    SPARE = 1
    GATED = 2
    RUNNING = 3
    STOPPING = 4
    KILLED = 5
    OVER = 6
    RETURNED = 7


class JobProcess:
    """One job: `assign`, `go`, `read` what is ready, `tick` when time has passed, and `finish` once it `is_over`.

    The constructor forks the process, so that one can be kept ready. Raises OSError.
    """

    def __init__(self, directory: Path, print_lines: Callable[[str, tuple[Line, ...], bool], None]) -> None:
        self.phase = Phase.SPARE
        #: When to act next if nothing else happens: the limit, or the end of the grace. Seconds, monotonic.
        self.deadline = float("inf")
        #: False after `finish` when something of the job could not be killed.
        self.is_clean = True
        #: The script that it has run, and may run again; None when it may run any.
        self.kept_for: Script | None = None
        self._directory, self._print = directory, print_lines
        self._closed: set[int] = set()
        self._status: int | None = None
        self._reset()
        self._fork()

    def _reset(self) -> None:
        """Nothing is known of a job."""
        self._output = OutputReader()
        self._reports = _ReportReader()
        self._where = b""
        self._why: Why | None = None
        self._began = 0.0

    # ------------------------------------------------------------------------ life

    def _fork(self) -> None:
        self._directory.mkdir(mode=0o700)
        out, err, report, where, gate = (os.pipe() for _ in range(5))
        theirs = Pipes(out[1], err[1], report[1], where[1], gate[0])
        self._out, self._err, self._report, self._where_end, self._gate = out[0], err[0], report[0], where[0], gate[1]
        worker = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            for end in (*out, *err, *report, *where, *gate):
                os.close(end)
            self._directory.rmdir()
            raise
        if not self.pid:
            run_job(theirs, self._directory, worker)
        with contextlib.suppress(OSError):  # both sides do it, so that neither has to wait for the other
            os.setpgid(self.pid, self.pid)
        for end in (theirs.out, theirs.err, theirs.report, theirs.where, theirs.gate):
            os.close(end)
        for end in (self._out, self._err, self._report, self._where_end):
            os.set_blocking(end, False)
        # room for a burst, so that a job seldom waits for its worker
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, 4 * _CHUNK)
        self.stamp = stamp(self.pid) or ""
        self.handle = os.pidfd_open(self.pid)

    def fits(self, script: Script) -> bool:
        """Whether it may run this script."""
        return self.kept_for is None or self.kept_for is script

    def assign(self, begin: Begin, script: Script) -> None:
        """Give it a job, which it does not begin yet. Raises BrokenPipeError when the process is gone."""
        secrets = script.secrets(begin.work.params)
        assignment = Assignment(begin.work, script.filename, script.code, secrets, script.header.keep_process)
        write_frame(self._gate, msgspec.msgpack.encode(assignment))
        self._begin, self._script = begin, script
        self.phase = Phase.GATED

    @property
    def job_id(self) -> str:
        return self._begin.work.job_id

    def go(self) -> None:
        """Let the script run, unless it was stopped first; its time begins."""
        if self.phase is not Phase.GATED:
            return
        self._began = time.monotonic()
        self.deadline = self._began + self._begin.limit
        self.phase = Phase.RUNNING
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"g")

    def stop(self, why: Why) -> None:
        """Ask the job to end, once: it writes down where it is, then its whole group gets SIGTERM."""
        if self.phase not in {Phase.GATED, Phase.RUNNING} or self._reports.verdict:
            return
        self._why = why
        if self.phase is Phase.GATED:  # nothing of the script runs, so nothing can be asked to end
            self.kill()
            return
        self.phase = Phase.STOPPING
        self.deadline = time.monotonic() + self._begin.grace
        self._signal(os.kill, WHERE_SIGNAL)
        self._signal(os.killpg, signal.SIGTERM)

    def kill(self) -> None:
        self.phase = Phase.KILLED
        self.deadline = float("inf")
        self._signal(os.killpg, signal.SIGKILL)

    def tick(self, now: float) -> None:
        """Act on the clock: the limit, then the end of the grace."""
        if now < self.deadline:
            return
        if self.phase is Phase.RUNNING:
            self.stop("limit")
        else:
            self.kill()

    def reap(self) -> None:
        """Take note if the process has ended. Orphans that the job left to its worker are reaped along the way."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.pid:
                    self._status = status
                    self.phase = Phase.OVER

    @property
    def is_over(self) -> bool:
        return self.phase in {Phase.OVER, Phase.RETURNED}

    @property
    def is_spare(self) -> bool:
        """Whether it waits for a job."""
        return self.phase is Phase.SPARE

    def finish(self) -> Ended:
        """Clear away what the job left running, read what is left in its pipes, and pronounce the verdict.

        Afterwards the process is gone, or SPARE once more and kept for its script.
        """
        keep = self.phase is Phase.RETURNED and children() == [self.pid]
        self.is_clean = keep or kill_children(_KILL_DEADLINE)
        duration = time.monotonic() - self._began if self._began else 0.0
        self.read(outputs=True)
        self._emit(self._output.finish())
        if not keep:
            self.discard()
        outcome = self._verdict() if self.is_clean else Failed("a process of the job hangs in the kernel, unkillable")
        kept = Kept(self.pid, self.stamp) if keep else None
        ended = Ended(job_id=self.job_id, outcome=outcome, duration=duration, output=self._output.kept(), kept=kept)
        if keep:
            self.phase, self.deadline, self.kept_for = Phase.SPARE, float("inf"), self._script
            self._reset()
        return ended

    def discard(self) -> None:
        """Let go of everything that belongs to the process; one that has no job ends by that."""
        for end in (self._out, self._err, self._report, self._where_end, self._gate, self.handle):
            os.close(end)
        shutil.rmtree(self._directory, ignore_errors=True)

    # --------------------------------------------------------------------- reading

    def outputs(self) -> tuple[int, ...]:
        """Descriptors to watch while lines can be passed on."""
        return tuple(end for end in (self._out, self._err) if end not in self._closed)

    def signs(self) -> tuple[int, ...]:
        """Descriptors to watch at all times: the job's own reports, and its end."""
        return (self.handle, *(end for end in (self._report, self._where_end) if end not in self._closed))

    def read(self, *, outputs: bool) -> None:
        """Read what the job says of itself, with `outputs` also what it prints: a chunk of each, all at the end."""
        # what is printed is taken before the reports and looked at after them: what is to be masked was told before it
        # was printed, so that it must be known by then
        printed: list[tuple[str, bytes]] = []
        if outputs:
            self._drain(self._out, lambda data: printed.append((STDOUT, data)))
            self._drain(self._err, lambda data: printed.append((STDERR, data)))
        self._drain(self._report, self._reports.feed)
        self._note_return()
        self._drain(self._where_end, self._note_where)
        self._output.masks = self._reports.masks
        for stream, data in printed:
            self._emit(self._output.feed(stream, data))

    def _drain(self, end: int, take: Callable[[bytes], None]) -> None:
        while end not in self._closed:
            try:
                data = os.read(end, _CHUNK)
            except BlockingIOError:
                return
            if data:
                take(data)
            else:
                self._closed.add(end)
            if not self.is_over:
                return

    def _note_return(self) -> None:
        """A job that was stopped has lost its process, even when it returned at the same moment."""
        verdict = self._reports.verdict
        if isinstance(verdict, Returned) and verdict.kept:
            if self.phase is Phase.RUNNING:
                self.phase = Phase.RETURNED
            elif self.phase is Phase.STOPPING:
                self.kill()

    def _note_where(self, data: bytes) -> None:
        self._where = (self._where + data)[:_MAX_WHERE]

    def _emit(self, lines: list[Line]) -> None:
        head, live = self._output.sort(lines, time.monotonic())
        for batch, is_head in ((head, True), (live, False)):
            if batch:
                self._print(self.job_id, tuple(batch), is_head)

    # --------------------------------------------------------------------- verdict

    def _verdict(self) -> Outcome:
        where = self._place() if self._where else ""
        match self._why, self._reports.verdict:
            case "limit", _:
                outcome: Outcome = TimedOut(self._begin.limit, where)
            case "cancelled", _:
                outcome = Cancelled(where)
            case "agent_stops", _:
                outcome = Failed("the agent was stopped while the job ran", where)
            case _, Returned(result=result):
                outcome = Succeeded(result)
            case _, Raised(error=error, traceback=trace):
                outcome = Failed(error, trace)
            case _, Interrupted():
                outcome = Failed("the job was ended by a SIGTERM that did not come from its agent", where)
            case _:
                outcome = Failed(_death(self._status or 0), where)
        return outcome

    def _place(self) -> str:
        """Where the script was when it was told to write that down."""
        lines = self._begin.work.source.splitlines()
        return tracebacks.of_dump(self._where.decode(errors="replace"), self._script.filename, lines)

    def _signal(self, send: Callable[[int, int], None], signum: int) -> None:
        # until `reap` takes its status, the process keeps its number: nobody else can be hit
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                send(self.pid, signum)


class _ReportReader:
    """Puts the frames of a job's reports together. What is no report ends the reading."""

    def __init__(self) -> None:
        self.masks: tuple[str, ...] = ()
        self.verdict: Returned | Raised | Interrupted | None = None
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= FRAME_HEAD.size and not self.verdict:
            (length,) = FRAME_HEAD.unpack_from(self._rest)
            if length > _MAX_REPORT:
                self.verdict = Raised("the script wrote into the pipe that its worker reads", "")
            if len(self._rest) < FRAME_HEAD.size + length:
                return
            self._take(bytes(self._rest[FRAME_HEAD.size : FRAME_HEAD.size + length]))
            del self._rest[: FRAME_HEAD.size + length]

    def _take(self, body: bytes) -> None:
        try:
            report = _decoder.decode(body)
        except msgspec.DecodeError:
            report = Raised("the script wrote into the pipe that its worker reads", "")
        if isinstance(report, Masks):
            self.masks = report.texts
        else:
            self.verdict = report


def _death(status: int) -> str:
    """How a process ended that told nothing of itself, from its status."""
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        return f"the job's process was killed by signal {signum} ({signal.strsignal(signum)})"
    return f"the script ended its process with exit code {os.WEXITSTATUS(status)} instead of returning"
