"""The last lines of a log."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

descr = "The last lines of a log file, or of the systemd journal, that match a pattern."
organization = "fleetbus"
category = "inspection"
queue = "io"
timeout = 120
params = {
    "path": {"descr": "absolute path of a regular file, or the word journal"},
    "lines": {"descr": "at most so many lines, up to 10,000"},
    "pattern": {"descr": "a regular expression of Python; only lines in which it is found"},
    "unit": {"descr": "of the journal, only this unit"},
}

#: A file is read from its end, at most this many bytes of it.
MAX_BYTES = 50_000_000
BLOCK = 1_000_000
MAX_LINES = 10_000


def action(path: str, lines: int = 100, pattern: str = "", unit: str = "") -> dict[str, Any]:
    if not 0 < lines <= MAX_LINES:
        raise ValueError(f"lines must be from 1 to {MAX_LINES}")
    wanted = re.compile(pattern)
    found = from_journal(lines, wanted, unit) if path == "journal" else from_file(path, lines, wanted)
    return {"path": path, "lines": found}


def from_file(path: str, lines: int, wanted: re.Pattern[str]) -> list[str]:
    if not Path(path).is_absolute():
        raise ValueError("path must be absolute, as in /var/log/syslog")
    # not blocking: to open a pipe would wait for its writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
        return last_lines(file, lines, wanted)


def last_lines(file: BinaryIO, lines: int, wanted: re.Pattern[str]) -> list[str]:
    """Read backwards, block by block, until there are enough."""
    found: list[str] = []
    position = end = file.seek(0, os.SEEK_END)
    rest = b""
    while position and len(found) < lines and end - position < MAX_BYTES:
        step = min(BLOCK, position)
        file.seek(position - step)
        block = file.read(step)
        # behind the last line end there is no further line
        rest, *complete = ((block.removesuffix(b"\n") if position == end else block) + rest).split(b"\n")
        found[:0] = matching(complete, wanted)
        position -= step
    if end and not position:
        found[:0] = matching([rest], wanted)
    return found[-lines:]


def matching(raw: list[bytes], wanted: re.Pattern[str]) -> list[str]:
    texts = (line.decode(errors="replace") for line in raw)
    return [text for text in texts if wanted.search(text)]


def from_journal(lines: int, wanted: re.Pattern[str], unit: str) -> list[str]:
    if not shutil.which("journalctl"):
        raise RuntimeError("this node has no systemd journal: there is no program journalctl")
    scope = [f"--unit={unit}"] if unit else []
    # with a pattern, more is read than is asked for
    count = MAX_LINES * 10 if wanted.pattern else lines
    command = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={count}", *scope]
    answer = subprocess.run(command, capture_output=True, timeout=100, check=False)
    if answer.returncode:
        raise RuntimeError(f"journalctl: {answer.stderr.decode(errors='replace').strip()}")
    return matching(answer.stdout.removesuffix(b"\n").split(b"\n"), wanted)[-lines:]
