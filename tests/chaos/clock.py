"""The clock of a node: libfaketime (Debian's package `faketime`) moves it while the process runs, by a file.

The wall clock is moved, the monotonic one is not, as on a machine whose time is set. Without the library nothing is
moved, and the faults that need it are left out.
"""

from pathlib import Path

#: Where Debian puts it, by architecture.
LIBRARIES = tuple(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")))


def available() -> bool:
    return bool(LIBRARIES)


def environment(file: Path) -> dict[str, str]:
    """For a process whose clock follows `file`; it goes by the machine's clock at first."""
    set_skew(file, 0.0)
    if not available():
        return {}
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "0",
    }


def set_skew(file: Path, seconds: float) -> None:
    """From now on (within a second) the process is so many seconds ahead."""
    new = file.with_suffix(".new")
    new.write_text(f"{seconds:+.0f}\n")
    new.rename(file)
