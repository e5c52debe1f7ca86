"""Whether streams are read over the native protocol: when we were told where it is spoken, and it is spoken there.

Everything can be read over AMQP 0.9.1 as well, slower. So who cannot get a link says so once, reads over AMQP, and
tries again later.
"""

import asyncio
from urllib.parse import urlsplit

import structlog

from bus.errors import BadUrl
from bus.rabbitmq.channel import ChannelGone
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.link import Address, Link, OnChunks

SCHEMES = ("rabbitmq-stream", "rabbitmq-stream+tls")
#: The ports that RabbitMQ listens on unless told otherwise.
PORTS = {SCHEMES[0]: 5552, SCHEMES[1]: 5551}
GOOD_URL = (
    "the address of the stream protocol looks like rabbitmq-stream://HOST:PORT, or rabbitmq-stream+tls://HOST:PORT; "
    "user, password and virtual host are those of the bus"
)
#: Seconds until the next try after one that failed.
AGAIN_AFTER = 30.0

log = structlog.get_logger("bus.rabbitmq")


def address(url: str) -> Address:
    """Raises `BadUrl`; its text never holds a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise BadUrl(GOOD_URL) from None
    fits = parts.scheme in SCHEMES and parts.hostname and parts.username is None and parts.path in ("", "/")
    if not fits or parts.hostname is None or parts.query:
        raise BadUrl(GOOD_URL)
    return Address(parts.hostname, port, parts.scheme == SCHEMES[1])


class Native:
    """One process' way to the native protocol. All but the making runs in the I/O thread. Raises `BadUrl`."""

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection = connection
        self._address = address(url)
        self._again_at = 0.0
        self._trouble = ""

    async def link(self, on_chunks: OnChunks) -> Link | None:
        """A new link, or None when there is none to be had now. Waits until there is a connection."""
        login = await self._connection.login()
        now = asyncio.get_running_loop().time
        if now() < self._again_at:
            return None
        try:
            link = await Link.open(self._address, login, on_chunks)
        except ChannelGone as gone:
            self._again_at = now() + AGAIN_AFTER
            self._tell(gone.text)
            return None
        if self._trouble:
            self._trouble = ""
            log.info("the stream protocol can be used again", action="bus.native", at=str(self._address))
        return link

    def _tell(self, trouble: str) -> None:
        if not self._trouble:
            log.warning(
                "the stream protocol cannot be used: streams are read over AMQP 0.9.1, which is slower",
                action="bus.not_native",
                at=str(self._address),
                reason=trouble,
            )
        self._trouble = trouble
