"""A channel with a purpose: opened when the connection is up, and opened anew after each loss."""

import asyncio
from collections.abc import Awaitable, Callable

from bus.rabbitmq.channel import Channel, ChannelGone
from bus.rabbitmq.connection import Connection

#: Seconds until a channel is opened again that the broker closed. (A lost connection has its own back-off.)
AGAIN_AFTER = 0.5
#: Seconds in which a lost connection is known as lost.
BREATH = 0.02


class Lane:
    """Calls `opened` with each new channel, and `lost` when it has ended; both in the I/O thread.

    `opened` prepares the channel; it may raise `ChannelGone`. `lost` says whether to go on.
    """

    def __init__(
        self,
        connection: Connection,
        opened: Callable[[Channel], Awaitable[None]],
        lost: Callable[[ChannelGone], bool],
    ) -> None:
        self._connection = connection
        self._opened = opened
        self._lost = lost
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From any thread."""
        self._connection.soon(self._start)

    def stop(self) -> None:
        """From any thread. Closes the channel; `lost` is not called."""
        self._connection.soon(self._stop)

    def _start(self) -> None:
        self._task = self._connection.spawn(self._live())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _live(self) -> None:
        while True:
            gone = await self._once()
            if not self._lost(gone):
                return
            # even after a loss: until the connection has noticed it, a new channel fails at once
            await asyncio.sleep(AGAIN_AFTER if gone.code else BREATH)

    async def _once(self) -> ChannelGone:
        channel: Channel | None = None
        try:
            channel = await self._connection.channel()
            await self._opened(channel)
            return await channel.gone()
        except ChannelGone as gone:
            return gone
        finally:
            if channel is not None:
                channel.close()
