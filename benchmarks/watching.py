"""Many watchers of one event stream in one process: `python -m benchmarks.watching URL HEADERS WATCHERS EVENTS`.

Prints `open` when all connections have their first bytes. Each event says its number and when it was sent, as
`"n": …, "sent": …`; every watcher must get the numbers 0 to EVENTS - 1 in order. When all have, or no byte came for
10 seconds, it prints the figures as JSON and ends. Latencies are counted in tenths of a millisecond.
"""

import contextlib
import json
import re
import selectors
import socket
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

from msgspec import Struct

EVENT = re.compile(rb'"n":\s?(\d+),"sent":\s?([0-9.]+)')
FRAME_END = b"\n\n"
#: Seconds without a byte after which nothing more is expected.
PATIENCE = 10.0


class Watcher:
    """One connection: what it got, and what is missing."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.next = 0
        #: Numbers that did not come in order: left out, or again.
        self.wrong = 0
        self._rest = b""

    def take(self, data: bytes, now: float, latencies: Counter[int]) -> int:
        """Counts the whole events in it."""
        data = self._rest + data
        whole, end, self._rest = data.rpartition(FRAME_END)
        found = EVENT.findall(whole + end)
        for n, sent in found:
            number = int(n)
            self.wrong += number != self.next
            self.next = number + 1
            latencies[int((now - float(sent)) * 10_000)] += 1
        return len(found)


class Crowd(Struct, frozen=True):
    """What became of all watchers. Latencies in ms; `missing` and `wrong` count events over all watchers."""

    got: int
    missing: int
    wrong: int
    closed: int
    p50: float
    p99: float
    slowest: float


def watch(url: str, headers: dict[str, str], count: int, events: int) -> Crowd:
    """Opens the connections, and reads until each has everything, or nothing comes."""
    with contextlib.ExitStack() as stack:
        watchers = [Watcher(stack.enter_context(_open(url, headers))) for _ in range(count)]
        latencies: Counter[int] = Counter()
        got, closed = _read(watchers, count * events, latencies)
    return Crowd(
        got,
        count * events - got,
        sum(watcher.wrong for watcher in watchers),
        closed,
        _share(latencies, got, 0.5),
        _share(latencies, got, 0.99),
        max(latencies, default=0) / 10,
    )


def _open(url: str, headers: dict[str, str]) -> socket.socket:
    at = urlsplit(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    path = f"{at.path}?{at.query}" if at.query else at.path
    connection = socket.create_connection((at.hostname or "", at.port or 80))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {at.netloc}\r\n{lines}\r\n".encode())
    return connection


def _read(watchers: list[Watcher], wanted: int, latencies: Counter[int]) -> tuple[int, int]:
    """How many events came, and how many connections were closed from the other side."""
    waiting, got, closed = set(watchers), 0, 0
    with selectors.DefaultSelector() as selector:
        for watcher in watchers:
            selector.register(watcher.connection, selectors.EVENT_READ, watcher)
        while got < wanted and closed < len(watchers):
            ready = selector.select(60.0 if waiting else PATIENCE)
            if not ready:
                break
            for key, _ in ready:
                watcher, data = key.data, key.data.connection.recv(1 << 18)
                if not data:
                    closed += 1
                    selector.unregister(watcher.connection)
                elif watcher in waiting and FRAME_END in data:
                    waiting.discard(watcher)
                    if not waiting:
                        print("open", flush=True)
                got += watcher.take(data, time.time(), latencies)
    return got, closed


def _share(latencies: Counter[int], count: int, share: float) -> float:
    left = share * count
    for tenth in sorted(latencies):
        left -= latencies[tenth]
        if left <= 0:
            return tenth / 10
    return 0.0


def main(url: str, headers: str, watchers: str, events: str) -> None:
    crowd = watch(url, json.loads(headers), int(watchers), int(events))
    print(json.dumps({name: getattr(crowd, name) for name in crowd.__struct_fields__}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
