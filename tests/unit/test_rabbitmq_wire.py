"""What comes over the wire reaches whom it is for, whole and in order, however it is cut."""

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import exceptions, frame, spec

from bus.rabbitmq.wire import Wire


class Channel:
    """Hears confirms and plain deliveries if it asked for them."""

    def __init__(self, heard: list[object], *, asked: bool) -> None:
        self.heard = heard
        self.asked = self.plain = asked

    def deliver(self, tag: int, key: str, body: bytes) -> None:
        self.heard.append((tag, key, body))

    def confirmed(self, tag: int, multiple: bool, *, taken: bool) -> bool:
        if self.asked:
            self.heard.append((tag, multiple, taken))
        return self.asked


class Listening(Wire):
    """Without a connection: notes what would go to pika."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.bytes_received = 0
        self._frame_buffer = b""
        # the first asked for confirms, the second did not, the third is not ours
        self._led = {1: Channel(self.heard, asked=True), 2: Channel(self.heard, asked=False)}  # type: ignore[dict-item]

    def _process_frame(self, frame_value: Any) -> None:
        self.heard.append(frame_value.marshal())


def method(channel: int, of: Any) -> bytes:
    return frame.Method(channel, of).marshal()


channels = st.integers(1, 3)
tags = st.integers(1, 2**64 - 1)
acks = st.builds(lambda channel, tag, multiple: (channel, tag, multiple), channels, tags, st.booleans())
others = st.one_of(
    st.builds(lambda channel, tag: method(channel, spec.Basic.Nack(delivery_tag=tag)), channels, tags),
    st.builds(lambda channel, tag: method(channel, spec.Basic.Reject(delivery_tag=tag)), channels, tags),
    st.builds(lambda channel, body: frame.Body(channel, body).marshal(), channels, st.binary(max_size=90)),
    # as long as a confirm
    st.builds(lambda channel: frame.Body(channel, b"\0\x3c\0\x50" + bytes(9)).marshal(), channels),
    st.builds(lambda body: frame.Body(1, body).marshal(), st.binary(min_size=13, max_size=13)),
    st.just(frame.Heartbeat().marshal()),
    st.just(method(0, spec.Connection.Blocked(reason="low on memory"))),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[bytes], tuple[int, str, bytes] | None]:
    """Frames of one delivery, and what the first channel hears of it, if it is a plain one."""
    channel, tag, key = draw(channels), draw(tags), draw(st.text(max_size=20))
    pieces = draw(st.lists(st.binary(min_size=1, max_size=60), max_size=2))
    of = spec.Basic.Deliver(
        consumer_tag=draw(st.text(max_size=9)), delivery_tag=tag, exchange="fleetbus.deliver", routing_key=key
    )
    properties = spec.BasicProperties(message_id=draw(st.none() | st.just("an id")), headers={"x": 1})
    header = frame.Header(channel, sum(map(len, pieces)), properties).marshal()
    frames = [method(channel, of), header, *(frame.Body(channel, piece).marshal() for piece in pieces)]
    return frames, (tag, key, b"".join(pieces)) if channel == 1 and len(pieces) < 2 else None


@settings(deadline=None)
@given(st.lists(deliveries() | acks, max_size=6), st.lists(st.integers(1, 90), min_size=1, max_size=20))
def test_plain_deliveries_come_whole_and_all_others_go_to_pika(sent: list[Any], cuts: list[int]) -> None:
    wire, data = Listening(), b""
    expected: list[object] = []
    for each in sent:
        heard: tuple[Any, ...] | None
        if isinstance(each[0], int):
            frames, heard = [method(1, spec.Basic.Ack(delivery_tag=each[1], multiple=each[2]))], (*each[1:], True)
        else:
            frames, heard = each
        data += b"".join(frames)
        expected += frames if heard is None else [heard]
    at = n = 0
    while at < len(data):
        wire._on_data_available(data[at : at + cuts[n % len(cuts)]])
        at, n = at + cuts[n % len(cuts)], n + 1
    assert wire.heard == expected
    assert wire.bytes_received == len(data)


@pytest.mark.parametrize("key", [b"\xff\xfe", b"cut", b""])
def test_a_delivery_that_is_not_as_it_should_be_goes_to_pika(key: bytes) -> None:
    """The key is no text, longer than its frame, or followed by something."""
    good = method(1, spec.Basic.Deliver(consumer_tag="c", delivery_tag=1, exchange="e", routing_key="ab"))
    broken = {b"\xff\xfe": good.replace(b"\2ab", b"\2\xff\xfe"), b"cut": good.replace(b"\2ab", b"\x09ab")}
    wire = Listening()
    wire._on_data_available(broken.get(key, good.replace(b"\2ab", b"\1ab")))
    assert len(wire.heard) == 1
    assert not isinstance(wire.heard[0], tuple)


def test_a_frame_between_a_delivery_and_its_header_sends_both_to_pika() -> None:
    wire = Listening()
    deliver = method(1, spec.Basic.Deliver(consumer_tag="c", delivery_tag=1, exchange="e", routing_key="k"))
    frames = [deliver, frame.Heartbeat().marshal(), frame.Header(1, 0, spec.BasicProperties()).marshal()]
    wire._on_data_available(b"".join(frames))
    assert wire.heard == frames


def test_what_came_behind_a_frame_that_somebody_failed_on_is_not_lost() -> None:
    class Failing(Listening):
        def _process_frame(self, frame_value: Any) -> None:
            super()._process_frame(frame_value)
            if len(self.heard) == 1:
                raise RuntimeError("a mistake in a callback")

    wire, beat = Failing(), frame.Heartbeat().marshal()
    with pytest.raises(RuntimeError):
        wire._on_data_available(beat * 3)
    wire._on_data_available(beat)
    assert wire.heard == [beat] * 4


@settings(deadline=None)
@given(st.lists(acks | others, max_size=12), st.lists(st.integers(1, 80), min_size=1, max_size=20))
def test_every_frame_comes_whole_and_in_order(sent: list[tuple[int, int, bool] | bytes], cuts: list[int]) -> None:
    wire, data, expected = Listening(), b"", []
    for each in sent:
        if isinstance(each, bytes):
            data += each
            expected.append(each)
            continue
        channel, tag, multiple = each
        ack = method(channel, spec.Basic.Ack(delivery_tag=tag, multiple=multiple))
        data += ack
        expected.append((tag, multiple, True) if channel == 1 else ack)  # type: ignore[arg-type]
    at = n = 0
    while at < len(data):
        wire._on_data_available(data[at : at + cuts[n % len(cuts)]])
        at, n = at + cuts[n % len(cuts)], n + 1
    assert wire.heard == expected
    assert wire.bytes_received == len(data)


def test_a_frame_without_its_end_is_pikas_to_refuse() -> None:
    ack = method(1, spec.Basic.Ack(delivery_tag=1))
    wire = Listening()
    with pytest.raises(exceptions.InvalidFrameError):
        wire._on_data_available(ack[:-1] + b"\0")
    assert wire.heard == []


def test_a_broker_of_another_version_is_pikas_to_refuse() -> None:
    wire, answer = Listening(), frame.ProtocolHeader(0, 8, 0).marshal()
    wire._on_data_available(answer)
    assert wire.heard == [answer]


class Transport:
    """pika's, as far as what is sent goes there."""

    def __init__(self) -> None:
        self.waiting = b""

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes) -> None:
        self.waiting += data


def test_what_the_socket_does_not_take_waits_and_nothing_overtakes_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        wire, transport = Listening(), Transport()
        wire._transport, wire._socket = transport, ours
        wire._adapter_emit_data(b"first")
        assert (theirs.recv(100), transport.waiting) == (b"first", b"")
        large = bytes(range(256)) * 40_000
        wire._adapter_emit_data(large)
        assert 0 < len(transport.waiting) < len(large)
        waiting = len(transport.waiting)
        wire._adapter_emit_data(b"last")
        assert transport.waiting == large[-waiting:] + b"last"


def test_an_error_of_the_socket_is_pikas_to_meet() -> None:
    ours, theirs = socket.socketpair()
    wire, transport = Listening(), Transport()
    wire._transport, wire._socket = transport, ours
    theirs.close()
    with ours:
        wire._adapter_emit_data(b"lost")
    assert transport.waiting == b"lost"
