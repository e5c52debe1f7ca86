"""Chunks, in which a stream is written and delivered, and the messages in them, as RabbitMQ writes them. Pure.

The broker makes an AMQP 1.0 message of what was published over AMQP 0.9.1. Of its sections we read three: the broker's
own annotations (`x-routing-key`), the properties (`user-id`, which the broker verified), and the data. A publisher's
headers are in a section of their own, and cannot pass for either.

Written for speed: this runs for each record of the log. A message is walked with an index, section by section; what
repeats (annotations, users) is looked up by its bytes.
"""

import struct
import zlib

from msgspec import Struct

from bus.ports import Record

#: Magic and version, type, entries, records, time, epoch, first offset, CRC, sizes of the data and the trailer.
_HEAD = struct.Struct(">BBHIqQQIII")
#: And four bytes that are reserved.
_HEAD_SIZE = _HEAD.size + 4
#: Chunks of the first version of their format.
_MAGIC = 0x50
_MESSAGES = 0
_size = struct.Struct(">I").unpack_from

#: Descriptors of sections: `00 53` and one of these.
_HEADER, _DELIVERY, _ANNOTATIONS, _PROPERTIES, _APPLICATION, _DATA, _FOOTER = 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x78
#: Constructors of values by how they say their size: in one byte, in four.
_SHORT = frozenset((0xA0, 0xA1, 0xA3, 0xC0, 0xC1, 0xE0))
_LONG = frozenset((0xB0, 0xB1, 0xB3, 0xD0, 0xD1, 0xF0))
_TEXTS = frozenset((0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3))
_BINARY, _MAP, _LIST = frozenset((0xA0, 0xB0)), frozenset((0xC1, 0xD1)), frozenset((0x45, 0xC0, 0xD0))
#: Bytes of a value's body, by the high half of its constructor.
_FIXED = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}

#: Of a message with the sections that all have.
_SHORTEST = 32

#: What was found in sections that repeat; forgotten when there are too many.
_REMEMBERED = 50_000
_keys: dict[bytes, str] = {}
_users: dict[bytes, str | None] = {}


class BadChunk(ValueError):
    """Bytes that are no chunk of this format, or not those that were written."""


class Unreadable(ValueError):
    """A message that RabbitMQ did not make of one that was published on an exchange."""


class Chunk(Struct, frozen=True):
    """One chunk as it came, checked against its sum: `count` records from offset `first` on, without gaps."""

    first: int
    count: int
    entries: int
    data: bytes

    @property
    def next_offset(self) -> int:
        """Behind its last record."""
        return self.first + self.count

    def records(self, start: int) -> list[Record]:
        """Those from the offset `start` on.

        What is no message as RabbitMQ makes them is a record without key and user, whose body is what is there; only
        who may write to the stream itself, past the exchange, can make one.
        """
        found: list[Record] = []
        data, at, offset = self.data, 0, self.first
        for _ in range(self.entries):
            if data[at] & 0x80:
                at, count = self._batch(at)
                found += (Record(n, b"", "", None) for n in range(max(start, offset), offset + count))
                offset += count
                continue
            begin, at = at + 4, at + 4 + _size(data, at)[0]
            if offset >= start:
                found.append(_record(offset, data, begin, at))
            offset += 1
        return found

    def _batch(self, at: int) -> tuple[int, int]:
        """Where the batch of messages at `at` ends, and how many there are. Nobody publishes so through AMQP."""
        return at + 11 + _size(self.data, at + 7)[0], int.from_bytes(self.data[at + 1 : at + 3], "big")


def read_chunk(payload: bytes, at: int) -> Chunk | None:
    """The chunk from index `at` of a frame on; None for one that holds no messages. Raises `BadChunk`."""
    if len(payload) < at + _HEAD_SIZE:
        raise BadChunk("a chunk is cut off")
    magic, kind, entries, count, _, _, first, crc, size, _ = _HEAD.unpack_from(payload, at)
    if magic != _MAGIC:
        raise BadChunk(f"a chunk has the format {magic:#x}, known is {_MAGIC:#x}")
    data = payload[at + _HEAD_SIZE : at + _HEAD_SIZE + size]
    if zlib.crc32(data) != crc:
        raise BadChunk(f"the chunk at offset {first} is not what was written: its CRC is wrong")
    return Chunk(first, count, entries, data) if kind == _MESSAGES else None


def _record(offset: int, data: bytes, at: int, end: int) -> Record:
    try:
        return _plain(offset, data, at, end) or _message(offset, data, at, end)
    except (Unreadable, IndexError, UnicodeDecodeError, struct.error):
        return Record(offset, data[at:end], "", None)


def _plain(offset: int, data: bytes, at: int, end: int) -> Record | None:
    """A message as nearly all are, whose key and user were met before: four sections, each with a short size but the
    last. None of any other.
    """
    if end - at < _SHORTEST:
        return None
    properties = at + 5 + data[at + 4]
    key = _keys.get(data[at:properties])
    if key is None or not data.startswith(b"\x00Ss\xc0", properties, end):
        return None
    application = properties + 5 + data[properties + 4]
    if not data.startswith(b"\x00St\xc1", application, end):
        return None
    body = application + 5 + data[application + 4]
    if not data.startswith(b"\x00Su\xb0", body, end - 4) or _size(data, body + 4)[0] != end - body - 8:
        return None
    # the properties' fields: the message's id, a text, and the user, a binary
    user = properties + 8 + data[properties + 7]
    if user + 2 > application or data[properties + 6] != 0xA1 or data[user] != 0xA0:
        return None
    past = user + 2 + data[user + 1]
    name = _users.get(data[user:past]) if past <= application else None
    return Record(offset, data[body + 8 : end], key, name) if name is not None else None


def _message(offset: int, data: bytes, at: int, end: int) -> Record:  # noqa: C901 - one walk, in one piece for speed
    key, user, body = "", None, None
    while at < end:
        if data[at] or data[at + 1] != 0x53:
            raise Unreadable("no section begins here")
        section, form = data[at + 2], data[at + 3]
        if form in _SHORT:
            inside = at + 5
            past = inside + data[at + 4]
        elif form in _LONG:
            inside = at + 8
            past = inside + _size(data, at + 4)[0]
        else:
            inside = past = at + 4 + _FIXED[form >> 4] if form >> 4 in _FIXED else end + 1
        if past > end:
            raise Unreadable("a section is cut off")
        if section == _DATA and form in _BINARY:
            body = data[inside:past] if body is None else body + data[inside:past]
        elif section == _ANNOTATIONS and form in _MAP:
            key = _key(data[at:past])
        elif section == _PROPERTIES and form in _LIST:
            user = _user(data, inside + (1 if form == 0xC0 else 4), past)
        elif section not in (_HEADER, _DELIVERY, _APPLICATION, _FOOTER):
            raise Unreadable("its body is no data")
        at = past
    if body is None:
        raise Unreadable("it has no body")
    return Record(offset, body, key, user)


def _key(section: bytes) -> str:
    """The routing key in the section of the broker's annotations."""
    known = _keys.get(section)
    if known is None:
        if len(_keys) >= _REMEMBERED:
            _keys.clear()
        known = _keys[section] = _find_key(section)
    return known


def _find_key(section: bytes) -> str:
    at = 6 if section[3] == 0xC1 else 12
    while at < len(section):
        value = _past(section, at)
        name = _text(section, at)
        at = _past(section, value)
        if name == b"x-routing-key":
            return (_text(section, value) or b"").decode()
    return ""


def _user(data: bytes, at: int, end: int) -> str | None:
    """Of a section of properties, a list: the message's id, then the user's."""
    if at >= end:
        return None
    at = _past(data, at)
    if at >= end:
        return None
    past = _past(data, at)
    if past > end:
        raise Unreadable("the properties are cut off")
    text = data[at:past]
    if text not in _users:
        if len(_users) >= _REMEMBERED:
            _users.clear()
        name = _text(text, 0)
        _users[text] = None if name is None else name.decode()
    return _users[text]


def _past(data: bytes, at: int) -> int:
    """Where the value at `at` ends."""
    form = data[at]
    if form in _SHORT:
        return at + 2 + data[at + 1]
    if form in _LONG:
        return at + 5 + int(_size(data, at + 1)[0])
    if form >> 4 not in _FIXED:
        raise Unreadable(f"no value begins with {form:#x}")
    return at + 1 + _FIXED[form >> 4]


def _text(data: bytes, at: int) -> bytes | None:
    """The bytes of a text, a symbol or a binary; None of everything else."""
    if data[at] not in _TEXTS:
        return None
    return data[at + (2 if data[at] in _SHORT else 5) : _past(data, at)]
