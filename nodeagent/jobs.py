"""The life of every job on this node, from its order to its end.

    ACCEPTING ─▶ WAITING ─▶ STARTING ─▶ RUNNING ─▶ ENDING
        │ │         └───────────▲─┴──────────────────▲
        │ └─────────────────────┘                    │
        └────────────────────────────────────────────┘

A job goes to the pool while its mark `accepted` is being written: the journal keeps the order of its writes, so that
`running` is behind `accepted`, often in the same transaction.

What keeps a job from running twice: it is marked `running` in the journal, durable, before the first line of its script
runs (the worker pool holds it until then), and nothing in the journal leads from there back to a start. What keeps its
end from being lost: the mark `done` and the fact are one write.
"""

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import datetime, timedelta
from enum import Enum

import structlog
from msgspec import Struct

from bus.clock import Clock, new_id
from events.codec import BadEvent
from events.delivery import RunJob, StopJob
from events.job import Order, OwnRun
from events.telemetry import Line
from events.telemetry import Output as Printed
from nodeagent import changes
from nodeagent.changes import Change
from nodeagent.facts import Fact, Speaker
from nodeagent.journal import Journal
from nodeagent.journal_file import Kept
from nodeagent.livelines import LiveLines
from nodeagent.outcome import Cancelled, Failed, Outcome, Succeeded
from nodeagent.run import Run, ordered
from nodeagent.schedule import OwnStart, run_id
from nodeagent.scripts import Known, MissingSource, Scripts, Unusable
from nodeagent.telemetry import Telemetry
from nodeagent.work import Finished, Started, Work
from nodeagent.workers import PoolStopped, WorkerPool

#: Jobs without an end from which on no new one is taken out of the inbox.
MAX_OPEN = 10_000
#: Seconds that the mark `accepted` waits for others to share their transaction: where a process is ready for the job,
#: `running` follows at once.
ACCEPTED_WITHIN = 0.005

log = structlog.get_logger(__name__)


class Stage(Enum):
    """Of a job without an end."""

    ACCEPTING = 1  # the mark `accepted` is being written, and it waits for a worker
    WAITING = 2  # it waits for a worker
    STARTING = 3  # its process waits while the mark `running` is being written
    RUNNING = 4  # the pool lets it run as soon as its process is free
    ENDING = 5  # its end is being written; what the pool says of it counts no more


class _Job(Struct):
    run: Run
    stage: Stage
    #: The fact that asked for its end.
    stopped_by: str | None = None
    #: When its order came, and when it was in the journal; for the facts.
    received: datetime | None = None
    accepted: datetime | None = None


class Jobs:
    """Everything that is known of open jobs. Methods may be called from any thread; those named `on_…` by the pool."""

    def __init__(
        self, journal: Journal, scripts: Scripts, speaker: Speaker, telemetry: Telemetry, clock: Clock
    ) -> None:
        self._journal = journal
        self._scripts = scripts
        self._speaker = speaker
        self._telemetry = telemetry
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[str, _Job] = {}
        #: Runs of the agent's own that did not begin, because there was no room for their facts.
        self.left_out = 0
        #: What jobs find in their environment besides what the pool puts there.
        self.env: dict[str, str] = {}
        self._halting = False
        #: The worker pool has died. Nothing runs any more.
        self.broken = False
        self.lines = LiveLines(self._say_lines)

    def attach(self, pool: WorkerPool) -> None:
        """The pool calls back, so that each needs the other."""
        self._pool = pool

    # what there is

    def open(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._open)

    def own_scripts(self) -> frozenset[str]:
        """Scripts of which a run of the agent's own has not ended."""
        with self._lock:
            return frozenset(job.run.order.script for job in self._open.values() if job.run.own)

    def count(self) -> tuple[int, int]:
        """Jobs that run, and jobs that wait."""
        with self._lock:
            waiting = sum(job.stage in (Stage.ACCEPTING, Stage.WAITING) for job in self._open.values())
            return len(self._open) - waiting, waiting

    @property
    def full(self) -> bool:
        return len(self._open) >= MAX_OPEN

    # taking

    def resume(self, kept: Iterable[Kept]) -> None:
        """Goes on after a restart. What was marked running is never run again, whether it had begun or not."""
        for one in kept:
            if one.mark == "running":
                log.warning("a job was running when the agent ended", action="job.interrupted", job=one.run.job)
                self._end_unseen(one.run, Failed("the agent was started anew while the job ran"))
            elif self._too_late(one.run):
                self._journal.write(changes.expired(one.run.job, self._clock.now()))
            else:
                self._resubmit(one.run)

    def _resubmit(self, run: Run) -> None:
        try:
            script = self._scripts.find(run.order.script, run.order.hash, None)
        except (MissingSource, Unusable) as error:
            self._end_unseen(run, Failed(str(error)))
            return
        with self._lock:
            self._open[run.job] = _Job(run, Stage.WAITING)
            self._submit(run, script)

    def take(self, delivery: RunJob) -> Future[None] | None:
        """Accepts a job, once. The delivery may be acknowledged when the future is done, or at once when there is none.

        Raises `MissingSource`.
        """
        with self._lock:
            if delivery.job in self._open or self._journal.file.knows(delivery.job):
                return None
            if delivery.start_by < self._clock.now():
                log.info("a job came too late to be started", action="job.too_late", job=delivery.job)
                return None
            order = delivery.order
            try:
                script = self._scripts.find(order.script, order.hash, delivery.source)
            except Unusable as error:
                return self._end_unseen(ordered(delivery, queue="", timeout=None), Failed(str(error)))
            run = ordered(delivery, script.header.queue, script.header.timeout)
            if missing := self._scripts.not_allowed(script.header):
                return self._end_unseen(run, Failed(missing))
            return self._accept(run, script)

    def _accept(self, run: Run, script: Known) -> Future[None]:
        self._open[run.job] = _Job(run, Stage.ACCEPTING, received=self._clock.now())
        written = self._journal.write(changes.accepted(run), self._keep(script), patience=ACCEPTED_WITHIN)
        self._submit(run, script)
        written.add_done_callback(lambda future: self._accepted(run, future))
        return written

    def _keep(self, script: Known) -> Change:
        return changes.script(script.hash, script.source, self._clock.now())

    def _accepted(self, run: Run, written: Future[None]) -> None:
        with self._lock:
            job = self._open.get(run.job)
            if job is None:
                return
            job.accepted = self._clock.now()
            if job.stage is Stage.ACCEPTING:
                job.stage = Stage.WAITING
                if written.exception() is not None:
                    self._put_back(job)

    def begin_own(self, start: OwnStart, script: Known) -> bool:
        """Begins a run of the agent's own, once per version of the script and slot. False when it had its turn."""
        header = script.header
        job = run_id(self._speaker.node, script.hash, start.slot)
        order = Order(script=header.name, hash=script.hash, by=f"node:{self._speaker.node}", timeout=header.timeout)
        own, quiet = OwnRun(slot=start.slot), not header.log
        run = Run(job=job, order=order, queue=header.queue, timeout=header.timeout, own=own, quiet=quiet)
        with self._lock:
            if self._halting or job in self._open or self._journal.file.knows(job):
                return False
            self._open[job] = _Job(run, Stage.WAITING)
            self._journal.write(self._keep(script))
            self._submit(run, script)
            return True

    def _submit(self, run: Run, script: Known) -> None:
        work = Work(
            job_id=run.job,
            script=run.order.script,
            source=script.source,
            queue=run.queue,
            node_id=self._speaker.node,
            actor=run.order.by,
            params=run.order.params,
            timeout=run.timeout,
            env=self.env,
        )
        try:
            self._pool.submit(work)
        except PoolStopped:
            # the journal has it as accepted: the agent's next start runs it, if there is still time
            self.broken = self.broken or not self._halting
            del self._open[run.job]

    # stopping

    def cancel(self, delivery: StopJob) -> Future[None] | None:
        """Ends a job, or sees to it that it never begins. Acknowledged like `take`."""
        with self._lock:
            job = self._open.get(delivery.job)
            if job is None:
                return None if self._journal.file.knows(delivery.job) else self._cancel_unseen(delivery)
            job.stopped_by = job.stopped_by or delivery.fact
            if job.stage in (Stage.ACCEPTING, Stage.WAITING, Stage.STARTING):
                return self._take_back(job)
            if job.stage is Stage.RUNNING:
                self._pool.cancel(delivery.job)
            return None

    def _take_back(self, job: _Job) -> Future[None]:
        """The end of a job whose script has not begun. The pool lets go of it; its answer counts no more."""
        self._pool.cancel(job.run.job)
        return self._end(job, Finished(job_id=job.run.job, outcome=Cancelled()))

    def _cancel_unseen(self, delivery: StopJob) -> Future[None]:
        """The order has not come, or never will: the journal knows the job as ended from now on."""
        now = self._clock.now()
        fact = self._speaker.cancelled_unseen(delivery.job, delivery.fact, delivery.correlation, now)
        return self._journal.write(changes.done(delivery.job, None, now), facts=(fact,))

    def sweep(self) -> None:
        """Lets go of jobs whose `start_by` has passed before they began."""
        with self._lock:
            for job in list(self._open.values()):
                if job.stage is Stage.WAITING and self._too_late(job.run):
                    self._expire(job)

    def _expire(self, job: _Job) -> None:
        """Nothing is said: that a job has expired is for the decider to say."""
        log.info("a job did not get a worker in time", action="job.expired", job=job.run.job, queue=job.run.queue)
        job.stage = Stage.ENDING
        self._pool.cancel(job.run.job)
        written = self._journal.write(changes.expired(job.run.job, self._clock.now()))
        written.add_done_callback(lambda _: self._forget(job))

    def _too_late(self, run: Run) -> bool:
        return run.start_by is not None and run.start_by < self._clock.now()

    def halt(self, grace: float) -> None:
        """Begins nothing more; what runs has `grace` seconds. What has not begun stays accepted. Waits for the end."""
        with self._lock:
            self._halting = True
        self._pool.stop(drain=grace)

    # what the pool says

    def on_started(self, started: Started) -> None:
        """The process waits. It may go on when the journal says `running`, and not before."""
        with self._lock:
            job = self._open.get(started.job_id)
            if job is None or job.stage not in (Stage.ACCEPTING, Stage.WAITING):
                return
            if self._halting:
                self._put_back(job)
            elif self._too_late(job.run):
                self._expire(job)
            else:
                self._start(job, started)

    def _start(self, job: _Job, started: Started) -> None:
        job.stage = Stage.STARTING
        facts: tuple[Fact, ...] = ()
        if not job.run.quiet:
            facts = (self._speaker.started(job.run, self._clock.now(), job.received, job.accepted),)
        written = self._journal.write(changes.running(job.run, started.pgid, started.stamp), facts=facts)
        written.add_done_callback(lambda future: self._running(job, future))

    def _running(self, job: _Job, written: Future[None]) -> None:
        error = written.exception()
        with self._lock:
            if job.stage is not Stage.STARTING:
                return
            if error is None:
                job.stage = Stage.RUNNING
                self._pool.release(job.run.job)
            else:
                log.error("a job is not begun", action="job.held", job=job.run.job, error=str(error))
                self._put_back(job)

    def _put_back(self, job: _Job) -> None:
        """Not begun, and not ended: what the journal has is what the next start of the agent goes by."""
        self._pool.cancel(job.run.job)
        self._forget(job)

    def on_output(self, job_id: str, lines: tuple[Line, ...]) -> None:
        job = self._open.get(job_id)
        if job is not None and not job.run.quiet:
            self.lines.add(job_id, lines)

    def _say_lines(self, job: str, lines: tuple[Line, ...]) -> None:
        said = Printed(job=job, node=self._speaker.node, lines=lines)
        self._telemetry.say(self._speaker.event("telemetry.output", job, said, self._clock.now(), id=new_id()))

    def on_finished(self, finished: Finished) -> None:
        self.lines.end(finished.job_id)
        with self._lock:
            job = self._open.get(finished.job_id)
            if job is None or job.stage is Stage.ENDING:
                return
            job.stage = Stage.ENDING
        self._end(job, finished)

    # ends

    def _end(self, job: _Job, finished: Finished) -> Future[None]:
        job.stage = Stage.ENDING
        now = self._clock.now()
        facts = self._last_words(job, finished)
        written = self._journal.write(changes.done(job.run.job, job.run.start_by, now), facts=facts)
        written.add_done_callback(lambda future: self._ended(job, finished, future))
        return written

    def _last_words(self, job: _Job, finished: Finished) -> tuple[Fact, ...]:
        run, now = job.run, self._clock.now()
        if run.quiet and isinstance(finished.outcome, Succeeded):
            self._telemetry.say(self._speaker.quiet_run(run, finished, now, id=new_id()))
            return ()
        cause = job.stopped_by if isinstance(finished.outcome, Cancelled) else None
        began = None if finished.since is None else now - timedelta(seconds=finished.since)
        return (self._speaker.finished(run, finished, now, cause, began),)

    def _ended(self, job: _Job, finished: Finished, written: Future[None]) -> None:
        error = written.exception()
        if isinstance(error, BadEvent):
            # an end that cannot be said would leave the job open for ever
            self._end(job, Finished(job_id=job.run.job, outcome=Failed(str(error)), duration=finished.duration))
            return
        if error is not None:
            log.error("the end of a job is not written", action="job.unwritten", job=job.run.job, error=str(error))
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        with self._lock:
            self._open.pop(job.run.job, None)

    def _end_unseen(self, run: Run, outcome: Outcome) -> Future[None]:
        """The end of a job that does not come as far as being open."""
        now = self._clock.now()
        fact = self._speaker.finished(run, Finished(job_id=run.job, outcome=outcome), now)
        return self._journal.write(changes.done(run.job, run.start_by, now), facts=(fact,))
