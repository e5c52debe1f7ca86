"""What a job prints: from bytes to lines, and which lines are kept.

Of an output over 10 MB the head and the tail are kept, 5 MB each, and what lay between is counted.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from msgspec import Struct

from events.telemetry import Line

#: Bytes of text that are kept, half of them from the beginning and half from the end.
KEPT_BYTES = 10_000_000
#: A line costs this many bytes beside its text, so that ten million empty lines do not fill the memory.
LINE_OVERHEAD = 32
#: Bytes of output per second that are passed on live once the head is full.
LIVE_BYTES_PER_SECOND = 64_000
#: A longer line is cut into pieces of this many bytes, each a line of its own.
MAX_LINE_BYTES = 8_000

STDOUT, STDERR = "o", "e"


class Output(Struct, frozen=True):
    """The output of an ended job. `lines` and `size` (bytes, line ends included) count what was printed."""

    lines: int = 0
    size: int = 0
    head: tuple[Line, ...] = ()
    tail: tuple[Line, ...] = ()
    #: What was printed between head and tail and is not kept.
    dropped_lines: int = 0
    dropped_bytes: int = 0

    def kept(self) -> Iterator[Line]:
        """Every kept line, in the order in which it was read; a gap in the numbers shows where lines were dropped."""
        yield from self.head
        yield from self.tail

    def text(self) -> str:
        """The kept lines as one text, with a note in the place of those that were dropped."""
        parts = [line.text for line in self.head]
        if self.dropped_lines:
            parts.append(f"[… {self.dropped_lines:,} lines ({self.dropped_bytes:,} bytes) are not kept …]")
        parts += [line.text for line in self.tail]
        return "".join(f"{part}\n" for part in parts)


class LineSplitter:
    """Cuts the bytes of one stream into texts, one per line. What is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *complete, rest = (self._rest + data).split(b"\n")
        *early, self._rest = _pieces(rest)
        return [_text(piece) for line in complete for piece in _pieces(line)] + [_text(piece) for piece in early]

    def finish(self) -> list[str]:
        """The last line, if it did not end with a line end."""
        rest, self._rest = self._rest, b""
        return [_text(piece) for piece in _pieces(rest)] if rest else []


class OutputReader:
    """Numbers the lines of a job's two streams as they are read, masks secrets in them, and sorts them.

    Lines of the head go to whoever keeps it; later ones are kept here, and as many of them as `LIVE_BYTES_PER_SECOND`
    allows are passed on for whoever looks on.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.masks: tuple[str, ...] = ()
        self._splitters = {STDOUT: LineSplitter(), STDERR: LineSplitter()}
        self._lines = 0
        self._size = 0
        self._head_left = kept_bytes // 2
        self._tail = _Tail(kept_bytes // 2)
        self._live = _Allowance(LIVE_BYTES_PER_SECOND)

    def feed(self, stream: str, data: bytes) -> list[Line]:
        """The lines that `data` completes in one of the streams."""
        self._size += len(data)
        return self._numbered(stream, self._splitters[stream].feed(data))

    def finish(self) -> list[Line]:
        """Last lines that did not end with a line end."""
        return [
            line for stream, splitter in self._splitters.items() for line in self._numbered(stream, splitter.finish())
        ]

    def sort(self, lines: Iterable[Line], now: float) -> tuple[list[Line], list[Line]]:
        """Lines of the head, and later lines to be passed on. `now` in seconds."""
        head: list[Line] = []
        live: list[Line] = []
        for line in lines:
            # once a line did not fit, the head is complete
            self._head_left = max(0, self._head_left - _cost(line))
            if self._head_left:
                head.append(line)
            else:
                self._tail.add(line)
                if self._live.takes(_cost(line), now):
                    live.append(line)
        return head, live

    def kept(self) -> Output:
        """The output without its head."""
        tail = self._tail
        return Output(
            lines=self._lines,
            size=self._size,
            tail=tuple(tail.kept),
            dropped_lines=tail.dropped_lines,
            dropped_bytes=tail.dropped_bytes,
        )

    def _numbered(self, stream: str, texts: list[str]) -> list[Line]:
        for mask in self.masks:
            texts = [text.replace(mask, "***") for text in texts]
        first, self._lines = self._lines + 1, self._lines + len(texts)
        return [Line(n=n, stream=stream, text=text) for n, text in enumerate(texts, first)]


class _Tail:
    """Keeps the last lines, and counts those that it had to let go."""

    def __init__(self, limit: int) -> None:
        self.kept: deque[Line] = deque()
        self.dropped_lines = 0
        self.dropped_bytes = 0
        self._left = limit

    def add(self, line: Line) -> None:
        self.kept.append(line)
        self._left -= _cost(line)
        while self._left < 0:
            gone = self.kept.popleft()
            self._left += _cost(gone)
            self.dropped_lines += 1
            self.dropped_bytes += _size(gone)


class _Allowance:
    """Bytes that may pass in each second."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._left = per_second

    def takes(self, amount: int, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._left = int(now), self._per_second
        self._left -= amount
        return self._left >= 0


def _size(line: Line) -> int:
    """Bytes of a line in UTF-8, its line end included."""
    return len(line.text.encode(errors="replace")) + 1


def _cost(line: Line) -> int:
    return _size(line) + LINE_OVERHEAD


def _pieces(line: bytes) -> Iterator[bytes]:
    while len(line) > MAX_LINE_BYTES:
        cut = _boundary(line, MAX_LINE_BYTES)
        yield line[:cut]
        line = line[cut:]
    yield line


def _boundary(data: bytes, wanted: int) -> int:
    """The last place up to `wanted` where no character of UTF-8 is cut in two."""
    for cut in range(wanted, wanted - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return wanted


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")
