"""The pool's side of one worker: its process, and what it is busy with."""

import os
import subprocess
import sys
from enum import Enum
from pathlib import Path

from msgspec import Struct, field

from events.telemetry import Line
from nodeagent.messages import Kept, StopReason
from nodeagent.output import Output
from nodeagent.processes import WORKER_MARK, kill_group, kill_marked, kill_workers_own
from nodeagent.work import Started, Work


class State(Enum):
    """Of a worker. STARTING → IDLE ⇄ BUSY; IDLE → QUITTING. It may die in any of them."""

    STARTING = 1
    IDLE = 2
    BUSY = 3
    QUITTING = 4


class KeptFor(Struct, frozen=True):
    """The script that a worker keeps a process for, the process, and how long the last job in it took, in seconds."""

    script: str
    source: str
    process: Kept
    lasted: float

    def runs(self, work: Work) -> bool:
        return self.script == work.script and self.source == work.source


class PoolJob(Struct, eq=False):
    """A job in the pool."""

    work: Work
    limit: float
    worker: "WorkerHandle | None" = None
    #: It goes into this process, which its worker keeps; the worker hears of it last.
    kept: KeptFor | None = None
    #: Workers that it was given to.
    tries: int = 0
    #: Whoever holds jobs back was told of it; then it may go on; its worker has a process for it; and when the worker
    #: was told to let it run (seconds, monotonic).
    started: Started | None = None
    released: bool = False
    made: bool = False
    gone: float | None = None
    stopping: StopReason | None = None
    head: list[Line] = field(default_factory=list)

    def known_output(self) -> Output:
        """What is known of its output when its worker died."""
        size = sum(len(line.text.encode(errors="replace")) + 1 for line in self.head)
        return Output(lines=len(self.head), size=size, head=tuple(self.head))


class WorkerHandle:
    """Starts a worker for a queue. `deadline` and `warm_since` in seconds, monotonic."""

    def __init__(self, name: str, queue: str, directory: Path, *, deadline: float) -> None:
        self.name, self.queue = name, queue
        #: When the pool gives up on it. `overdue`: it has.
        self.deadline = deadline
        self.overdue = False
        self.state = State.STARTING
        self.job: PoolJob | None = None
        self.jobs = 0
        self.warm_since = 0.0
        #: Since when it has had nothing to do, and the process that it keeps.
        self.idle_since = 0.0
        self.kept: KeptFor | None = None
        # its standard input is the lifeline: it ends when this process does, however that happens
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nodeagent.worker", str(directory), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            env={**_environment(), WORKER_MARK: name},
            start_new_session=True,
            bufsize=0,
        )
        self.pid = self._process.pid
        #: Readable when the worker has died.
        self.handle = os.pidfd_open(self.pid)

    def keeps(self, work: Work) -> bool:
        """Whether it keeps a process for the script of this work."""
        return self.kept is not None and self.kept.runs(work)

    def is_dead(self) -> bool:
        return self._process.poll() is not None

    @property
    def death(self) -> str:
        """How it died, in two or three words."""
        code = self._process.returncode
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()

    def kill_remains(self) -> None:
        """What a worker does that is not dead: kill whatever its job has started, wherever it went."""
        if self.job:
            if self.job.started:
                kill_group(self.job.started.pgid, self.job.started.stamp)
            kill_marked(self.job.work.job_id)
            kill_workers_own(self.name)

    def close(self) -> None:
        """Take leave of a worker that is dead or about to be."""
        self._process.wait()
        os.close(self.handle)
        if self._process.stdin:
            self._process.stdin.close()


def _environment() -> dict[str, str]:
    """What the agent is told by its environment (addresses, passwords) is none of the jobs' business."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FLEETBUS_")}
