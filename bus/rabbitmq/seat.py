"""The seat on RabbitMQ: a classic queue that one exclusive consumer has."""

import asyncio
import time

from bus.errors import Refused, Unreachable
from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import PATIENCE, Connection
from bus.rabbitmq.names import NO_TOPOLOGY, seat_queue

#: Seconds between two attempts to take it.
TRY_EVERY = 1.0
#: Seconds that one attempt may take, however short the wait is.
AT_LEAST = 1.0


class RabbitSeat:
    """`bus.ports.Seat`. It is on the connection that publishes: who loses one loses the other."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._queue = seat_queue(name)
        self._channel: Channel | None = None
        self._held = False
        self._lost = False

    def acquire(self, timeout: float) -> bool:
        if self._lost or self.held:
            return self.held
        return self._connection.wait(self._acquire(time.monotonic() + timeout), timeout + PATIENCE)

    @property
    def held(self) -> bool:
        return self._held and self._connection.connected

    def release(self) -> None:
        if self.held:
            self._connection.wait(self._release())

    # the I/O thread

    async def _acquire(self, deadline: float) -> bool:
        while True:
            trouble = await self._try(deadline)
            if self._held:
                return True
            left = deadline - time.monotonic()
            if left <= 0 and trouble:
                raise Unreachable(trouble)
            if left <= 0:
                return False
            await asyncio.sleep(min(left, TRY_EVERY))

    async def _try(self, deadline: float) -> str:
        """Takes the seat if it can. What it says is why the broker could not be asked; "" when it was."""
        channel: Channel | None = None
        try:
            async with asyncio.timeout(max(AT_LEAST, deadline - time.monotonic())):
                channel = await self._connection.channel()
                await channel.consume(self._queue, lambda *_: None, exclusive=True)
                self._take(channel)
        except TimeoutError:
            return str(self._connection.unreachable())
        except ChannelGone as gone:
            if gone.refused:
                raise Refused(gone.text) from None
            return "" if gone.taken else NO_TOPOLOGY if gone.missing else gone.text
        finally:
            if channel is not None and not self._held:
                channel.close()
        return ""

    def _take(self, channel: Channel) -> None:
        self._channel = channel
        self._held = True
        self._connection.spawn(self._watch(channel))

    async def _watch(self, channel: Channel) -> None:
        await channel.gone()
        if self._held:
            self._held, self._lost = False, True

    async def _release(self) -> None:
        assert self._channel is not None
        self._held = False
        self._channel.close()
        await self._channel.gone()
