"""One process of the archiver, to be killed: `python -m tests.archiver_process FOLDER`. Its segments are short."""

import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from bus.archive.archiver import Archiver, Limits
from bus.archive.keys import PublicKey, ensure_key, load_public
from bus.clock import SystemClock
from bus.wiring import open_bus
from events.actors import ARCHIVER


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process of its own over the embedded bus of the folder; what it says goes to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.archiver_process", str(folder)], stdout=out, stderr=subprocess.STDOUT
        )


def public(folder: Path) -> PublicKey:
    return load_public(folder / "key" / "archive.pub")


def main(at: str) -> None:
    folder, stop = Path(at), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with closing(open_bus(f"sqlite://{folder}", ARCHIVER)) as bus:
        key, limits = ensure_key(folder / "key"), Limits(records=10)
        Archiver(bus, folder / "archive", key, SystemClock(), limits=limits).run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
