"""Lines of running jobs on their way to whoever looks on: a few at a time, soon."""

import threading
from collections.abc import Callable, Iterable, Iterator

from events.telemetry import Line

#: Lines and characters in one message, and seconds that a line waits for company.
MAX_LINES = 100
MAX_CHARACTERS = 64_000
FLUSH_EVERY = 0.05

Say = Callable[[str, tuple[Line, ...]], object]


class LiveLines:
    """`say(job, lines)` is called with the lines of one job, in order; from the thread of `add` or from its own."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Line]] = {}
        self._some = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="livelines", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._some.set()
        self._thread.join()

    def add(self, job: str, lines: Iterable[Line]) -> None:
        with self._lock:
            *full, rest = packs([*self._waiting.pop(job, ()), *lines])
            for pack in full:
                self._say(job, pack)
            if rest:
                self._waiting[job] = list(rest)
                self._some.set()

    def end(self, job: str) -> None:
        """Nothing more comes from this job: what waits goes now."""
        with self._lock:
            if lines := self._waiting.pop(job, ()):
                self._say(job, tuple(lines))

    def _loop(self) -> None:
        pause = threading.Event()
        while not self._stopping:
            self._some.wait()
            self._some.clear()
            pause.wait(FLUSH_EVERY)
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            for job, lines in self._waiting.items():
                self._say(job, tuple(lines))
            self._waiting.clear()


def packs(lines: Iterable[Line]) -> Iterator[tuple[Line, ...]]:
    """The lines in packs that are full, and a last one that is not (perhaps empty)."""
    pack: list[Line] = []
    characters = 0
    for line in lines:
        if len(pack) == MAX_LINES or (pack and characters + len(line.text) > MAX_CHARACTERS):
            yield tuple(pack)
            pack, characters = [], 0
        pack.append(line)
        characters += len(line.text)
    yield tuple(pack)
