"""Frames of the native stream protocol, put together from pieces."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.rabbitmq import frames
from bus.rabbitmq.frames import BadFrame, Fields, Frame, Key, Splitter


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_frames_come_whole_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(struct.pack(">IHH", len(body) + 4, Key.DELIVER | 0x8000, 1) + body for body in payloads)
    read: list[Frame] = []
    splitter, at, n = Splitter(), 0, 0
    while at < len(sent):
        read += splitter.feed(sent[at : at + cuts[n % len(cuts)]])
        at, n = at + cuts[n % len(cuts)], n + 1
    assert read == [Frame(Key.DELIVER, 1, True, body) for body in payloads]


@pytest.mark.parametrize(
    "data", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", struct.pack(">IHH", 3, 1, 1)]
)
def test_another_protocol_is_recognized(data: bytes) -> None:
    with pytest.raises(BadFrame, match="stream protocol"):
        list(Splitter().feed(data))


def test_an_answer_that_ends_too_early_is_bad() -> None:
    fields = Fields(struct.pack(">IHIH", 1, 1, 1, 12) + b"short")
    fields.take(6)
    with pytest.raises(BadFrame, match="cut off"):
        fields.properties()


def test_a_subscription_names_stream_offset_and_credit() -> None:
    (frame,) = Splitter().feed(frames.subscribe(9, 0, "fleetbus.log", 2**40, 64))
    fields = Fields(frame.payload)
    assert (frame.key, frame.version, frame.answers) == (Key.SUBSCRIBE, 1, False)
    assert (fields.number(4), fields.number(1), fields.text()) == (9, 0, "fleetbus.log")
    assert (fields.number(2), fields.number(8), fields.number(2), fields.properties()) == (4, 2**40, 64, {})
