"""The one thread that follows the log, through admission, from where the views are.

It begins at the views' checkpoint with the views' admission state, so a portal is ready in a moment on a long log.
When there is none, or the log is not the one that it was made from, it begins at offset 0.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple

import structlog

from bus.admission import AdmissionState, Admitted, Bad, Duplicate, Verdict, Void, admit
from bus.backoff import Backoff
from bus.checkpoint import Checkpoint, log_id, resume
from bus.clock import SystemClock
from bus.errors import BusError, Closed, LogDiverged
from bus.ports import Bus, Reader, Record
from bus.progress import Progress
from portal.feed import Entry
from portal.hub import Hub, LogState
from projections.osis.errors import OsisError

#: Records of one batch, and seconds that a read waits for the first.
BATCH = 500
READ_SECONDS = 0.5
#: Seconds before it begins again: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
#: Seconds that the loop may take for one batch before the follower gives up on it (the loop is gone).
HAND_OVER_SECONDS = 60.0
#: Gaps in what agents said: how many are shown, seconds between two looks, and seconds after which one is shown.
MAX_GAPS, GAPS_EVERY, GAP_AFTER = 100, 5.0, 60.0

log = structlog.get_logger("portal.follower")


class Begin(NamedTuple):
    """Where the views are, and what they know of the log up to there."""

    checkpoint: Checkpoint
    admission: AdmissionState


class Gaps:
    """What agents counted and did not say, as far as it stays so: what is on its way again closes its gap soon."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int, int], float] = {}
        self._looked = float("-inf")
        self._found: tuple[tuple[str, int, int], ...] = ()

    def look(self, admission: AdmissionState, now: float) -> tuple[tuple[str, int, int], ...]:
        """Gaps that are open for `GAP_AFTER` seconds; looks again every few seconds."""
        if now - self._looked >= GAPS_EVERY:
            self._looked = now
            self._since = {gap: self._since.get(gap, now) for gap in islice(admission.gaps(), MAX_GAPS)}
            self._found = tuple(gap for gap, since in self._since.items() if now - since >= GAP_AFTER)
        return self._found


class Follower:
    """Reads the log for one `Hub`. `load` gives the views' position, or None when there is none."""

    def __init__(self, bus: Bus, hub: Hub, load: Callable[[], Begin | None], progress: Progress | None = None) -> None:
        self._bus = bus
        self._progress = progress or Progress("portal", SystemClock())
        self._hub = hub
        self._load = load
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="portal-follower", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counts = {Bad: 0, Void: 0, Duplicate: 0}
        self._gaps = Gaps()
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; `join` waits for it."""
        self._stop.set()

    def join(self, seconds: float = 5.0) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Closed:
                return
            except (BusError, OsisError) as error:
                log.warning("the log cannot be followed", action="follow", error=str(error))
                self._progress.wait()
                self._stop.wait(self._backoff.next())
            except Exception as error:
                # without this thread nobody would hear of an outcome again
                if self._stop.is_set() or (self._loop and self._loop.is_closed()):
                    return
                log.exception("the follower failed", action="follow", error=str(error))
                self._stop.wait(self._backoff.next())

    def _follow(self) -> None:
        name, reader, admission = self._open()
        with reader:
            self._call(self._hub.begin, self._state(name, admission))
            self._progress.at(admission.next_offset)
            self._backoff.reset()
            while not self._stop.is_set():
                records = reader.read(BATCH, READ_SECONDS)
                if records:
                    entries = [entry for record in records if (entry := self._admit(admission, record))]
                    self._call(self._hub.take, entries, self._state(name, admission))
                    self._progress.at(admission.next_offset)

    def _open(self) -> tuple[str, Reader, AdmissionState]:
        """The log's id, a reader, and the admission state at its place."""
        first = self._first()
        begin = self._load()
        if begin is not None:
            try:
                return begin.checkpoint.log, resume(self._bus.stream("log"), begin.checkpoint), begin.admission
            except LogDiverged as error:
                log.warning("log diverged from the views", action="follow", error=str(error))
        return log_id(first), self._bus.stream("log").read_from("first"), AdmissionState()

    def _first(self) -> Record:
        while not self._stop.is_set():
            first = self._bus.stream("log").first()
            if first is not None:
                return first
            self._stop.wait(READ_SECONDS)
        raise Closed("the follower stops")

    def _admit(self, admission: AdmissionState, record: Record) -> Entry | None:
        verdict: Verdict = admit(admission, record)
        if isinstance(verdict, Admitted):
            return Entry(record.offset, record.next_offset, verdict.event, len(record.body))
        self._counts[type(verdict)] += 1
        return None

    def _state(self, name: str, admission: AdmissionState) -> LogState:
        return LogState(
            log=name,
            next_offset=admission.next_offset,
            holder=admission.holder,
            token=admission.token,
            log_time=admission.log_time,
            bad=self._counts[Bad],
            void=self._counts[Void],
            duplicate=self._counts[Duplicate],
            gaps=self._gaps.look(admission, time.monotonic()),
        )

    def _call(self, call: Callable[..., None], *args: object) -> None:
        """Runs it in the loop and waits for it, so that batches never pile up there."""
        if self._loop is None:
            raise RuntimeError("the follower was not started")
        done: Future[None] = Future()

        def run() -> None:
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001  # handed on to the follower's thread
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(HAND_OVER_SECONDS)
