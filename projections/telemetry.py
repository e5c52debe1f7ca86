"""The follower of telemetry: measurements of nodes go into the series `node`.

These series are no views of the log: a rebuild leaves them alone. A point is identified by its node and time, so
reading a stretch of telemetry again changes nothing.
"""

import dataclasses
import re
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import structlog

from bus.admission import check
from bus.clock import Clock
from bus.ports import Bus, Record
from bus.progress import Progress
from events.codec import BadEvent
from events.envelope import Event
from events.telemetry import Stats
from projections import retention as usual
from projections.metrics import Metrics
from projections.osis.documents import Documents
from projections.osis.errors import BadPoint
from projections.osis.series import Measurement, Point, Series
from projections.position import Position, current_log, load_position, save_position
from projections.retention import Retention

NODE = Measurement("node", tags=("node",), keep=usual.SERIES)
#: What the series of the service are opened with.
MEASUREMENTS = (NODE,)


def measurements(retention: Retention) -> tuple[Measurement, ...]:
    """The same, kept as long as `retention` says of `series`."""
    return (dataclasses.replace(NODE, keep=retention.get("series") or NODE.keep),)


STATS = "telemetry.stats"
#: Values of one event that are taken; the names of fields live for ever in some storages.
MAX_FIELDS = 200
#: A clock of a node may be ahead of ours by so much; a point from further in the future would outlive all others.
MAX_AHEAD = timedelta(minutes=10)
#: Records of one batch, and seconds that a read waits for the first.
BATCH, READ = 1_000, 0.5
#: Seconds between two positions written.
SAVE_EVERY = 2.0

_FIELD = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = structlog.get_logger("projections.telemetry")


class TelemetryFollower:
    """One thread calls `run`."""

    def __init__(
        self,
        bus: Bus,
        documents: Documents,
        series: Series,
        clock: Clock,
        metrics: Metrics | None = None,
        place: Progress | None = None,
    ) -> None:
        self._bus = bus
        self._documents = documents
        self._series = series
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._place = place or Progress("telemetry", clock, "telemetry")

    def run(self, stop: threading.Event) -> None:
        """Returns when `stop` is set. Raises the errors of bus and storage; call it again then, nothing is lost."""
        log_id = current_log(self._bus)
        saved = start = load_position(self._bus, self._documents, "telemetry")
        saved_at = self._clock.monotonic()
        self._place.at(start)
        with self._bus.stream("telemetry").read_from(start) as reader:
            while True:
                records = reader.read(BATCH, READ)
                if records:
                    self._write(records)
                    start = records[-1].next_offset
                    self._place.at(start)
                stopping = stop.is_set()
                if start > saved and (stopping or self._clock.monotonic() - saved_at >= SAVE_EVERY):
                    position = Position(log=log_id, next_offset=start, written_at=self._clock.now())
                    save_position(self._documents, "telemetry", position)
                    saved, saved_at = start, self._clock.monotonic()
                if stopping:
                    return

    def _write(self, records: Iterable[Record]) -> None:
        latest = self._clock.now() + MAX_AHEAD
        points = [point for record in records if (point := self._point(record, latest)) is not None]
        try:
            too_old = self._series.write(points) if points else 0
        except BadPoint as error:
            # all others were written
            log.warning("a measurement was left out", action="telemetry.bad_point", error=str(error))
            too_old = 1
        self._metrics.points += len(points) - too_old
        self._metrics.points_dropped += too_old

    def _point(self, record: Record, latest: datetime) -> Point | None:
        """The point in a record; None when it has none, or is not from whom it says."""
        if not record.key.startswith(STATS):
            return None
        try:
            event = check(record)
        except BadEvent as error:
            log.warning("bad telemetry", action="telemetry.bad", user=record.user, error=str(error)[:500])
            event = None
        point = None if event is None or not isinstance(event.data, Stats) else point_of(event, event.data, latest)
        self._metrics.points_dropped += point is None
        return point


def point_of(event: Event, stats: Stats, latest: datetime) -> Point | None:
    """The measurements of a node at one moment; None when the moment is out of bounds or no name can be used."""
    names = sorted(name for name in stats.values if _FIELD.fullmatch(name))[:MAX_FIELDS]
    if not names or not _EPOCH <= event.time <= latest:
        return None
    time = (event.time - _EPOCH) // timedelta(microseconds=1) * 1_000
    return Point("node", {"node": stats.node}, {name: stats.values[name] for name in names}, time=time)
