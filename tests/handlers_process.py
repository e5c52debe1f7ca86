"""One process of the handlers, to be killed and frozen: `python -m tests.handlers_process URL SNAPSHOT LEASE`.

It prints what it logs, and exits with 3 when it must end.
"""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from bus import embedded
from bus.clock import SystemClock
from bus.errors import BusError
from bus.wiring import open_bus
from events.actors import HANDLERS
from handlers.loop import run_handlers
from tests import leases


def start(url: str, snapshot: Path, log: Path, *, lease: float = leases.REAL) -> subprocess.Popen[bytes]:
    """A process of its own; what it says goes to `log`. `lease` in seconds, on the embedded bus."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.handlers_process", url, str(snapshot), str(lease)], stdout=out, stderr=out
        )


def main(url: str, snapshot: str, lease: str) -> int:
    embedded.LEASE = float(lease)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    bus = open_bus(url, HANDLERS)
    try:
        run_handlers(bus, SystemClock(), Path(snapshot), stop)
    except BusError as error:
        print(f"ended: {error}", flush=True)  # noqa: T201 (its log)
        return 3
    finally:
        bus.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
