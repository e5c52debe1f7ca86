"""The clock of a node, moved while its process runs: `python -m tests.chaos.clock FILE SERVICE…` instead of `fleetbus`.

Agents and handlers ask the time of one place, `bus.clock.SystemClock`, which is handed to all of their parts; here it
adds what the file says. The monotonic clock is not moved, as on a machine whose time is set. libfaketime was tried
first: under it `time.sleep` of Python 3.11 fails now and then with EINVAL, which is no fault of what is tested.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bus.clock import SystemClock


def set_skew(file: Path, seconds: float) -> None:
    """From now on the process is so many seconds ahead."""
    new = file.with_suffix(".new")
    new.write_text(f"{seconds}")
    new.rename(file)


def main(file: Path) -> None:
    from fleetbus.cli import main

    def now(self: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(file.read_text()))

    setattr(SystemClock, "now", now)  # noqa: B010  # plainly: a method is put in the place of another
    main()


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    main(path)
