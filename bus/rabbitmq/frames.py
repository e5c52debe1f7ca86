"""The frames of RabbitMQ's stream protocol, as far as a reader needs them. Pure: bytes in, bytes out.

A frame is its size, key and version, then its fields; an answer's key has the highest bit set. The broker's source has
the description: `deps/rabbitmq_stream/docs/PROTOCOL.adoc`. We ask in version 1 of every command, which all brokers from
3.9 on speak.
"""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

from msgspec import Struct

#: Larger than any chunk: who says so does not speak this protocol.
LARGEST = 2**29
_ANSWER = 0x8000
_HEAD = struct.Struct(">IHH")
_OFFSET = 4


class Key(IntEnum):
    """Commands; an answer has the key of what it answers."""

    SUBSCRIBE = 7
    DELIVER = 8
    CREDIT = 9
    METADATA_UPDATE = 16
    PEER_PROPERTIES = 17
    SASL_HANDSHAKE = 18
    SASL_AUTHENTICATE = 19
    TUNE = 20
    OPEN = 21
    CLOSE = 22
    HEARTBEAT = 23


class Code(IntEnum):
    """Of an answer."""

    OK = 1
    NO_STREAM = 2
    NOT_AVAILABLE = 6
    BAD_LOGIN = 8
    NO_VHOST = 12
    REFUSED = 16


#: In words, as far as they need some.
WORDS: Mapping[int, str] = {
    Code.NO_STREAM: "there is no such stream",
    Code.NOT_AVAILABLE: "the stream is not available",
    Code.BAD_LOGIN: "the broker does not take this user and password",
    Code.NO_VHOST: "this user may not enter the virtual host",
    Code.REFUSED: "access refused",
}


class BadFrame(ValueError):
    """Bytes that are no frame of this protocol."""


class Frame(Struct, frozen=True):
    key: int
    version: int
    answers: bool
    payload: bytes


class Splitter:
    """Puts frames together from pieces as they arrive."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises `BadFrame`."""
        self._rest += data
        rest, at = self._rest, 0
        try:
            while len(rest) - at >= 8:
                size, key, version = _HEAD.unpack_from(rest, at)
                if not 4 <= size <= LARGEST:
                    raise BadFrame("it does not speak RabbitMQ's stream protocol")
                end = at + 4 + size
                if len(rest) < end:
                    return
                payload = bytes(memoryview(rest)[at + 8 : end])
                at = end
                yield Frame(key & ~_ANSWER, version, bool(key & _ANSWER), payload)
        finally:
            del rest[:at]


class Fields:
    """Reads an answer field by field. Raises `BadFrame` when it ends too early."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._payload):
            raise BadFrame("an answer of the broker is cut off")
        return self._payload[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        return self.take(self.number(2)).decode(errors="replace")

    def properties(self) -> dict[str, str]:
        return {self.text(): self.text() for _ in range(self.number(4))}

    def texts(self) -> list[str]:
        return [self.text() for _ in range(self.number(4))]


def _frame(key: Key, fields: bytes = b"", *, answers: bool = False) -> bytes:
    return _HEAD.pack(4 + len(fields), key | _ANSWER if answers else key, 1) + fields


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _text(text: str) -> bytes:
    data = text.encode()
    return _number(len(data), 2) + data


def _properties(properties: Mapping[str, str]) -> bytes:
    return _number(len(properties), 4) + b"".join(_text(key) + _text(value) for key, value in properties.items())


def peer_properties(number: int, properties: Mapping[str, str]) -> bytes:
    return _frame(Key.PEER_PROPERTIES, _number(number, 4) + _properties(properties))


def handshake(number: int) -> bytes:
    return _frame(Key.SASL_HANDSHAKE, _number(number, 4))


def authenticate(number: int, user: str, password: str) -> bytes:
    """By the mechanism PLAIN."""
    secret = f"\0{user}\0{password}".encode()
    return _frame(Key.SASL_AUTHENTICATE, _number(number, 4) + _text("PLAIN") + _number(len(secret), 4) + secret)


def tune(frame_max: int, heartbeat: int) -> bytes:
    return _frame(Key.TUNE, _number(frame_max, 4) + _number(heartbeat, 4))


def open_vhost(number: int, vhost: str) -> bytes:
    return _frame(Key.OPEN, _number(number, 4) + _text(vhost))


def subscribe(number: int, subscription: int, stream: str, offset: int, credit: int) -> bytes:
    """From `offset` on; a chunk comes whole though its beginning lies before. `credit`: chunks that may come."""
    begin = _number(_OFFSET, 2) + _number(offset, 8)
    fields = _number(number, 4) + _number(subscription, 1) + _text(stream) + begin + _number(credit, 2)
    return _frame(Key.SUBSCRIBE, fields + _properties({}))


def credit(subscription: int, chunks: int) -> bytes:
    return _frame(Key.CREDIT, _number(subscription, 1) + _number(chunks, 2))


def heartbeat() -> bytes:
    return _frame(Key.HEARTBEAT)


def close(number: int) -> bytes:
    return _frame(Key.CLOSE, _number(number, 4) + _number(Code.OK, 2) + _text("OK"))


def closed(number: int) -> bytes:
    """The answer to the broker's goodbye."""
    return _frame(Key.CLOSE, _number(number, 4) + _number(Code.OK, 2), answers=True)
