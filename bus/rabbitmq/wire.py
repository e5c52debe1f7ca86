"""pika's connection, with shorter ways for what goes over it most, and an end within a bounded time.

What is sent is written to the socket at once: pika asks the loop first when it can be written to, which costs two
system calls and a round of the loop. What comes is cut into frames in one pass. Confirms, and deliveries of which only
tag, key and body matter, go straight to the channel that waits for them; everything else goes to pika, frame by frame,
and heartbeats, closing and answers are its own.
"""

import asyncio
import socket
from struct import Struct
from typing import Any

from pika import spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError

from bus.rabbitmq.channel import Channel, tell
from bus.rabbitmq.plain_delivery import DELIVER_METHOD, NotPlain, read_delivery

#: Seconds for a polite end.
CLOSE_WITHIN = 3.0
#: Bytes that are taken from the socket at a time.
TAKEN = 2**16

#: How a frame begins: kind, channel, size; and how many bytes it has besides what is in it.
_BEGIN = Struct(">BHI")
_AROUND = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE
#: What is in a frame with `basic.ack`, behind its method: delivery tag, `multiple`.
_ACK = Struct(">QB")
_ACK_METHOD = spec.Basic.Ack.INDEX.to_bytes(4, "big")
_ACK_SIZE = _AROUND + len(_ACK_METHOD) + _ACK.size


class Wire(AsyncioConnection):
    """All of it runs in the I/O thread."""

    #: Counted and kept by pika; its type stubs leave them out.
    bytes_received: int
    _frame_buffer: bytes
    _transport: Any

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._led: dict[int, Channel] = {}
        #: Where we may write ourselves.
        self._socket: socket.socket | None = None
        super().__init__(*arguments, **more)

    def lead(self, channel: Channel) -> None:
        """From now on the channel's confirms and plain deliveries do not go through pika."""
        number = channel.raw.channel_number
        self._led[number] = channel
        channel.raw.add_on_close_callback(lambda *_: self._led.pop(number, None))

    def write(self, frames: bytes) -> None:
        """Whole frames, of a channel that is open."""
        self._output_marshaled_frames([frames])  # type: ignore[attr-defined]

    # what pika calls

    def _proto_connection_made(self, transport: Any) -> None:
        if self.params.ssl_options is None:
            self._socket = transport._sock  # noqa: SLF001 - pika has no other way to it
            # pika takes 4 KB at a time, and again until there is nothing; the loop calls again as long as there is
            transport._MAX_RECV_BYTES, transport._MAX_CONSUME_BYTES = TAKEN, 1  # noqa: SLF001 - nowhere else
        super()._proto_connection_made(transport)  # type: ignore[misc]

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        self._socket = None
        super()._proto_connection_lost(error)  # type: ignore[misc]

    def _adapter_emit_data(self, data: bytes) -> None:
        """Overrides pika's, by which every frame leaves."""
        sent = self._send_now(data)
        if sent < len(data):
            super()._adapter_emit_data(data[sent:] if sent else data)  # type: ignore[misc]

    def _send_now(self, data: bytes) -> int:
        """How many bytes the socket took: none while others wait before them, nor with TLS, which has its own rules.

        An error is pika's to meet, which tries again.
        """
        if self._socket is None or self._transport.get_write_buffer_size():
            return 0
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    def _on_data_available(self, data_in: bytes) -> None:
        """Overrides pika's, to which everything comes that was received."""
        data, at = self._frame_buffer + data_in, 0
        if data.startswith(b"AMQP"):
            # the broker speaks another version
            super()._on_data_available(data_in)  # type: ignore[misc]
            return
        self._frame_buffer = b""
        try:
            while len(data) - at >= _AROUND:
                kind, channel, size = _BEGIN.unpack_from(data, at)
                end = at + _AROUND + size
                if end > len(data):
                    break
                past = self._past(self._led.get(channel), data, at, end) if kind == spec.FRAME_METHOD else at
                if past is None:
                    break
                if past == at:
                    frame, at = data[at:end], end
                    super()._on_data_available(frame)  # type: ignore[misc]
                else:
                    # pika's heartbeat looks at it
                    self.bytes_received += past - at
                    at = past
        finally:
            # also when a callback of pika's raises: what came behind its frame is for the next round
            self._frame_buffer = data[at:]

    def _past(self, channel: Channel | None, data: bytes, at: int, end: int) -> int | None:
        """Where that ends which begins with the method at `at` and went to the channel; `at` if it is pika's, None if
        the rest of it has not come yet.
        """
        method = at + spec.FRAME_HEADER_SIZE
        if channel is None or data[end - 1] != spec.FRAME_END:
            return at
        if end - at == _ACK_SIZE and data.startswith(_ACK_METHOD, method):
            tag, bits = _ACK.unpack_from(data, method + len(_ACK_METHOD))
            return end if channel.confirmed(tag, bool(bits & 1), taken=True) else at
        if channel.plain and data.startswith(DELIVER_METHOD, method):
            try:
                found = read_delivery(data, at, end)
            except NotPlain:
                return at
            if found is None:
                return None
            channel.deliver(found.tag, found.key, found.body)
            return found.end
        return at

    # what its owner calls

    async def end(self) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add_on_close_callback(lambda _raw, _reason: tell(ended, None))
        self.add_on_open_error_callback(lambda _raw, _reason: tell(ended, None))
        if not self.is_closing:
            self.close()
        await asyncio.wait({ended}, timeout=CLOSE_WITHIN)
        if not ended.done():
            self.drop("no answer to the goodbye")
            await asyncio.wait({ended}, timeout=CLOSE_WITHIN)

    def drop(self, why: str) -> None:
        """Closes the socket without a word, which pika's public methods cannot."""
        if getattr(self, "_transport", None) is None and getattr(self, "_connection_workflow", None) is None:
            return  # its connecting was called off: there is nothing to end, and pika stumbles over that
        self._terminate_stream(AMQPError(why))  # type: ignore[attr-defined]
