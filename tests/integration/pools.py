"""A worker pool with real processes, and what it said."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar
from uuid import uuid4

import psutil

from events.telemetry import Line
from nodeagent.outcome import Failed, Succeeded
from nodeagent.work import Finished, QueueSpec, Started, Work
from nodeagent.workers import WorkerPool
from tests.waiting import wait_until

T = TypeVar("T")

#: Seconds after which a test gives up; far more than anything here takes on a busy machine.
PATIENCE = 120.0
ONE = {"default": QueueSpec(size=1, limit=300)}


class Pool:
    """A pool under test, with everything it called back. Use it in a `with` statement."""

    def __init__(self, queues: Mapping[str, QueueSpec] = ONE, **options: Any) -> None:
        self.started: dict[str, Started] = {}
        self.finished: list[Finished] = []
        self.lines: dict[str, list[Line]] = {}
        self._heard = threading.Condition()
        self.pool = WorkerPool(
            on_started=self._on_started,
            on_output=self._on_output,
            on_finished=self._on_finished,
            queues=queues,
            **{"grace": 0.5, **options},
        )

    def __enter__(self) -> Self:
        self.pool.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.stop()

    # ------------------------------------------------------------------- asking it

    def submit(self, action: str, *, queue: str = "default", header: str = "", **work: Any) -> str:
        """Submit a script made of `action` and further `header` lines; the id of its job."""
        source = f'descr = "a test"\n{header}\n{action}\n'
        return self.submit_source("test", source, queue=queue, **work)

    def submit_source(self, script: str, source: str, **work: Any) -> str:
        job = str(uuid4())
        self.pool.submit(Work(job_id=job, script=script, source=source, node_id="n1", actor="user:alice", **work))
        return job

    def run(self, action: str, **work: Any) -> Finished:
        """Submit, and wait for the end."""
        return self.end_of(self.submit(action, **work))

    def result(self, action: str, **work: Any) -> Any:
        finished = self.run(action, **work)
        assert isinstance(finished.outcome, Succeeded), finished
        return finished.outcome.value

    def failure(self, action: str, **work: Any) -> Failed:
        finished = self.run(action, **work)
        assert isinstance(finished.outcome, Failed), finished
        return finished.outcome

    # ----------------------------------------------------------------- what it said

    def end_of(self, job: str) -> Finished:
        return self._await(lambda: next((end for end in self.finished if end.job_id == job), None), f"end of {job}")

    def start_of(self, job: str) -> Started:
        return self._await(lambda: self.started.get(job), f"start of {job}")

    def line_of(self, job: str, n: int = 1) -> Line:
        return self._await(lambda: next((line for line in self.lines.get(job, ()) if line.n == n), None), "a line")

    def warm(self, queue: str = "default") -> int:
        """The process id of a worker of the queue that answers."""
        self.result("def action(): pass", queue=queue)
        return self.workers(queue)[0]

    def workers(self, queue: str = "default") -> tuple[int, ...]:
        return self.pool.status()[queue].workers

    def _await(self, look: Callable[[], T | None], what: str) -> T:
        end = time.monotonic() + PATIENCE
        with self._heard:
            while (found := look()) is None:
                assert self._heard.wait(end - time.monotonic()), f"waited {PATIENCE} s for {what}"
        return found

    def _on_started(self, started: Started) -> None:
        with self._heard:
            assert started.job_id not in self.started
            self.started[started.job_id] = started
            self._heard.notify_all()

    def _on_output(self, job: str, lines: tuple[Line, ...]) -> None:
        with self._heard:
            self.lines.setdefault(job, []).extend(lines)
            self._heard.notify_all()

    def _on_finished(self, finished: Finished) -> None:
        with self._heard:
            self.finished.append(finished)
            self._heard.notify_all()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(is_running, pids)), deadline=PATIENCE, what=f"the end of {pids}")
