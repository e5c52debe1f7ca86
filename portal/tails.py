"""The output of running jobs: from telemetry into Live, so that every portal can show it line by line. The one thread
that follows telemetry also hears how far the fleet's consumers are.

Lines may be lost on the way, as all telemetry may; the whole output is a blob when the job has ended.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

import msgspec
import structlog

from bus.admission import check
from bus.backoff import Backoff
from bus.clock import Clock, SystemClock
from bus.errors import BusError, Closed
from bus.ports import Bus, Record
from bus.progress import Progress
from events.codec import BadEvent
from events.telemetry import Line, Output
from portal import consumers
from portal.consumers import Consumers
from projections.osis.errors import OsisError
from projections.osis.live import Live

KEY = "telemetry.output."
BATCH = 500
READ_SECONDS = 0.5
#: Seconds before it begins again: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
#: How far back a portal that starts reads, for jobs that were running before.
LOOK_BACK = timedelta(minutes=10)

log = structlog.get_logger("portal.tails")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Line])


def tail_name(job: str) -> str:
    """The tail, and the channel, of a job's lines in Live."""
    return f"output/{job}"


def read_lines(data: bytes) -> list[Line]:
    """What was published on a job's channel."""
    return _decoder.decode(data)


def kept_line(n: int, kept: str) -> Line:
    """A line as its tail keeps it: the stream's letter, then the text."""
    return Line(n=n, stream=kept[:1] or "o", text=kept[1:])


class Tails:
    """One thread that follows telemetry."""

    def __init__(
        self,
        bus: Bus,
        live: Live,
        clock: Clock | None = None,
        consumers: Consumers | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._bus = bus
        self._live = live
        self._clock = clock or SystemClock()
        self._consumers = consumers or Consumers(self._clock)
        self._progress = progress or Progress("tails", self._clock, "telemetry")
        self._stop = threading.Event()
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._thread = threading.Thread(target=self._run, name="portal-tails", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; `join` waits for it."""
        self._stop.set()

    def join(self, seconds: float = 5.0) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        start = None
        while not self._stop.is_set():
            try:
                telemetry = self._bus.stream("telemetry")
                start = telemetry.offset_at(self._clock.now() - LOOK_BACK) if start is None else start
                self._progress.at(start)
                self._backoff.reset()
                with telemetry.read_from(start) as reader:
                    while not self._stop.is_set():
                        records = reader.read(BATCH, READ_SECONDS)
                        self._pass_on(records)
                        start = records[-1].next_offset if records else start
                        self._progress.at(start)
            except Closed:
                return
            except Exception as error:
                if not isinstance(error, BusError):
                    log.exception("the follower of telemetry failed", action="follow")
                log.warning("telemetry cannot be followed", action="follow", error=str(error))
                self._progress.wait()
                self._stop.wait(self._backoff.next())

    def _pass_on(self, records: Iterable[Record]) -> None:
        lines: defaultdict[str, list[Line]] = defaultdict(list)
        for record in records:
            if record.key.startswith(KEY) and (output := _output(record)) is not None:
                lines[output.job].extend(output.lines)
            elif record.key == consumers.KEY:
                self._consumers.hear(record)
        for job, new in lines.items():
            self._keep(job, new)

    def _keep(self, job: str, lines: list[Line]) -> None:
        try:
            self._live.extend(tail_name(job), [(line.n, line.stream + line.text) for line in lines])
            self._live.publish(tail_name(job), _encoder.encode(lines))
        except OsisError as error:
            log.warning("lines of output are lost", action="keep", job=job, lines=len(lines), error=str(error))


def _output(record: Record) -> Output | None:
    """The lines in a record, if it is from whom it says."""
    try:
        data = check(record).data
    except BadEvent:
        return None
    return data if isinstance(data, Output) else None
