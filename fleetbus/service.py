"""The life of one service process: logs, signals, and how it ends.

0  stopped when told to
2  a setting is wrong: starting again changes nothing
3  the bus or a storage is gone, or the seat is lost: a supervisor starts it again
4  connected, but a consumer stood still: a supervisor starts it again
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import structlog

from bus.errors import BadUrl, BusError
from fleetbus import logs
from fleetbus.errors import NOT_REACHED, STALLED, Failure, Wrong
from fleetbus.settings import Settings, from_environment, likely_typos, masked
from nodeagent.processes import die_with_parent
from projections.osis.errors import BadUrl as BadStorageUrl
from projections.osis.errors import OsisError

#: The process that a service belongs to: it ends with it. Set by `fleetbus up`.
PARENT = "FLEETBUS_PARENT"
#: Seconds that a service has for its end; then it is over in any case.
STOP_WITHIN = 60.0

log = structlog.get_logger("fleetbus.service")


def serve(name: str, run: Callable[[Settings, threading.Event], int | None]) -> NoReturn:
    """Runs a service until SIGTERM or SIGINT sets `stop`, and ends the process with its code."""
    if parent := os.environ.get(PARENT):
        die_with_parent(int(parent))
    settings = from_environment()
    logs.set_up(name, settings.log)
    for wrong, right in likely_typos().items():
        log.warning("no such setting", action="settings.unknown", name=wrong, did_you_mean=right)
    stop = threading.Event()
    _stop_on_signals(stop)
    sys.exit(_run(name, run, settings, stop))


def _run(
    name: str, run: Callable[[Settings, threading.Event], int | None], settings: Settings, stop: threading.Event
) -> int:
    try:
        code = run(settings, stop) or 0
    except (BadUrl, BadStorageUrl) as error:
        raise Wrong(masked(str(error))) from None
    except (BusError, OsisError, OSError) as error:
        if stop.is_set():
            log.info("ended while it was stopping", action="service.stopped", error=str(error))
            return 0
        log.error(str(error), action="service.ended", error=type(error).__name__)
        return NOT_REACHED
    except Failure:
        raise
    except Exception:
        log.exception("the service broke down", action="service.broken")
        return NOT_REACHED
    log.info("stopped", action="service.stopped", code=code)
    return code


def end_stalled(why: str) -> NoReturn:
    """Ends the process at once: a consumer that stands still would not hear that it is to stop either."""
    log.error(why, action="service.stalled", remedy="it is to be started again; it goes on where it was")
    logging.shutdown()
    sys.stderr.flush()
    os._exit(STALLED)


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            _end_in_any_case()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _end_in_any_case() -> None:
    """A service that does not come to its end is ended: everything it knows is on the bus or in its files."""
    timer = threading.Timer(STOP_WITHIN, os._exit, args=(NOT_REACHED,))
    timer.daemon = True
    timer.start()
