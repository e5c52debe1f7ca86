"""An emulated agent's connection: pika's, with shorter ways for the two things that thousands in one process do most.

What an agent says is sent in one piece (pika asks the system to send each frame, three to a message), and a confirm
that comes alone is not led through pika's callbacks. Everything else is pika's.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any

from pika import frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection

from bus.ports import Message
from bus.rabbitmq.channel import Channel, ChannelGone, OnConfirm

#: A frame with `basic.ack`: kind, channel, size, class and method, delivery tag, `multiple`, end.
_ACK = Struct(">BHIHHQBB")
_KIND, _SIZE, _CLASS, _METHOD, _END = 1, 13, 60, 80, 0xCE


class Line(AsyncioConnection):
    """Use `confirms` on a channel before anything is published on it."""

    #: Counted by pika; its type stubs leave them out.
    bytes_received: int
    _frame_buffer: bytes
    _confirming: int = 0
    _on_confirm: OnConfirm

    async def confirms(self, channel: Channel, on_confirm: OnConfirm) -> None:
        await channel.confirm(on_confirm)
        self._confirming, self._on_confirm = channel.raw.channel_number, on_confirm

    def _on_data_available(self, data_in: bytes) -> None:
        """Overrides pika's, to which everything comes that was received."""
        while not self._frame_buffer and len(data_in) >= _ACK.size and self._is_confirm(data_in):
            data_in = data_in[_ACK.size :]
        if data_in:
            super()._on_data_available(data_in)  # type: ignore[misc]

    def _is_confirm(self, data: bytes) -> bool:
        kind, channel, size, of_class, method, tag, multiple, end = _ACK.unpack_from(data)
        if channel != self._confirming or (kind, size, of_class, method, end) != (_KIND, _SIZE, _CLASS, _METHOD, _END):
            return False
        # pika's heartbeat looks at it
        self.bytes_received += _ACK.size
        self._on_confirm(tag, bool(multiple), True)
        return True

    def emit(self, frames: Iterable[bytes]) -> None:
        """Sends at once. Raises `ChannelGone`."""
        if not self.is_open:
            raise ChannelGone(0, "the connection is closed")
        self._output_marshaled_frames([b"".join(frames)])  # type: ignore[attr-defined]


class Pen:
    """Makes frames of what one agent publishes on `channel`. A body must fit into one frame, as all of an emulated
    agent do.
    """

    def __init__(self, channel: Channel, exchange: str, user: str) -> None:
        self._number = channel.raw.channel_number
        self._exchange, self._user = exchange, user
        #: Keys are few: one for each type.
        self._methods: dict[str, bytes] = {}

    def write(self, message: Message, timestamp: int) -> tuple[bytes, bytes, bytes]:
        """`timestamp`: seconds since 1970."""
        properties = spec.BasicProperties(
            message_id=message.id,
            type=message.type,
            user_id=self._user,
            timestamp=timestamp,
            content_type=message.content_type,
            delivery_mode=2,
        )
        header = _marshal(frame.Header, self._number, len(message.body), properties)
        return self._method(message.key), header, _marshal(frame.Body, self._number, message.body)

    def _method(self, key: str) -> bytes:
        if key not in self._methods:
            publish = spec.Basic.Publish(exchange=self._exchange, routing_key=key, mandatory=True)
            self._methods[key] = _marshal(frame.Method, self._number, publish)
        return self._methods[key]


def ack(channel: Channel, tag: int) -> bytes:
    """The frame that acknowledges a delivery."""
    return _marshal(frame.Method, channel.raw.channel_number, spec.Basic.Ack(delivery_tag=tag))


def _marshal(kind: Callable[..., Any], *of: object) -> bytes:
    marshalled: bytes = kind(*of).marshal()
    return marshalled
