"""One AMQP channel, with answers that are awaited instead of called back.

All of this runs in the I/O thread. Nothing here cancels a consumer: pika then rejects what is still on its way, and a
stream closes the whole connection upon a reject. Whoever is done with a consumer closes its channel.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pika.connection import Connection as PikaConnection
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from bus.rabbitmq.pen import Pen

T = TypeVar("T")

OnDelivery = Callable[[Basic.Deliver, BasicProperties, bytes], None]
#: (delivery tag, key, body)
OnPlain = Callable[[int, str, bytes], None]
#: (key, body)
OnReturn = Callable[[str, bytes], None]
#: (delivery tag, and all before it, whether the broker took it)
OnConfirm = Callable[[int, bool, bool], None]

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406


def tell(future: "asyncio.Future[T]", value: T) -> None:
    """Unless nobody waits any more."""
    if not future.done():
        future.set_result(value)


def reason_of(error: BaseException) -> str:
    """The innermost error of those that pika wrapped into each other, in words."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        several = getattr(inner, "exceptions", None)
        inner = several[-1] if several else getattr(inner, "exception", inner.args[0] if inner.args else None)
    return str(getattr(error, "reply_text", None) or getattr(error, "strerror", None) or inner or type(error).__name__)


class ChannelGone(Exception):
    """The channel ended. `code` is the broker's reason to close this channel, or 0 when the connection was lost."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def taken(self) -> bool:
        """Another consumer has the queue for itself."""
        return self.code == ACCESS_REFUSED and "exclusive use" in self.text

    @property
    def refused(self) -> bool:
        """This user may not. A failed precondition is no refusal: a stream that is just starting fails it."""
        return self.code == ACCESS_REFUSED and not self.taken

    @property
    def missing(self) -> bool:
        """There is no such thing, or not yet: a broker that is starting does not find its queues at first."""
        return self.code == NOT_FOUND

    @classmethod
    def because(cls, reason: BaseException) -> "ChannelGone":
        if isinstance(reason, ChannelClosedByBroker):
            return cls(reason.reply_code, reason.reply_text)
        return cls(0, reason_of(reason))


class Channel:
    """Every method that waits raises `ChannelGone` when the channel ended before the answer came.

    From then on nobody is called any more, though the broker may still say things until it has closed the channel:
    tags count anew on the next one, and a late confirm would be taken for that of another message.
    """

    def __init__(self, connection: PikaConnection) -> None:
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[ChannelGone] = loop.create_future()
        self._on_confirm: OnConfirm | None = None
        self._on_plain: OnPlain | None = None
        try:
            self.raw = connection.channel(on_open_callback=lambda _raw: tell(self._opened, None))
        except AMQPError as error:
            raise ChannelGone.because(error) from error
        self.raw.add_on_close_callback(lambda _raw, reason: self.lose(ChannelGone.because(reason)))
        self.raw.add_on_cancel_callback(lambda _frame: self._abandon("the broker deleted the queue"))

    async def opened(self) -> None:
        await self._first(self._opened)

    def lose(self, gone: ChannelGone) -> None:
        tell(self._gone, gone)

    def _abandon(self, text: str) -> None:
        self.lose(ChannelGone(NOT_FOUND, text))
        self.close()

    async def gone(self) -> ChannelGone:
        """Waits until the channel has ended, and tells why."""
        return await asyncio.shield(self._gone)

    def close(self) -> None:
        if self.raw.is_open:
            self.raw.close()

    async def _ask(self, method: Callable[..., object], **arguments: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(**arguments, callback=lambda frame: tell(answer, frame))
        except AMQPError as error:
            raise self._gone.result() if self._gone.done() else ChannelGone.because(error) from error
        return await self._first(answer)

    async def _first(self, answer: "asyncio.Future[T]") -> T:
        """The answer, unless the channel ended before it came."""
        either: set[asyncio.Future[Any]] = {answer, self._gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        raise self._gone.result()

    async def exchange_exists(self, exchange: str) -> None:
        """Needs no permission. Raises `ChannelGone` with 404 when there is none."""
        await self._ask(self.raw.exchange_declare, exchange=exchange, passive=True)

    async def queue_exists(self, queue: str) -> None:
        """Needs no permission. Raises `ChannelGone` with 404 when there is none."""
        await self._ask(self.raw.queue_declare, queue=queue, passive=True)

    async def count(self, queue: str) -> int:
        """Messages that wait in a queue and are with nobody. Raises as `queue_exists`."""
        answer = await self._ask(self.raw.queue_declare, queue=queue, passive=True)
        return int(answer.method.message_count)

    async def declare_queue(self, queue: str) -> None:
        """A durable classic queue."""
        await self._ask(self.raw.queue_declare, queue=queue, durable=True)

    async def delete_queue(self, queue: str) -> None:
        """Harmless when there is none."""
        await self._ask(self.raw.queue_delete, queue=queue)

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        await self._ask(self.raw.queue_bind, queue=queue, exchange=exchange, routing_key=key)

    async def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Harmless when there is no such binding."""
        await self._ask(self.raw.queue_unbind, queue=queue, exchange=exchange, routing_key=key)

    async def prefetch(self, count: int) -> None:
        """How many deliveries each later consumer may have unacknowledged; also a round trip through the channel."""
        await self._ask(self.raw.basic_qos, prefetch_count=count)

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        exclusive: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        def delivered(_raw: object, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            if not self._gone.done():
                on_delivery(method, properties, body)

        await self._ask(
            self.raw.basic_consume,
            queue=queue,
            on_message_callback=delivered,
            exclusive=exclusive,
            arguments=arguments,
        )

    async def consume_plainly(self, queue: str, on_plain: OnPlain, *, exclusive: bool = False) -> None:
        """As `consume`, for whom tag, key and body are enough; the channel has no other consumer."""
        self._on_plain = on_plain

        def arrive(method: Basic.Deliver, _properties: BasicProperties, body: bytes) -> None:
            on_plain(method.delivery_tag or 0, method.routing_key or "", body)

        await self.consume(queue, arrive, exclusive=exclusive)

    @property
    def plain(self) -> bool:
        """Whether deliveries may come by `deliver`, past pika."""
        return self._on_plain is not None and self.raw.is_open

    def deliver(self, tag: int, key: str, body: bytes) -> None:
        if self._on_plain is not None and not self._gone.done():
            self._on_plain(tag, key, body)

    async def confirm(self, on_confirm: OnConfirm) -> None:
        """From now on the broker confirms each message."""
        self._on_confirm = on_confirm

        def confirmed(frame: Any) -> None:
            method = frame.method
            self.confirmed(method.delivery_tag, method.multiple, taken=isinstance(method, Basic.Ack))

        await self._ask(self.raw.confirm_delivery, ack_nack_callback=confirmed)

    def confirmed(self, tag: int, multiple: bool, *, taken: bool) -> bool:
        """Hands on what the broker said. False if nobody asked for it."""
        if self._on_confirm is None:
            return False
        if not self._gone.done():
            self._on_confirm(tag, multiple, taken)
        return True

    def on_return(self, on_return: OnReturn) -> None:
        """What no queue took comes back before it is confirmed."""

        def returned(_raw: object, method: Basic.Return, _properties: BasicProperties, body: bytes) -> None:
            if not self._gone.done():
                on_return(method.routing_key or "", body)

        self.raw.add_on_return_callback(returned)

    def pen(self, exchange: str) -> Pen:
        """Writes what is to be published here: see `Connection.write`."""
        return Pen(self.raw.channel_number, exchange, self.raw.connection.params.frame_max)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        if self.raw.is_open:
            self.raw.basic_ack(tag, multiple)
