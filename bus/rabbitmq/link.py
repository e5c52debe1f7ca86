"""The native stream protocol: one connection to the broker that reads one stream.

All of it runs in the I/O thread, beside pika's connection and on the same loop. What a link reads it hands on chunk by
chunk. Two things bound what waits: credit, in chunks, and `pause`, after which nothing more is taken from the socket.

    connecting ──greeted──▶ ready ──subscribed──▶ reading ──any end──▶ gone
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import Struct

from bus.rabbitmq import frames
from bus.rabbitmq.channel import ACCESS_REFUSED, NOT_FOUND, ChannelGone, tell
from bus.rabbitmq.chunk import BadChunk, Chunk, read_chunk
from bus.rabbitmq.frames import BadFrame, Code, Fields, Frame, Key

#: Seconds between two signs of life of ours, and without one of the broker's after which it is given up; as with AMQP.
HEARTBEAT = 5
SILENT_AFTER = 8.0
#: Seconds that connecting, greeting and each answer may take.
ANSWER_WITHIN = 5.0
#: Chunks that may be on their way or unread. A chunk has what was written at once: one record, or thousands; what many
#: publish at a time has come in eights. With 64, whoever reads fast waited for more.
CREDIT = 256
#: A link has one subscription.
_SUBSCRIPTION = 0
#: The broker's default, in bytes. Chunks are larger when they have to be.
_FRAME_MAX = 2**20

#: Codes that readers know from channels.
_AMQP_CODES: Mapping[int, int] = {Code.NO_STREAM: NOT_FOUND, Code.REFUSED: ACCESS_REFUSED}

#: Is given the chunks that came at once, at least one.
OnChunks = Callable[["Link", list[Chunk]], None]


class Login(Struct, frozen=True):
    """Who we are, on which virtual host, of which broker (its cluster's name; "" when it does not say)."""

    user: str
    password: str
    vhost: str
    cluster: str
    name: str


class Address(Struct, frozen=True):
    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Link(asyncio.Protocol):
    """Methods that wait raise `ChannelGone` when the link ended before the answer came, as a channel's do."""

    def __init__(self, on_chunks: OnChunks) -> None:
        loop = asyncio.get_running_loop()
        self._on_chunks = on_chunks
        self._splitter = frames.Splitter()
        self._answers: asyncio.Queue[Frame] = asyncio.Queue()
        self._gone: asyncio.Future[ChannelGone] = loop.create_future()
        self._number = 0
        self._paused = False
        self._heard = loop.time()
        self._transport: asyncio.Transport | None = None
        self._life = loop.create_task(self._live())

    @classmethod
    async def open(cls, address: Address, login: Login, on_chunks: OnChunks) -> "Link":
        """A link that has been greeted. Raises `ChannelGone` with the reason when there is none."""
        loop = asyncio.get_running_loop()
        link: Link | None = None
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                context = ssl.create_default_context() if address.tls else None
                _, link = await loop.create_connection(lambda: cls(on_chunks), address.host, address.port, ssl=context)
                await link.greet(login)
                return link
        except TimeoutError:
            reason = ChannelGone(0, "no answer")
        except (OSError, BadFrame) as error:
            reason = ChannelGone(0, getattr(error, "strerror", None) or str(error))
        except ChannelGone as gone:
            reason = gone
        except asyncio.CancelledError:
            # the bus is being closed
            if link is not None:
                link.close()
            raise
        if link is not None:
            link.close()
        raise reason

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        chunks: list[Chunk] = []
        try:
            for frame in self._splitter.feed(data):
                self._take(frame, chunks)
        except (BadFrame, BadChunk) as error:
            self.lose(ChannelGone(0, str(error)))
        if chunks:
            self._on_chunks(self, chunks)

    def connection_lost(self, error: Exception | None) -> None:
        self.lose(ChannelGone(0, str(error) if error else "the broker closed the connection"))

    # what its owner calls

    async def greet(self, login: Login) -> None:
        """To be called once, before everything else. Raises `BadFrame`, too."""
        theirs = await self._ask(frames.peer_properties(1, {"connection_name": login.name}), Key.PEER_PROPERTIES)
        cluster = theirs.properties().get("cluster_name", "")
        if login.cluster and cluster and cluster != login.cluster:
            # an offset means nothing in another broker's log
            raise ChannelGone(0, f"it belongs to the broker {cluster!r}, and the bus to {login.cluster!r}")
        mechanisms = (await self._ask(frames.handshake(2), Key.SASL_HANDSHAKE)).texts()
        if "PLAIN" not in mechanisms:
            raise ChannelGone(0, f"it does not take passwords, only {', '.join(mechanisms)}")
        await self._ask(frames.authenticate(3, login.user, login.password), Key.SASL_AUTHENTICATE)
        await self._frame(Key.TUNE)
        self._send(frames.tune(_FRAME_MAX, HEARTBEAT))
        await self._ask(frames.open_vhost(4, login.vhost), Key.OPEN)
        self._number = 4

    async def subscribe(self, stream: str, offset: int) -> None:
        """From now on chunks come, the first with what is at `offset` or behind it."""
        self._number += 1
        asked = frames.subscribe(self._number, _SUBSCRIPTION, stream, offset, CREDIT)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._ask(asked, Key.SUBSCRIBE, stream)
        except (TimeoutError, BadFrame) as error:
            raise ChannelGone(0, str(error) or "no answer") from None

    def credit(self, chunks: int) -> None:
        """So many chunks more may come."""
        self._send(frames.credit(_SUBSCRIPTION, chunks))

    def pause(self) -> None:
        """Takes nothing more from the socket, so that the broker waits with what it has."""
        if not self._paused and self._transport is not None and not self._gone.done():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None and not self._gone.done():
            self._paused = False
            self._heard = asyncio.get_running_loop().time()
            self._transport.resume_reading()

    async def gone(self) -> ChannelGone:
        """Waits until the link has ended, and tells why."""
        return await asyncio.shield(self._gone)

    def lose(self, gone: ChannelGone) -> None:
        tell(self._gone, gone)
        self._life.cancel()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Says goodbye, and does not wait for the answer."""
        if not self._gone.done():
            self._number += 1
            self._send(frames.close(self._number))
            tell(self._gone, ChannelGone(0, "closed"))
        self._life.cancel()
        if self._transport is not None:
            self._transport.close()

    # the protocol

    async def _ask(self, question: bytes, key: Key, about: str = "") -> Fields:
        """The fields of the answer, behind its number and code."""
        self._send(question)
        fields = Fields((await self._frame(key)).payload)
        fields.take(4)
        code = fields.number(2)
        if code != Code.OK:
            words = frames.WORDS.get(code, f"the broker answers with code {code}")
            raise ChannelGone(_AMQP_CODES.get(code, 0), f"{words}: {about}" if about else words)
        return fields

    async def _frame(self, key: Key) -> Frame:
        """The next frame that is no chunk, which must be this one."""
        waiting = asyncio.ensure_future(self._answers.get())
        try:
            either: set[asyncio.Future[Any]] = {waiting, self._gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise self._gone.result()
            if waiting.result().key != key:
                raise BadFrame(f"the broker sends {waiting.result().key} where {key} is due")
            return waiting.result()
        finally:
            waiting.cancel()

    def _take(self, frame: Frame, chunks: list[Chunk]) -> None:
        if frame.key == Key.DELIVER:
            # the second version says in 8 bytes more which chunk is committed
            chunk = read_chunk(frame.payload, 1 if frame.version == 1 else 9)
            if chunk is None:
                self.credit(1)
            else:
                chunks.append(chunk)
        elif frame.key == Key.CLOSE and not frame.answers:
            fields = Fields(frame.payload)
            number, _ = fields.number(4), fields.number(2)
            self._send(frames.closed(number))
            self.lose(ChannelGone(0, fields.text()))
        elif frame.key == Key.METADATA_UPDATE:
            # the stream was deleted, or has moved to another node
            self.lose(ChannelGone(NOT_FOUND, "the stream is not available any more"))
        elif frame.key == Key.CREDIT:
            self.lose(ChannelGone(0, "the broker does not know the subscription any more"))
        elif frame.key != Key.HEARTBEAT:
            self._answers.put_nowait(frame)

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._gone.done():
            self._transport.write(data)

    async def _live(self) -> None:
        """Tells the broker that we are there, and sees whether it is. What is not read can't be heard."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEARTBEAT / 2)
            self._send(frames.heartbeat())
            if not self._paused and loop.time() - self._heard > SILENT_AFTER:
                self.lose(ChannelGone(0, f"the broker was silent for {SILENT_AFTER:.0f} seconds"))
