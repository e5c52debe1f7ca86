"""How a job ended. An outcome is a value; the agent turns it into a fact."""

from typing import Any

import msgspec
from msgspec import Struct

#: The longest error and traceback, in characters; what is longer loses its middle.
MAX_ERROR = 20_000
MAX_TRACEBACK = 200_000


class Succeeded(Struct, frozen=True, tag="succeeded"):
    """`action` returned. `result` is what it returned, as JSON in UTF-8."""

    result: bytes

    @property
    def size(self) -> int:
        """The size of the result, in bytes of JSON."""
        return len(self.result)

    @property
    def value(self) -> Any:
        """The result, decoded."""
        return msgspec.json.decode(self.result)


class Failed(Struct, frozen=True, tag="failed"):
    """`action` raised, could not be called, returned what JSON cannot say, or its process or its worker died.

    `error` is one sentence. `traceback` shows the script's own frames, and is empty where there are none.
    """

    error: str
    traceback: str = ""


class TimedOut(Struct, frozen=True, tag="timed_out"):
    """The job ran into its limit, `limit` seconds. `traceback` shows where it was then."""

    limit: float
    traceback: str = ""

    @property
    def error(self) -> str:
        return f"the job was stopped: it ran longer than {self.limit:g} s"


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """The job was ended on request. `traceback` shows where it was then; empty when it had not begun."""

    traceback: str = ""

    @property
    def error(self) -> str:
        return "the job was cancelled"


Outcome = Succeeded | Failed | TimedOut | Cancelled


def shortened(text: str, limit: int) -> str:
    """`text`, or its beginning and its end with a note between them, in at most `limit` characters."""
    if len(text) <= limit:
        return text
    note = f"\n… {len(text) - limit:,} characters left out …\n"
    half = (limit - len(note)) // 2
    return text[:half] + note + text[-half:]
