"""Tracebacks that show the script's frames and those below them, never the frames of fleetbus above."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_DUMPED_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_OURS = str(Path(__file__).parent) + "/"
_HEADING = "Traceback (most recent call last):\n"


def of_exception(error: BaseException, filename: str) -> str:
    """The traceback of `error` and of what it followed from, as the script's author knows it. Empty without frames."""
    _trim(error, filename, set())
    if error.__traceback__ is None and not isinstance(error, SyntaxError):
        return ""
    return "".join(traceback.format_exception(error))


def of_dump(dump: str, filename: str, lines: Sequence[str]) -> str:
    """The same from what `faulthandler` wrote, most recent call first; `lines` are those of the script."""
    frames: list[tuple[str, int, str]] = []
    for row in dump.partition("(most recent call first):\n")[2].splitlines():
        found = _DUMPED_FRAME.match(row)
        if not found:
            break
        frames.append((found["file"], int(found["line"]), found["function"]))
    own = [index for index, frame in enumerate(frames) if frame[0] == filename]
    if not own:
        return ""
    return _HEADING + "".join(_frame(frame, filename, lines) for frame in reversed(frames[: own[-1] + 1]))


def _frame(frame: tuple[str, int, str], filename: str, lines: Sequence[str]) -> str:
    file, line, function = frame
    text = f'  File "{file}", line {line}, in {function}\n'
    if file == filename and 0 < line <= len(lines):
        text += f"    {lines[line - 1].strip()}\n"
    return text


def _trim(error: BaseException | None, filename: str, seen: set[int]) -> None:
    """Cut the frames above the script's first off `error` and off every exception that is shown with it."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _from_script(error.__traceback__, filename)
    _trim(error.__cause__, filename, seen)
    _trim(error.__context__, filename, seen)
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        _trim(inner, filename, seen)


def _from_script(trace: TracebackType | None, filename: str) -> TracebackType | None:
    """From the script's first frame on. Without one, it is a library's own trace, unless it came up to our frames."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    if filename in files:
        for _ in range(files.index(filename)):
            trace = trace.tb_next if trace else None
        return trace
    return None if any(file.startswith(_OURS) for file in files) else trace
