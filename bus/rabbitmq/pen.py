"""The frames of what is published, made in one go: method, header and bodies, byte for byte as pika makes them; and
those that acknowledge deliveries.

pika makes them of some twenty objects and a hundred calls, which was most of what a publish costs. Of what we publish
only the body, the message's id and the moment vary: everything else pika makes once for each key, and it is kept.
"""

from collections.abc import Iterable
from struct import Struct as Packing
from typing import Literal

from msgspec import Struct
from pika import frame, spec

#: AMQP's "persistent".
DURABLE: Literal[2] = 2

#: How a header's frame begins: kind, channel, size, class, weight, size of the body.
_HEADER = Packing(">BHIHHQ")
#: The end of the frame before, and how a body's frame begins: kind, channel, size.
_BODY = Packing(">BBHI")
_MOMENT = Packing(">Q")
_CONTENT = spec.BasicProperties.INDEX
#: A whole frame: kind, channel, size, method, delivery tag, `multiple`, end.
_ACK = Packing(">BHIIQBB")
_ACK_SIZE = 13
_END = bytes((spec.FRAME_END,))
#: Of a header's frame the bytes of class, weight, size of the body, and flags.
_FIXED = 14
#: Sheets that are kept: one for each key and type.
_KEPT = 5_000


class Properties(Struct, frozen=True, gc=False):
    """Of one message. `timestamp` is in seconds since 1970; a text has at most 255 bytes."""

    content_type: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    delivery_mode: Literal[1, 2] | None = DURABLE


class _Sheet(Struct, frozen=True):
    """What all messages with one key have in common: the method's frame, the properties' flags and those that stand
    before id and moment, and those behind.
    """

    method: bytes
    before: bytes
    behind: bytes
    #: Of the header's frame, without id and moment.
    size: int


class Pen:
    """Of one channel and exchange. `frame_max`: bytes of the largest frame, as agreed with the broker."""

    def __init__(self, channel: int, exchange: str, frame_max: int) -> None:
        self._channel = channel
        self._exchange = exchange
        self._longest = frame_max - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE
        self._sheets: dict[object, _Sheet] = {}

    def frames(self, key: str, body: bytes, properties: Properties) -> Iterable[bytes]:
        """What is to be written, in pieces. It is published as `mandatory`: what no queue takes comes back."""
        id, moment = properties.message_id, properties.timestamp
        like = (key, properties.type, properties.content_type, properties.user_id, properties.delivery_mode)
        sheet = self._sheets.get((*like, id is None, moment is None)) or self._take_sheet(key, properties)
        varying = b""
        if id is not None:
            text = id.encode()
            varying = b"%c%b" % (len(text), text)
        if moment is not None:
            varying += _MOMENT.pack(moment)
        size = len(body)
        header = _HEADER.pack(spec.FRAME_HEADER, self._channel, sheet.size + len(varying), _CONTENT, 0, size)
        if 0 < size <= self._longest:
            begin = _BODY.pack(spec.FRAME_END, spec.FRAME_BODY, self._channel, size)
            return sheet.method, header, sheet.before, varying, sheet.behind, begin, body, _END
        return sheet.method, header, sheet.before, varying, sheet.behind, *self._bodies(body), _END

    def _bodies(self, body: bytes) -> Iterable[bytes]:
        """Of one that is empty, or too long for one frame."""
        for at in range(0, len(body), self._longest):
            piece = body[at : at + self._longest]
            yield _BODY.pack(spec.FRAME_END, spec.FRAME_BODY, self._channel, len(piece))
            yield piece

    def _take_sheet(self, key: str, of: Properties) -> _Sheet:
        if len(self._sheets) >= _KEPT:
            self._sheets.clear()
        like = (key, of.type, of.content_type, of.user_id, of.delivery_mode)
        sheet = self._sheets[(*like, of.message_id is None, of.timestamp is None)] = self._new_sheet(key, of)
        return sheet

    def _new_sheet(self, key: str, of: Properties) -> _Sheet:
        method = spec.Basic.Publish(exchange=self._exchange, routing_key=key, mandatory=True)
        before = spec.BasicProperties(content_type=of.content_type, delivery_mode=of.delivery_mode)
        behind = spec.BasicProperties(type=of.type, user_id=of.user_id)
        every = spec.BasicProperties(
            content_type=of.content_type,
            delivery_mode=of.delivery_mode,
            message_id=of.message_id,
            timestamp=of.timestamp,
            type=of.type,
            user_id=of.user_id,
        )
        # the flags come first
        flags, first, second = every.encode()[0], b"".join(before.encode()[1:]), b"".join(behind.encode()[1:])
        size = _FIXED + len(first) + len(second)
        return _Sheet(frame.Method(self._channel, method).marshal(), flags + first, second, size)


def acks(channel: int, tags: Iterable[int]) -> Iterable[bytes]:
    """The frames that acknowledge these deliveries, one by one."""
    kind, method, end = spec.FRAME_METHOD, spec.Basic.Ack.INDEX, spec.FRAME_END
    return (_ACK.pack(kind, channel, _ACK_SIZE, method, tag, 0, end) for tag in tags)
