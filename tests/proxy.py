"""A TCP proxy that fails on demand: what a network does to a connection, at the moment a test chooses."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

#: Bytes that are passed on at a time.
CHUNK = 65536


class Proxy:
    """Passes on what comes to `port` of 127.0.0.1 to the target, until told otherwise.

    `cut` ends all connections, `refuse` ends them and lets no new one through, `freeze` passes nothing on in
    either direction while the connections stay open, `starve` holds back from AMQP consumers what they would get
    and passes on all else (heartbeats, answers, consumers that come later), `thaw` makes all well again.

    With `amqp` it reads what it passes on, which only `starve` needs.
    """

    def __init__(self, port: int, *, amqp: bool = False) -> None:
        self._target = ("127.0.0.1", port)
        self._amqp = amqp
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._filters: list[_Deliveries] = []
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                _break(end)

    def refuse(self) -> None:
        self._refusing = True
        self.cut()

    def freeze(self) -> None:
        self._flowing.clear()

    def starve(self) -> None:
        assert self._amqp, "only a proxy that reads AMQP can hold deliveries back"
        for one in self._filters:
            one.starve()

    def thaw(self) -> None:
        self._refusing = False
        for one in self._filters:
            one.starved.clear()
        self._flowing.set()

    def close(self) -> None:
        self._refusing = True
        self._flowing.set()
        # closing alone does not wake the thread that accepts
        _break(self._listener)
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._join(near)

    def _join(self, near: socket.socket) -> None:
        try:
            if self._refusing:
                raise ConnectionRefusedError
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.add((near, far))
        for source, sink, passed in ((near, far, _all), (far, near, self._filter())):
            threading.Thread(target=self._pass_on, args=(source, sink, passed), daemon=True).start()

    def _filter(self) -> Callable[[bytes], bytes]:
        if not self._amqp:
            return _all
        self._filters.append(_Deliveries())
        return self._filters[-1].passed

    def _pass_on(self, source: socket.socket, sink: socket.socket, passed: Callable[[bytes], bytes]) -> None:
        with contextlib.suppress(OSError):
            for data in _received(source):
                self._flowing.wait()
                sink.sendall(passed(data))
        _break(source)
        _break(sink)


class _Deliveries:
    """What a broker sends over one connection, frame by frame; of starved channels without their deliveries."""

    METHOD, HEADER, BODY = 1, 2, 3
    DELIVER, CLOSED = (60, 60), (20, 41)

    def __init__(self) -> None:
        self.starved: set[int] = set()
        self._consuming: set[int] = set()
        self._rest = b""

    def starve(self) -> None:
        self.starved = set(self._consuming)

    def passed(self, data: bytes) -> bytes:
        return b"".join(frame for frame in self._frames(data) if self._passes(frame))

    def _frames(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while len(self._rest) >= 7 and len(self._rest) >= (size := 8 + int.from_bytes(self._rest[3:7], "big")):
            yield self._rest[:size]
            self._rest = self._rest[size:]

    def _passes(self, frame: bytes) -> bool:
        kind, channel = frame[0], int.from_bytes(frame[1:3], "big")
        method = struct.unpack(">HH", frame[7:11]) if kind == self.METHOD else None
        if method == self.DELIVER:
            self._consuming.add(channel)
        elif method == self.CLOSED:
            self._consuming.discard(channel)
            self.starved.discard(channel)
        held_back = method == self.DELIVER or kind in (self.HEADER, self.BODY)
        return not (held_back and channel in self.starved)


def _all(data: bytes) -> bytes:
    return data


def _received(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(CHUNK):
        yield data


def _break(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
