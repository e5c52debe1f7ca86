"""A delivery as nearly all are: `basic.deliver`, a header and at most one body, one behind the other. Pure.

Of it only tag, key and body are read. What looks otherwise in any way is pika's to read.
"""

from struct import Struct as Packing
from struct import error

from msgspec import Struct
from pika import spec

DELIVER_METHOD = spec.Basic.Deliver.INDEX.to_bytes(4, "big")
#: How a frame begins: kind, channel, size; and how many bytes it has besides what is in it.
_BEGIN = Packing(">BHI")
_AROUND = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE
#: Delivery tag, and whether it came before.
_TAG = Packing(">QB")
#: How a header begins: class, weight, size of the body.
_HEADER = Packing(">HHQ")


class NotPlain(ValueError):
    """It is no delivery of this shape."""


class Plain(Struct, frozen=True, gc=False):
    """`end`: the index behind it."""

    tag: int
    key: str
    body: bytes
    end: int


def read_delivery(data: bytes, at: int, end: int) -> Plain | None:
    """The delivery whose method's frame, with its end, is from `at` to `end`; None if the rest is not there yet.

    Raises `NotPlain`.
    """
    try:
        tag, key = _method(data, at + spec.FRAME_HEADER_SIZE + len(DELIVER_METHOD), end - spec.FRAME_END_SIZE)
        header = _frame(data, at, end, spec.FRAME_HEADER)
        if header is None:
            return None
        of_class, _, size = _HEADER.unpack_from(data, end + spec.FRAME_HEADER_SIZE)
        if of_class != spec.BasicProperties.INDEX:
            raise NotPlain("a header of another class")
        if size == 0:
            return Plain(tag, key, b"", header)
        past = _frame(data, at, header, spec.FRAME_BODY)
    except (IndexError, UnicodeDecodeError, error):
        raise NotPlain("it is cut off") from None
    if past is None:
        return None
    body = data[header + spec.FRAME_HEADER_SIZE : past - spec.FRAME_END_SIZE]
    if len(body) != size:
        raise NotPlain("a body of several frames")
    return Plain(tag, key, body, past)


def _method(data: bytes, at: int, end: int) -> tuple[int, str]:
    """Tag and routing key, behind the consumer's tag, and the exchange between."""
    at += 1 + data[at]
    tag, _ = _TAG.unpack_from(data, at)
    at += _TAG.size
    at += 1 + data[at]
    if at + 1 + data[at] != end:
        raise NotPlain("its fields do not end with it")
    return tag, data[at + 1 : end].decode()


def _frame(data: bytes, first: int, at: int, kind: int) -> int | None:
    """Where the frame at `at` ends, which is to be of this kind and of the channel of the frame at `first`."""
    if len(data) - at < spec.FRAME_HEADER_SIZE:
        return None
    found, channel, size = _BEGIN.unpack_from(data, at)
    if found != kind or channel != _BEGIN.unpack_from(data, first)[1]:
        raise NotPlain("another frame comes in between")
    end = at + _AROUND + int(size)
    if end > len(data):
        return None
    if data[end - 1] != spec.FRAME_END:
        raise NotPlain("a frame without its end")
    return end
