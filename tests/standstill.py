"""The handlers with little patience and a snapshot after each turn: `python -m tests.standstill FOLDER`."""

import sys
import threading
from pathlib import Path

from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.progress import Progress, Watch
from events.actors import HANDLERS
from fleetbus import logs
from fleetbus.service import end_stalled
from handlers import loop


def main(folder: Path) -> None:
    logs.set_up("handlers", "json")
    loop.SNAPSHOT_SECONDS = 0.0
    clock = SystemClock()
    place = Progress("handlers", clock)
    bus = EmbeddedBus(folder / "bus", HANDLERS)
    with Watch(bus, [place], clock, end_stalled, every=0.2, patience=1.0):
        loop.run_handlers(bus, clock, folder / "handlers.snapshot", threading.Event(), place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
