"""Child processes that are kept running: started, started again when they end, and stopped in order.

                 start           ended
    stopped ───────────▶ runs ─────────▶ pauses      (ended with 2: gave up, a setting is wrong)
                          ▲                │
                          └───── again ────┘

One thread uses it, the one that lives as long as the process: children die with the thread that made them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fleetbus.errors import WRONG
from fleetbus.service import PARENT

State = Literal["stopped", "runs", "pauses", "gave up"]

#: Seconds before a child is started again: at first, and at most. It doubles with each end that follows soon.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
#: A child that ran for so many seconds begins with the first pause again.
GOOD_AFTER = 30.0
#: Seconds between being told to stop and being killed.
STOP_WITHIN = 20.0
#: Bytes of a log file, after which the lines before go to `NAME.log.1`.
MAX_LOG = 10_000_000


class _Said(msgspec.Struct):
    """A line of a log."""

    event: str


class Child:
    """One process of `fleetbus`, and its log file."""

    def __init__(self, name: str, args: Sequence[str], environ: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.state: State = "stopped"
        #: How often it ended by itself, the last code, and why in its own words.
        self.restarts = 0
        self.code: int | None = None
        self.started_at = 0.0
        self.log = logs / f"{name}.log"
        self._args = [sys.executable, "-m", "fleetbus", *args]
        self._environ = {**environ, PARENT: str(os.getpid()), "FLEETBUS_LOG": "json"}
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0
        self._pause = FIRST_PAUSE

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.state == "runs" else None

    def start(self) -> None:
        self._keep_log_small()
        with self.log.open("ab") as log:
            # a session of its own: Ctrl-C is for the parent, which stops its children in order
            self._process = subprocess.Popen(
                self._args,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.state, self.started_at = "runs", time.monotonic()

    def look(self) -> bool:
        """Starts it again if it is time to. True when something changed."""
        now = time.monotonic()
        if self.state == "runs" and self._process is not None and (code := self._process.poll()) is not None:
            self._ended(code, now)
            return True
        if self.state == "pauses" and now >= self._again_at:
            self.start()
            return True
        if self.state == "runs":
            self._keep_log_small()
        return False

    def _ended(self, code: int, now: float) -> None:
        self.code = code
        self.restarts += 1
        self._pause = FIRST_PAUSE if now - self.started_at > GOOD_AFTER else min(2 * self._pause, LONGEST_PAUSE)
        self._again_at = now + self._pause
        self.state = "gave up" if code == WRONG else "pauses"

    def stop(self) -> None:
        """Tells it to end, waits, and kills it when it does not."""
        if self._process is None or self._process.poll() is not None:
            self.state = "stopped"
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.state = "stopped"

    def last_words(self) -> str:
        """Why it ended, in its own words: what it logged last, or the error that it printed."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(line, type=_Said).event
        return ""

    def _keep_log_small(self) -> None:
        """Copies the log away and empties it. The child appends, so it goes on at the new beginning."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > MAX_LOG:
                self.log.with_suffix(".log.1").write_bytes(self.log.read_bytes())
                os.truncate(self.log, 0)


class Supervisor:
    """Children by name, in the order in which they are stopped."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}

    def add(self, child: Child) -> None:
        self.children[child.name] = child
        child.start()

    def look(self) -> list[Child]:
        """Keeps all of them running; returns those with which something happened."""
        return [child for child in self.children.values() if child.look()]

    def stop(self, order: Sequence[str]) -> None:
        for name in order:
            if name in self.children:
                self.children[name].stop()
