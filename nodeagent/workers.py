"""The worker pool of a node: jobs wait in named queues, and warm processes take them.

One thread, the pool's own, does everything: `_loop` reads top to bottom. `submit`, `release`, `cancel` and `stop` may
be called from any thread; callbacks come on the pool's thread, must not block it for long, and must not call `stop`.

A job's life: waiting in its queue, `Begin` to an idle worker, `Made` (its process waits, `on_started`), `Go` (the
script runs), `Printed`, `Ended` (`on_finished`). Where a worker keeps the process of the script's last run, the pool
knows that process already: `on_started` comes at once, and one `Begin` says all. While jobs of such a script take
moments, the next ones are called up: `on_started` comes while they still wait for a worker, so that no worker waits for
their release. Time limits are the workers' affair; the pool only gives up on a worker that is overdue, and replaces
those that die.

The file is long because it is one state machine: no part of it can be understood without the others.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from itertools import islice
from pathlib import Path
from uuid import uuid4

import structlog
import zmq
from msgspec import Struct, field
from msgspec.structs import replace

from events.telemetry import Line
from nodeagent.messages import (
    Begin,
    Drop,
    Ended,
    Go,
    Hello,
    Kept,
    Made,
    Printed,
    Quit,
    Stop,
    StopReason,
    ToPool,
    ToWorker,
    decode_for_pool,
    encode,
)
from nodeagent.outcome import Cancelled, Failed, Outcome, TimedOut
from nodeagent.output import Output
from nodeagent.work import DEFAULT_QUEUES, UNKNOWN_QUEUE, Finished, QueueSpec, Started, Work
from nodeagent.worker import SOCKET
from nodeagent.worker_handle import KeptFor, PoolJob, State, WorkerHandle

__all__ = ["PoolStopped", "QueueStatus", "WorkerPool"]

log = structlog.get_logger(__name__)

#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0
#: A worker is replaced when it is this old (seconds), or has had this many jobs.
MAX_AGE = 24 * 3600.0
MAX_JOBS = 10_000
#: Seconds in which a new worker must be warm, and in which it must have made a job's process.
_START_DEADLINE = 30.0
#: Seconds that a job's worker may take, beyond limit and grace, to say that the job has ended.
_OVERDUE = 15.0
#: Seconds after which a queue that nobody configured is given up when nothing comes.
_QUEUE_IDLE = 600.0
#: Seconds that a worker keeps a process for a script's next job.
KEPT_FOR = 60.0
#: Jobs of a queue that are called up, if the last one of their script in a kept process took less than so many seconds.
CALLED_UP = 8
BRISK = 0.05
#: Workers that die before they are warm are started again after 0.1, 0.2, 0.4 … seconds, at most this many.
_MAX_DELAY = 30.0
#: After so many such deaths in a row, the jobs that wait are failed instead of waiting for ever.
_MAX_FAILURES = 5
#: Seconds between two looks at the clock.
_LOOK = 0.5
#: Messages taken from workers before anything else is looked at again.
_MESSAGES = 200
_HIGH_WATER = 64
_STOPPED_FIRST = "the agent was stopped before the job began"


class PoolStopped(RuntimeError):
    """The pool does not take jobs: it was stopped, or its thread died."""


class QueueStatus(Struct, frozen=True):
    """Process ids of the queue's workers, and how many jobs it holds."""

    workers: tuple[int, ...]
    running: int
    waiting: int


class Phase(Enum):
    """Of the pool. Each leads to the next: DRAINING when told to stop, STOPPING when the drain has taken too long."""

    OPEN = 1
    DRAINING = 2
    STOPPING = 3
    QUITTING = 4
    CLOSED = 5


class _Queue(Struct, eq=False):
    spec: QueueSpec
    configured: bool
    waiting: deque[PoolJob] = field(default_factory=deque)
    #: Workers it keeps. One more than its jobs need, up to its size, so that the next job finds one warm.
    target: int = 1
    #: Workers in a row that died before they were warm, and when the next may be started.
    failures: int = 0
    not_before: float = 0.0
    used: float = 0.0


class WorkerPool:
    """Runs jobs. Every submitted job ends in exactly one `on_finished`, except those that wait when it is stopped.

    `on_started(Started)` comes before anything of the script runs; with `hold`, it runs only after `release(job_id)`,
    so that the agent can make a note first that survives a crash. `on_output(job_id, lines)` brings lines as they are
    read. Seconds: `grace` between SIGTERM and SIGKILL, `max_age` of a worker.
    """

    def __init__(
        self,
        *,
        on_started: Callable[[Started], None],
        on_output: Callable[[str, tuple[Line, ...]], None],
        on_finished: Callable[[Finished], None],
        queues: Mapping[str, QueueSpec] = DEFAULT_QUEUES,
        hold: bool = False,
        grace: float = GRACE,
        max_age: float = MAX_AGE,
        max_jobs: int = MAX_JOBS,
    ) -> None:
        self._on_started, self._on_output, self._on_finished = on_started, on_output, on_finished
        self._hold, self._grace, self._max_age, self._max_jobs = hold, grace, max_age, max_jobs
        self._queues = {name: _Queue(spec, configured=True) for name, spec in queues.items()}
        self._workers: dict[str, WorkerHandle] = {}
        self._jobs: dict[str, PoolJob] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell_lock = threading.Lock()
        self._phase = Phase.OPEN
        self._phase_ends = float("inf")
        #: What the last wait found: somebody rang, a worker said something, a worker has died.
        self._rung = self._spoken = self._mourning = False
        self._thread = threading.Thread(target=self._run, name="fleetbus-workers", daemon=True)

    # ---------------------------------------------------------------- from any thread

    def start(self) -> None:
        """Start the first workers. Returns before they are warm."""
        # a path of its own: those of sockets are short (107 bytes), and the agent's data directory may not be
        self._directory = Path(tempfile.mkdtemp(prefix="fleetbus-"))
        # what cleans up /tmp by age leaves a locked directory alone
        self._directory_lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._directory_lock, fcntl.LOCK_SH)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{self._directory}/{SOCKET}")
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Put a job at the end of its queue; harmless for one that is there already. Raises PoolStopped."""
        if self._phase is not Phase.OPEN:
            raise PoolStopped("the worker pool is stopped")
        self._command(lambda: self._submit(work))

    def release(self, job_id: str) -> None:
        """Let a job run that is held after `on_started`. Harmless for any other."""
        self._command(lambda: self._release(job_id))

    def cancel(self, job_id: str) -> None:
        """End a job, waiting or running: `Cancelled`, unless it ends by itself first. Harmless for unknown ones."""
        self._command(lambda: self._cancel(job_id))

    def stop(self, drain: float = 0.0) -> None:
        """End the pool, and wait for it. Running jobs have `drain` seconds, then they fail; waiting ones vanish."""
        self._command(lambda: self._enter(Phase.DRAINING, drain))
        if self._thread.ident:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the pool's thread runs. When it died by itself, what was submitted does not end any more."""
        return self._thread.is_alive()

    def status(self) -> dict[str, QueueStatus]:
        """The queues as they are now."""
        workers = list(self._workers.values())
        return {
            name: QueueStatus(
                workers=tuple(worker.pid for worker in workers if worker.queue == name),
                running=sum(worker.queue == name and worker.job is not None for worker in workers),
                waiting=len(queue.waiting),
            )
            for name, queue in list(self._queues.items())
        }

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with self._bell_lock:
            if self._phase is not Phase.CLOSED:  # afterwards its number may be another file's
                os.eventfd_write(self._bell, 1)

    # ------------------------------------------------------------------- the one loop

    def _run(self) -> None:
        try:
            self._loop()
        except Exception:
            log.exception("worker pool died", action="pool.died")
            raise
        finally:
            self._close()

    def _loop(self) -> None:
        while self._phase is not Phase.CLOSED:
            self._keep_up_workers()
            self._assign()
            self._call_up()
            self._wait()
            self._obey()
            self._listen()
            self._bury()
            self._watch_clock()
            self._wind_up()

    def _wait(self) -> None:
        ready = dict(self._poller.poll(int(_LOOK * 1000)))
        self._rung, self._spoken = self._bell in ready, self._socket in ready
        self._mourning = any(worker.handle in ready for worker in self._workers.values())

    def _obey(self) -> None:
        if self._rung:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        while self._commands:
            self._commands.popleft()()

    def _listen(self) -> None:
        if not self._spoken:
            return
        with contextlib.suppress(zmq.Again):
            for _ in range(_MESSAGES):
                name, *_, body = self._socket.recv_multipart(zmq.NOBLOCK)
                if worker := self._workers.get(name.decode(errors="replace")):
                    self._hear(worker, decode_for_pool(body))

    def _watch_clock(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if now > worker.deadline:
                log.warning("worker is overdue", action="worker.overdue", worker=worker.name, pid=worker.pid)
                worker.overdue = True
                worker.deadline = float("inf")
                worker.kill()
            elif worker.state is State.IDLE and self._is_worn(worker, now):
                self._quit(worker)
            elif worker.state is State.IDLE and worker.kept and now - worker.idle_since > KEPT_FOR:
                worker.kept = None
                self._send(worker, Drop())
        for name in [name for name, queue in self._queues.items() if self._is_deserted(name, queue, now)]:
            del self._queues[name]
            for worker in self._of(name):
                self._quit(worker)

    def _wind_up(self) -> None:
        """Go through the phases of a stop as fast as jobs and workers end, or their time does."""
        while following := self._next_phase():
            self._enter(*following)

    def _next_phase(self) -> tuple[Phase, float] | None:
        late = time.monotonic() >= self._phase_ends
        busy = bool(self._jobs)
        match self._phase:
            case Phase.DRAINING if late or not busy:
                return Phase.STOPPING, self._grace + _OVERDUE
            case Phase.STOPPING if late or not busy:
                return Phase.QUITTING, self._grace
            case Phase.QUITTING if late or not self._workers:
                return Phase.CLOSED, 0.0
            case _:
                return None

    # ----------------------------------------------------------------------- commands

    def _submit(self, work: Work) -> None:
        if work.job_id in self._jobs or self._phase is not Phase.OPEN:
            return
        queue = self._queues.setdefault(work.queue, _Queue(UNKNOWN_QUEUE, configured=False))
        job = PoolJob(work, work.timeout or queue.spec.limit)
        self._jobs[work.job_id] = job
        queue.waiting.append(job)

    def _release(self, job_id: str) -> None:
        if job := self._jobs.get(job_id):
            job.released = True
            self._let_go(job)

    def _let_go(self, job: PoolJob) -> None:
        """Let it run as soon as it may and can."""
        worker = job.worker
        if worker is None or not (job.released and job.made) or job.gone or job.stopping:
            return
        job.gone = time.monotonic()
        worker.deadline = job.gone + job.limit + self._grace + _OVERDUE
        begin = Begin(job.work, job.limit, self._grace, kept=True)
        self._send(worker, begin if job.kept else Go(job.work.job_id))

    def _cancel(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        if job.worker:
            self._stop_job(job.worker, "cancelled")
        else:
            self._queues[job.work.queue].waiting.remove(job)
            self._finish(job, Cancelled())

    def _stop_job(self, worker: WorkerHandle, reason: StopReason) -> None:
        if worker.job and worker.job.kept and not worker.job.gone:
            self._take_back(worker, worker.job, reason)
        elif worker.job and not worker.job.stopping:
            worker.job.stopping = reason
            worker.deadline = time.monotonic() + self._grace + _OVERDUE
            self._send(worker, Stop(worker.job.work.job_id, reason))

    def _take_back(self, worker: WorkerHandle, job: PoolJob, reason: StopReason) -> None:
        """Its worker has not heard of the job."""
        self._leave(worker)
        self._finish(job, Cancelled() if reason == "cancelled" else Failed(_STOPPED_FIRST))

    def _enter(self, phase: Phase, seconds: float) -> None:
        if phase.value <= self._phase.value:
            return
        self._phase, self._phase_ends = phase, time.monotonic() + seconds
        if phase is Phase.DRAINING:
            self._drop_waiting()
        elif phase is Phase.STOPPING:
            self._stop_all()
        elif phase is Phase.QUITTING:
            for worker in list(self._workers.values()):
                self._quit(worker)

    def _drop_waiting(self) -> None:
        """Jobs that nobody was told of vanish. What was called up counts as begun, and still runs."""
        for job in [job for job in self._jobs.values() if not (job.worker or job.started)]:
            self._queues[job.work.queue].waiting.remove(job)
            del self._jobs[job.work.job_id]

    def _stop_all(self) -> None:
        for job in list(self._jobs.values()):
            if job.worker:
                self._stop_job(job.worker, "agent_stops")
            else:
                self._queues[job.work.queue].waiting.remove(job)
                self._dismiss(job)

    def _dismiss(self, job: PoolJob) -> None:
        """No worker will have it: it vanishes, or fails if somebody was told of it."""
        if job.started:
            self._finish(job, Failed(_STOPPED_FIRST))
        else:
            del self._jobs[job.work.job_id]

    # ---------------------------------------------------------------------- messages

    def _hear(self, worker: WorkerHandle, message: ToPool) -> None:
        match message:
            case Hello() if worker.state is State.STARTING:
                worker.state, worker.deadline = State.IDLE, float("inf")
                worker.warm_since = time.monotonic()
                self._queues[worker.queue].failures = 0
            case Made(job_id=job_id) if worker.job and worker.job.work.job_id == job_id:
                self._made(worker, worker.job, Kept(message.pgid, message.stamp))
            case Printed(job_id=job_id, lines=lines, head=head) if worker.job and worker.job.work.job_id == job_id:
                if head:
                    worker.job.head += lines
                self._call(self._on_output, job_id, lines)
            case Ended(job_id=job_id) if worker.job and worker.job.work.job_id == job_id:
                job, kept = worker.job, message.kept
                worker.kept = KeptFor(job.work.script, job.work.source, kept, message.duration) if kept else None
                self._leave(worker)
                self._finish(job, message.outcome, message.duration, message.output)

    def _leave(self, worker: WorkerHandle) -> None:
        """The worker has no job any more."""
        worker.job, worker.state, worker.deadline = None, State.IDLE, float("inf")
        worker.idle_since = time.monotonic()

    def _made(self, worker: WorkerHandle, job: PoolJob, process: Kept) -> None:
        job.made = True
        if job.stopping:
            return  # it will never begin
        worker.deadline = float("inf")
        self._ask(job, process)
        self._let_go(job)

    def _ask(self, job: PoolJob, process: Kept) -> None:
        """Tell, once, whoever may hold the job back. `process` is the one that it will run in, most likely."""
        if job.started is None:
            job.started = Started(job_id=job.work.job_id, pgid=process.pgid, stamp=process.stamp)
            job.released = not self._hold
            self._call(self._on_started, job.started)

    def _finish(self, job: PoolJob, outcome: Outcome, duration: float = 0.0, output: Output | None = None) -> None:
        del self._jobs[job.work.job_id]
        kept = replace(output, head=tuple(job.head)) if output else job.known_output()
        since = time.monotonic() - job.gone if job.gone else None
        finished = Finished(job_id=job.work.job_id, outcome=outcome, duration=duration, output=kept, since=since)
        self._call(self._on_finished, finished)

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("callback of the worker pool failed", action="pool.callback_failed")

    # ----------------------------------------------------------------------- workers

    def _keep_up_workers(self) -> None:
        if self._phase is not Phase.OPEN:
            return
        now = time.monotonic()
        for name, queue in self._queues.items():
            workers = self._of(name)
            needed = len(queue.waiting) + sum(worker.job is not None for worker in workers)
            if needed:
                queue.used = now
            queue.target = max(queue.target, min(queue.spec.size, needed + 1))
            for _ in range(queue.target - len(workers)):
                if now >= queue.not_before:
                    self._start_worker(name, now)

    def _start_worker(self, queue: str, now: float) -> None:
        name = f"{queue}-{uuid4().hex[:12]}"
        try:
            worker = WorkerHandle(name, queue, self._directory, deadline=now + _START_DEADLINE)
        except OSError as error:  # no memory, no process ids left, or Python itself is gone
            self._count_failure(self._queues[queue], str(error))
        else:
            self._workers[name] = worker
            self._poller.register(worker.handle, zmq.POLLIN)

    def _assign(self) -> None:
        if self._phase.value > Phase.DRAINING.value:
            return
        for name, queue in self._queues.items():
            while queue.waiting and (worker := self._idle(name, queue.waiting[0].work)):
                self._give(worker, queue.waiting.popleft())

    def _call_up(self) -> None:
        """Ask for the jobs that will find a kept process within moments."""
        if self._phase is not Phase.OPEN:
            return
        for name, queue in self._queues.items():
            for job in islice(queue.waiting, CALLED_UP):
                if job.started is None and (process := self._soon_free(name, job.work)):
                    self._ask(job, process)

    def _soon_free(self, queue: str, work: Work) -> Kept | None:
        """The kept process of this work's script that is busy with a job, and needed moments for the one before."""
        busy = (worker.job.kept for worker in self._workers.values() if worker.queue == queue and worker.job)
        return next((kept.process for kept in busy if kept and kept.runs(work) and kept.lasted < BRISK), None)

    def _idle(self, queue: str, work: Work) -> WorkerHandle | None:
        """The worker of a queue that has nothing to do and is nearest to this work: it keeps its process, or none."""
        idle = (worker for worker in self._workers.values() if worker.queue == queue and worker.state is State.IDLE)
        return min(idle, key=lambda worker: (not worker.keeps(work), worker.kept is not None), default=None)

    def _give(self, worker: WorkerHandle, job: PoolJob) -> None:
        worker.job, worker.state, job.worker = job, State.BUSY, worker
        worker.deadline = time.monotonic() + _START_DEADLINE
        worker.jobs += 1
        job.tries += 1
        job.kept, worker.kept = worker.kept if worker.keeps(job.work) else None, None
        if job.kept:
            self._made(worker, job, job.kept.process)
        else:
            self._send(worker, Begin(job.work, job.limit, self._grace))

    def _bury(self) -> None:
        """Take leave of workers that died, and decide what becomes of their jobs."""
        if not self._mourning:
            return
        for worker in [worker for worker in self._workers.values() if worker.is_dead()]:
            del self._workers[worker.name]
            self._poller.unregister(worker.handle)
            worker.close()
            if worker.state is not State.QUITTING:
                log.warning("worker died", action="worker.died", worker=worker.name, how=worker.death)
            if worker.state is State.STARTING and worker.queue in self._queues:
                self._count_failure(self._queues[worker.queue], worker.death)
            if worker.job:
                self._inherit(worker, worker.job)

    def _inherit(self, worker: WorkerHandle, job: PoolJob) -> None:
        worker.kill_remains()
        if job.stopping == "cancelled":
            self._finish(job, Cancelled())
        elif worker.overdue and job.gone:
            self._finish(job, TimedOut(job.limit))
        elif job.made or job.tries > 1:
            self._finish(job, Failed(f"the worker of this job died ({worker.death})"))
        elif self._phase.value > Phase.DRAINING.value or (self._phase is Phase.DRAINING and not job.started):
            self._dismiss(job)
        else:  # nobody has heard of it yet
            job.worker = None
            self._queues[job.work.queue].waiting.appendleft(job)

    def _count_failure(self, queue: _Queue, how: str) -> None:
        queue.failures += 1
        queue.not_before = time.monotonic() + min(_MAX_DELAY, 0.1 * 2 ** (queue.failures - 1))
        if queue.failures >= _MAX_FAILURES:
            while queue.waiting:
                self._finish(queue.waiting.popleft(), Failed(f"the node cannot start worker processes ({how})"))

    def _quit(self, worker: WorkerHandle) -> None:
        if worker.state is State.STARTING:
            worker.kill()  # it does not listen yet
        worker.state, worker.deadline = State.QUITTING, time.monotonic() + _START_DEADLINE
        self._send(worker, Quit())

    def _close(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.close()
            worker.kill_remains()
        self._workers.clear()
        self._socket.close()
        self._context.term()
        with self._bell_lock:
            self._phase = Phase.CLOSED
            os.close(self._bell)
        os.close(self._directory_lock)
        shutil.rmtree(self._directory, ignore_errors=True)

    # ------------------------------------------------------------------------ looking

    def _of(self, queue: str) -> list[WorkerHandle]:
        return [
            worker for worker in self._workers.values() if worker.queue == queue and worker.state is not State.QUITTING
        ]

    def _is_worn(self, worker: WorkerHandle, now: float) -> bool:
        return worker.jobs >= self._max_jobs or now - worker.warm_since > self._max_age

    def _is_deserted(self, name: str, queue: _Queue, now: float) -> bool:
        if queue.configured or queue.waiting or now - queue.used < _QUEUE_IDLE:
            return False
        return not any(worker.job for worker in self._of(name))

    def _send(self, worker: WorkerHandle, message: ToWorker) -> None:
        # a worker that cannot be reached is dead or about to be found so
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([worker.name.encode(), encode(message)], zmq.NOBLOCK)
