"""Chunks and messages of the native stream protocol, as RabbitMQ writes them, and as it never would."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.ports import Record
from bus.rabbitmq import chunk as chunks
from bus.rabbitmq.chunk import BadChunk, Chunk, read_chunk

#: As RabbitMQ 3.10 wrote it: published by `portal` under `event.a.b`, with all properties that fleetbus sets.
PUBLISHED = (
    b"\x00Sr\xc1J\x06\xa3\rx-routing-key\xa1\tevent.a.b\xa3\nx-exchange\xa1\x08fleetbus\xa3\x15x-basic-delivery-mode"
    b"P\x02\x00Ss\xc0>\r\xa1\x03mid\xa0\x06portal@@@@\xa3\x1capplication/cloudevents+json@@\x83\x00\x00\x00\x00\x07["
    b"\xca\x00@@@\x00St\xc1\x1a\x02\xa1\x0cx-basic-type\xa1\tevent.a.b\x00Su\xa0\x05plain"
)
#: Without any property, and so without a user.
ANONYMOUS = b"\x00Sr\xc11\x04\xa3\rx-routing-key\xa1\tevent.a.b\xa3\nx-exchange\xa1\x08fleetbus\x00Su\xa0\x07nothing"
#: With headers that look like what the broker says, and a body of its own.
CLAIMING = (
    b"\x00Sr\xc11\x04\xa3\rx-routing-key\xa1\tevent.a.b\xa3\nx-exchange\xa1\x08fleetbus\x00Ss\xc0\x15\r@\xa0\x06portal"
    b"@@@@@@@@@@@\x00St\xc1^\x0c\xa1\rx-routing-key\xa1\x0eevent.fake.key\xa1\nx-exchange\xa1\x04fake\xa1\x01aT\x01"
    b"\xa1\x01b\xa1\x03two\xa1\x07user-id\xa1\x01x\xa1\x0fx-stream-offsetT\x07\x00Su\xa0\x03hdr"
)


def frame(
    data: bytes, entries: int, *, first: int = 0, count: int | None = None, kind: int = 0, magic: int = 80
) -> bytes:
    count = entries if count is None else count
    head = struct.pack(">BBHIqQQIIII", magic, kind, entries, count, 0, 1, first, zlib.crc32(data), len(data), 0, 0)
    return head + data


def chunk(*messages: bytes, first: int = 0) -> Chunk:
    data = b"".join(struct.pack(">I", len(message)) + message for message in messages)
    found = read_chunk(b"\0" + frame(data, len(messages), first=first), 1)
    assert found is not None
    return found


def test_a_message_gives_its_body_key_and_the_user_that_the_broker_verified() -> None:
    read = chunk(PUBLISHED, ANONYMOUS, first=7).records(0)
    assert read == [
        Record(7, b"plain", "event.a.b", "portal"),
        Record(8, b"nothing", "event.a.b", None),
    ]


def test_headers_of_a_publisher_are_neither_key_nor_user() -> None:
    assert chunk(CLAIMING).records(0) == [Record(0, b"hdr", "event.a.b", "portal")]


@pytest.mark.parametrize("size", [0, 255, 256, 100_000])
def test_a_body_of_any_size_is_read(size: int) -> None:
    form = b"\xa0" + bytes([size]) if size < 256 else b"\xb0" + struct.pack(">I", size)
    message = ANONYMOUS[: ANONYMOUS.index(b"\x00Su")] + b"\x00Su" + form + bytes(size)
    assert chunk(message).records(0)[0].body == bytes(size)


def test_what_is_before_the_start_is_left_out() -> None:
    found = chunk(*[PUBLISHED] * 5, first=10)
    assert (found.next_offset, [record.offset for record in found.records(13)]) == (15, [13, 14])


@pytest.mark.parametrize("message", [
    b"", b"garbage", b"\x00Sw\xa1\x03str", b"\x00Su\xa0\x09short", PUBLISHED[:-1], b"\x00Ss\xc0\x15\r@\xa0\x06portal",
    PUBLISHED + b"\x00", b"\x00Ss\xc0\x05\x02@\xa0\xffp\x00Su\xa0\x01x",
])  # fmt: skip
def test_what_rabbitmq_does_not_write_is_a_record_without_key_and_user(message: bytes) -> None:
    """Who may write to the stream itself, past the exchange, could say anything: nobody verified it."""
    assert chunk(PUBLISHED, message, PUBLISHED).records(0)[1:] == [
        Record(1, message, "", None),
        Record(2, b"plain", "event.a.b", "portal"),
    ]


def test_a_batch_of_messages_counts_as_many_records_without_user() -> None:
    entry = struct.pack(">I", len(PUBLISHED)) + PUBLISHED
    batch = b"\x80" + struct.pack(">HII", 3, 9, 9) + b"compress!"
    found = read_chunk(frame(entry + batch + entry, 3, first=5, count=5), 0)
    assert found is not None
    assert [(record.offset, record.user) for record in found.records(7)] == [(7, None), (8, None), (9, "portal")]
    assert found.next_offset == 10


@pytest.mark.parametrize("broken", [
    pytest.param(frame(b"x", 1)[:-1] + b"y", id="another byte"),
    pytest.param(frame(b"x", 1, magic=96), id="another format"),
    pytest.param(frame(b"", 0)[:20], id="cut off"),
])  # fmt: skip
def test_a_chunk_that_is_not_what_was_written_is_bad(broken: bytes) -> None:
    with pytest.raises(BadChunk):
        read_chunk(broken, 0)


def test_a_chunk_without_messages_is_none() -> None:
    assert read_chunk(frame(b"tracking", 1, kind=1), 0) is None


#: As above, with a body of more than 255 bytes, which is how events come.
LONG = PUBLISHED[: PUBLISHED.index(b"\x00Su")] + b"\x00Su\xb0\x00\x00\x01\x2c" + bytes(300)


@given(st.binary(min_size=1, max_size=3), st.integers(0, len(LONG)), st.integers(0, 3))
def test_the_short_way_through_a_message_gives_what_the_long_one_does(noise: bytes, at: int, instead: int) -> None:
    assert chunk(LONG).records(0) == [Record(0, bytes(300), "event.a.b", "portal")]
    changed = LONG[:at] + noise + LONG[at + instead :]
    short = chunk(changed).records(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_plain", lambda *_: None)
        assert chunk(changed).records(0) == short


@given(st.binary(max_size=200), st.integers(0, len(PUBLISHED)))
def test_no_bytes_stop_a_reader(noise: bytes, at: int) -> None:
    for message in (noise, PUBLISHED[:at] + noise, PUBLISHED[:at] + noise + PUBLISHED[at:]):
        (record,) = chunk(message).records(0)
        assert record.user in (None, "portal") or noise
