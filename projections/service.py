"""What `fleetbus projections` runs: the runner and the two followers, each in its thread, each started again when it
failed.
"""

import threading
from collections.abc import Callable, Mapping

import structlog

from bus.backoff import Backoff
from bus.clock import Clock
from bus.errors import BusError, Closed
from bus.ports import Bus, StreamName
from bus.progress import Progress
from projections.admission_store import Unsettled
from projections.blobs import BlobFollower
from projections.generation import Dropped
from projections.metrics import Metrics
from projections.osis.documents import Documents
from projections.osis.errors import OsisError
from projections.osis.series import Series
from projections.registry import kept_for
from projections.retention import KEPT, Retention
from projections.runner import Runner
from projections.telemetry import TelemetryFollower
from projections.writer import Overtaken

#: Seconds of rest after the first failure, and at most; each failure doubles them.
FIRST_REST, LAST_REST = 0.2, 10.0
#: Seconds after which a part that runs is well again, and rests shortly after its next failure.
WELL_AFTER = 30.0
#: What is to be expected: something else is away or busy, and no fault of this code.
EXPECTED = (BusError, OsisError, Overtaken, Unsettled, Dropped)

#: The parts, each with the stream that it follows.
FOLLOWED: dict[str, StreamName] = {"projections": "log", "blobs": "blobs", "telemetry": "telemetry"}

#: Runs until the event is set.
Part = Callable[[threading.Event], None]

log = structlog.get_logger("projections.service")


def run_projections(
    bus: Bus,
    documents: Documents,
    series: Series,
    clock: Clock,
    stop: threading.Event,
    metrics: Metrics | None = None,
    places: Mapping[str, Progress] | None = None,
    retention: Retention = KEPT,
) -> None:
    """Keeps views, blobs and series up to date until `stop` is set; then returns when all parts have ended.

    No error ends it: what fails is started again, later and later, and goes on where it was. `series` must have been
    opened with `projections.telemetry.MEASUREMENTS`. `places`: where each part says how far it is (`places_of`).
    `retention` names all that can be set.
    """
    metrics, places = metrics or Metrics(), places or places_of(clock)
    parts: dict[str, Part] = {
        "projections": Runner(
            bus, documents, clock, metrics=metrics, projections=kept_for(retention), place=places["projections"]
        ).run,
        "blobs": BlobFollower(bus, documents, clock, metrics, places["blobs"], retention["blobs"]).run,
        "telemetry": TelemetryFollower(bus, documents, series, clock, metrics, places["telemetry"]).run,
    }
    threads = [
        threading.Thread(target=keep_running, args=(name, run, clock, stop, metrics, places[name]), name=name)
        for name, run in parts.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def places_of(clock: Clock) -> dict[str, Progress]:
    """One for each part of the service."""
    return {name: Progress(name, clock, stream) for name, stream in FOLLOWED.items()}


def keep_running(
    name: str, run: Part, clock: Clock, stop: threading.Event, metrics: Metrics, place: Progress | None = None
) -> None:
    """Calls `run` until `stop` is set, with a rest after each failure. Who rests does not stand still (`place`)."""
    backoff = Backoff(FIRST_REST, LAST_REST)
    while not stop.is_set():
        began, rest = clock.monotonic(), backoff.next()
        try:
            run(stop)
        except Closed:
            # the bus was closed on this side: there is nothing to go on with
            return
        except EXPECTED as error:
            log.warning("interrupted", action="service.retry", part=name, error=str(error), seconds=round(rest, 2))
            if place is not None:
                place.wait()
        except Exception:
            log.exception("failed", action="service.failed", part=name, seconds=round(rest, 2))
        else:
            continue
        if clock.monotonic() - began > WELL_AFTER:
            backoff.reset()
        metrics.restarts += 1
        stop.wait(rest)
