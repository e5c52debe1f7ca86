"""The runner: one thread that keeps the live views up to date with the log.

Boot (the live generation, from its checkpoint) → follow (batch by batch, until the alias `live` means another
generation) → boot again. When there is no live generation, when it was made by other versions of the projections, or
when the log is not the one that it was made from, it is rebuilt from the start of the log beside the live one, and the
two are swapped when the new one has caught up.

Two rules keep several processes out of each other's way. Writers of one generation cannot hurt it (`writer`), so
nobody needs a lock. And only a process that starts may rebuild because of versions: one that sees, while it runs, that
live views were made by other code stands aside, so that old and new code never take turns at rebuilding.

Any error ends `run`; called again, it goes on from the last checkpoint, also in the middle of a rebuild.
"""

import threading
from collections.abc import Iterable
from contextlib import closing

import structlog
from msgspec import Struct
from msgspec.structs import replace

from bus.checkpoint import log_id, resume
from bus.clock import Clock
from bus.errors import LogDiverged
from bus.ports import Bus, Reader, Record
from bus.progress import Progress as Place
from projections import generation
from projections.admission_store import read_checkpoint
from projections.catchup import CatchUp, Progress
from projections.health import Doing, Health, read_health, runner_name, write_health
from projections.metrics import Metrics
from projections.osis.documents import Documents
from projections.projection import AnyProjection
from projections.registry import PROJECTIONS, versions
from projections.writer import Writer

#: Records of one batch of live views, and seconds that a read waits for the first.
BATCH, READ = 2_000, 0.5
#: Seconds between two looks at which generation is live.
LOOK_EVERY = 1.0
#: Seconds between two words about its health.
SPEAK_EVERY = 5.0
#: Seconds between two looks whether the log still holds the record that the views are at.
VERIFY_EVERY = 15.0
#: Seconds between two looks for generations that nobody needs.
SWEEP_EVERY = 60.0

log = structlog.get_logger("projections.runner")


class Opened(Struct):
    """A generation that can be written to, and a reader behind its checkpoint."""

    writer: Writer
    reader: Reader
    log_id: str


class Runner:
    """Follows the log into the live views. One thread calls `run`."""

    def __init__(
        self,
        bus: Bus,
        documents: Documents,
        clock: Clock,
        *,
        metrics: Metrics | None = None,
        projections: Iterable[AnyProjection] = PROJECTIONS,
        place: Place | None = None,
    ) -> None:
        self._stream = bus.stream("log")
        self._documents = documents
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._place = place or Place("projections", clock)
        self._projections = tuple(projections)
        self._versions = versions(self._projections)
        #: The generation that is being rebuilt, across errors.
        self._target: str | None = None
        #: While running, views of other versions are another process' and none of ours to rebuild.
        self._started = False
        self._health = Health(doing="starting", at=clock.now(), since=clock.now(), runner=runner_name())
        self._look = _Every(LOOK_EVERY, clock)
        self._verify = _Every(VERIFY_EVERY, clock)
        self._sweep = _Every(SWEEP_EVERY, clock)
        #: When, and at which offset, it last said how it is.
        self._spoke, self._spoke_offset = clock.monotonic(), 0

    def run(self, stop: threading.Event) -> None:
        """Returns when `stop` is set. Raises the errors of bus and storage, and `Overtaken`; call it again then."""
        self._remember_divergence()
        self._speak("starting")
        while not stop.is_set():
            if not self._may_write(stop):
                continue
            opened = self._open(stop)
            if opened is None:
                continue
            with closing(opened.reader):
                if self._target is None or self._rebuild(opened, stop):
                    self._started = True
                    self._follow(opened, stop)
        self._speak("stopped")

    # boot

    def _remember_divergence(self) -> None:
        """What an earlier process found out stays known."""
        before = read_health(self._documents)
        if before is not None and not self._health.last_diverged:
            self._health = replace(
                self._health, last_diverged=before.last_diverged, last_diverged_at=before.last_diverged_at
            )

    def _may_write(self, stop: threading.Event) -> bool:
        """False after a pause, while live views were made by other code than this, since this process started."""
        if not self._started or self._target is not None:
            return True
        name = generation.live(self._documents)
        saved = None if name is None else read_checkpoint(self._documents.namespace(name))
        if saved is None or saved.views == self._versions:
            return True
        why = (
            f"the live views were made by other code ({_difference(saved.views, self._versions)}); restart this process"
        )
        if self._health.doing != "standing aside":
            log.warning("standing aside", action="runner.aside", why=why)
        self._speak("standing aside", why)
        self._place.wait()
        stop.wait(LOOK_EVERY)
        return False

    def _open(self, stop: threading.Event) -> Opened | None:
        """What is to be written to next: the rebuild that was begun, or the live generation, or a new rebuild."""
        first = self._stream.first()
        if first is None:
            self._speak("starting", "the log is empty")
            stop.wait(READ)
            return None
        name = self._target or generation.live(self._documents)
        found = "there are no views yet" if name is None else self._resume(name, first)
        return self._begin(found, log_id(first)) if isinstance(found, str) else found

    def _resume(self, name: str, first: Record) -> Opened | str | None:
        """The generation behind its checkpoint; or why it must be rebuilt; None when this process may not."""
        writer = self._writer(name)
        saved = writer.load()
        if not generation.exists(writer.namespace) or (saved is None and self._target is None):
            return f"{name} was dropped"
        if saved is None:
            return Opened(writer, self._stream.read_from("first"), log_id(first))
        if saved.views != self._versions:
            if self._started:
                # swapped a moment ago by other code: look again
                return None
            return f"the projections changed: {_difference(saved.views, self._versions)}"
        try:
            return Opened(writer, resume(self._stream, saved.checkpoint), saved.checkpoint.log)
        except LogDiverged as error:
            return self._diverged(error)

    def _diverged(self, error: LogDiverged) -> str:
        log.error("log diverged", action="runner.diverged", error=str(error), remedy="the views are rebuilt")
        self._metrics.diverged += 1
        why, now = str(error), self._clock.now()
        self._health = replace(self._health, diverged=why, last_diverged=why, last_diverged_at=now)
        return f"log diverged: {why}"

    def _begin(self, why: str, log_id: str) -> Opened:
        self._metrics.rebuilds += 1
        self._target = generation.begin(self._documents, self._clock.now(), why).name
        self._speak("rebuilding", why)
        writer = self._writer(self._target)
        writer.begin()
        writer.declare(indexes=False)
        return Opened(writer, self._stream.read_from("first"), log_id)

    def _writer(self, name: str) -> Writer:
        return Writer(self._documents.namespace(name), self._projections, self._clock, self._metrics)

    # rebuild

    def _rebuild(self, opened: Opened, stop: threading.Event) -> bool:
        """Brings the new generation to the end of the log and makes it live. False when `stop` came first."""
        why = self._health.why

        def heed(progress: Progress) -> bool:
            self._place.at(progress.next_offset)
            self._report("rebuilding", why, opened, progress.end)
            return not stop.is_set()

        catch_up = CatchUp(self._stream, opened.reader, opened.writer, opened.log_id, self._clock)
        if not catch_up.run(heed):
            return False
        with self._place.busy():
            opened.writer.declare(indexes=True)
        if not catch_up.run(heed):
            return False
        self._swap(opened.writer.namespace.name)
        log.info("views rebuilt", action="runner.rebuilt", records=catch_up.records, why=why)
        return True

    def _swap(self, name: str) -> None:
        try:
            generation.swap(self._documents, name)
        finally:
            # also when it was dropped while this process slept: then a new one is begun
            self._target = None
        self._health = replace(self._health, diverged="")

    # follow

    def _follow(self, opened: Opened, stop: threading.Event) -> None:
        """Returns when `stop` is set, another generation is live, or the log has to be looked at anew."""
        with self._place.busy():
            opened.writer.declare(indexes=True)
        self._place.at(opened.writer.state.next_offset)
        self._report("following", "", opened, opened.writer.state.next_offset, at_once=True)
        while not stop.is_set():
            records = opened.reader.read(BATCH, READ)
            if records:
                opened.writer.write(records, opened.log_id)
                self._place.at(opened.writer.state.next_offset)
            if self._look.is_due() and not self._is_current(opened):
                return

    def _is_current(self, opened: Opened) -> bool:
        """Whether to go on like this: the generation is live, and the log still holds the record it is at."""
        if generation.live(self._documents) != opened.writer.namespace.name:
            log.info("other views are live now", action="runner.moved", before=opened.writer.namespace.name)
            return False
        if self._sweep.is_due():
            generation.sweep(self._documents, self._clock.now())
        if self._verify.is_due() and not self._is_same_log(opened.writer):
            return False
        if self._clock.monotonic() - self._spoke >= SPEAK_EVERY:
            self._report("following", "", opened, self._stream.next_offset())
        return True

    def _is_same_log(self, writer: Writer) -> bool:
        if writer.checkpoint is None:
            return True
        try:
            resume(self._stream, writer.checkpoint).close()
        except LogDiverged:
            # found again, and dealt with, where the generation is opened
            return False
        return True

    # what it says of itself

    def _report(self, doing: Doing, why: str, opened: Opened, end: int, *, at_once: bool = False) -> None:
        seconds = self._clock.monotonic() - self._spoke
        if not at_once and seconds < SPEAK_EVERY:
            return
        position = opened.writer.state.next_offset
        rate = max(0, position - self._spoke_offset) / seconds if seconds > 0 else 0.0
        self._spoke_offset = position
        name = opened.writer.namespace.name
        self._metrics.lag = max(0, end - position)
        self._health = replace(self._health, generation=name, next_offset=position, end=end, rate=round(rate, 1))
        self._speak(doing, why)

    def _speak(self, doing: Doing, why: str = "") -> None:
        now = self._clock.now()
        since = self._health.since if doing == self._health.doing else now
        self._health = replace(self._health, doing=doing, why=why, at=now, since=since)
        self._spoke = self._clock.monotonic()
        write_health(self._documents, self._health)


class _Every:
    """True once in so many seconds."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = clock.monotonic()

    def is_due(self) -> bool:
        now = self._clock.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def _difference(made_by: dict[str, int], here: dict[str, int]) -> str:
    """`jobs 1, here 2; nodes 1, here none`."""
    names = sorted(name for name in made_by | here if made_by.get(name) != here.get(name))
    return "; ".join(f"{name} {made_by.get(name, 'none')}, here {here.get(name, 'none')}" for name in names)
