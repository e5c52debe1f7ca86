"""One record of the log as one line of a segment: JSON without spaces, its fields in this order.

    {"previous":"<hash of the line before>","offset":7,"key":"event.seat.tick","user":"handlers","body":"{…}"}

`body` holds the record's bytes as text; bytes that are no UTF-8 are in `base64` instead. `user` is left out when the
engine did not say it. A line's hash is the `leaf_hash` of its bytes without the newline, so each line is chained to
the one before, and its hash is its leaf in the Merkle tree.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bus.archive.merkle import leaf_hash
from bus.ports import Record
from events.names import Sha256

#: What the first line of all names as the one before.
NO_LINE = "0" * 64


class BadLine(ValueError):
    """A line that is no record."""


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    previous: Sha256
    offset: int
    key: str
    user: str | UnsetType = UNSET
    body: str | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET

    def record(self) -> Record:
        user = None if self.user is UNSET else self.user
        if self.body is not UNSET:
            return Record(self.offset, self.body.encode(), self.key, user)
        assert self.base64 is not UNSET
        return Record(self.offset, self.base64, self.key, user)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def encode_line(record: Record, previous: str) -> bytes:
    """The line of a record behind the line with the hash `previous`, without a newline."""
    user = UNSET if record.user is None else record.user
    try:
        return _encode(Line(previous, record.offset, record.key, user, record.body.decode()))
    except UnicodeDecodeError:
        return _encode(Line(previous, record.offset, record.key, user, base64=record.body))


def decode_line(line: bytes) -> Line:
    """Raises `BadLine`."""
    try:
        found = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(f"it is no record: {error}") from None
    if (found.body is UNSET) == (found.base64 is UNSET):
        raise BadLine("it is no record: exactly one of body and base64 belongs there")
    return found


def line_hash(line: bytes) -> bytes:
    return leaf_hash(line)
