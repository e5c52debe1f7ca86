"""Over AMQP: straight to the broker, confirmed, from any number of threads.

A pool has some connections, each opened when it is first needed and used by one thread at a time. An event is sent and
its confirmation waited for; whatever breaks on the way, the connection is dropped and the same event is sent again
over a new one. A connection that did not answer is never used again: its late answer would be taken for the next one's.
"""

from __future__ import annotations

import os
import socket
import ssl
import weakref
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import amqp
import kombu
from amqp.exceptions import AMQPError, MessageNacked
from kombu.connection import ConnectionPool
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.pools import ProducerPool
from kombu.transport.pyamqp import Transport

from fleetbus_client import envelope, forks
from fleetbus_client.envelope import CONTENT_TYPE, EXPIRES_AFTER, Data, Envelope, Expiry
from fleetbus_client.errors import Closed, Misuse, Refused
from fleetbus_client.resending import LONGEST, Again, check_patience, until_answered

if TYPE_CHECKING:
    from typing_extensions import Self

EXCHANGE = "fleetbus"
GOOD_URL = "amqp://service.NAME:PASSWORD@HOST:PORT/VHOST (amqps with TLS; the vhost / is written %2F)"
#: Seconds that one attempt to connect, and the broker's word on one event, may take.
CONNECT_WITHIN, CONFIRM_WITHIN = 5.0, 10.0

#: The broker gives an event back.
NO_ROUTE = 312

#: What may pass by itself: a lost or refused connection, a broker that stops or starts, one that cannot store now.
_TROUBLE = (OSError, AMQPError, OperationalError, MessageNacked)
#: What does not: the login, a permission, the size of a message, a virtual host that does not exist.
_REFUSALS = (amqp.AccessRefused, amqp.PreconditionFailed, amqp.NotAllowed, ssl.SSLCertVerificationError)


class AmqpClient:
    """Says what a service has to say, as the broker user `service.<name>`. For all threads of a process, and forks.

    `url` is `amqp://service.NAME:PASSWORD@HOST:PORT/VHOST`. `ca` is the file of the authority that signed the broker's
    certificate, when the system does not know it (`amqps` only). `connections`: at most so many are open, and so many
    events on their way, at a time. `give_up_after`: seconds for which an event is sent again, at most 60.

    Nothing is contacted before the first event. Raises `Misuse`.
    """

    def __init__(
        self, url: str, *, ca: str | None = None, connections: int = 10, give_up_after: float = LONGEST
    ) -> None:
        self._url, self._tls = url, _tls(url, ca)
        self.user = _user(url)
        self.service = envelope.check_service(self.user[len("service.") :])
        self._connections = connections
        self._seconds = check_patience(give_up_after)
        self._closed = False
        self._start()
        forks.tell(self)

    def publish(
        self,
        type: str,
        subject: str,
        data: Data,
        *,
        id: str | None = None,
        time: datetime | None = None,
        dataschema: str = "",
        correlation: str | None = None,
        causation: str | None = None,
    ) -> str:
        """Tells a fact, `event.<service>.<what happened>`, and returns its id when it is in the log.

        `id` is a UUID that you choose, so that you can say it again after `Unconfirmed` or a crash. `time` is when it
        happened, if not now. `correlation` and `causation` are the ids of the story and of the event that led to it.
        Raises `Misuse`, `Refused`, `Unconfirmed`, `Closed`.
        """
        return self._send(
            envelope.fact(
                self.service,
                type,
                subject,
                data,
                id=id,
                time=time,
                dataschema=dataschema,
                correlation=correlation,
                causation=causation,
            )
        )

    def command(
        self,
        type: str,
        subject: str,
        data: Data,
        *,
        id: str | None = None,
        version: int = 1,
        expires: Expiry = EXPIRES_AFTER,
        correlation: str | None = None,
        causation: str | None = None,
    ) -> str:
        """Sends a command, such as `command.job.submit`, and returns its id when it is in the log.

        What comes of it is said in the log, not here; `HttpClient.ask` waits for it. `version` is that of the schema
        which the data fits. `expires`: a moment or a time from now, after which nobody acts on it; None for never.
        Raises `Misuse`, `Refused`, `Unconfirmed`, `Closed`.
        """
        return self._send(
            envelope.command(
                self.service,
                type,
                subject,
                data,
                id=id,
                version=version,
                expires=expires,
                correlation=correlation,
                causation=causation,
            )
        )

    def close(self) -> None:
        """Closes the connections; calls on their way in other threads end with `Closed`. Harmless when called again."""
        self._closed = True
        for connection in list(self._open):
            with suppress(*_TROUBLE, AttributeError):
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AmqpClient {self._where}>"

    # ------------------------------------------------------------------ sending

    def _send(self, event: Envelope) -> str:
        until_answered(lambda left: self._attempt(event, left), what=event.type, id=event.id, seconds=self._seconds)
        return event.id

    def _attempt(self, event: Envelope, left: float) -> None:
        if self._closed:
            raise Closed(f"{self!r} is closed")
        try:
            producer = self._pool.acquire(block=True, timeout=left)
        except LimitExceeded:
            raise Again(f"all {self._connections} connections were busy", reached=False) from None
        reached = False
        with producer:
            try:
                _ = producer.channel  # connects, if need be
                reached = True
                self._publish(producer, event, min(left, CONFIRM_WITHIN))
            except _TROUBLE as error:
                _drop(producer.connection)
                raise self._judged(error, reached) from error

    def _publish(self, producer: Any, event: Envelope, within: float) -> None:
        producer.publish(
            event.body,
            exchange=EXCHANGE,
            routing_key=event.type,
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            delivery_mode=2,
            # a broker that has just started confirms what no stream takes yet, and it is gone; this way it comes back
            mandatory=True,
            message_id=event.id,
            type=event.type,
            timestamp=int(event.time.timestamp()),
            user_id=self.user,
            timeout=within,
            confirm_timeout=within,
        )

    def _judged(self, error: Exception, reached: bool) -> Exception:
        """Whether the same event may be sent again after this."""
        # kombu wraps what it takes for passing
        cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ else error
        if isinstance(cause, _REFUSALS) and "is down" not in str(cause):
            return Refused(f"{self._where} refuses: {_words_of(cause)}")
        if isinstance(cause, amqp.NotFound):
            return Again(f"{self._where}: {_words_of(cause)}; `fleetbus setup` makes it", reached=False)
        if getattr(cause, "reply_code", 0) == NO_ROUTE:
            return Again(f"{self._where}: no stream takes it now; `fleetbus setup` makes them", reached=False)
        return Again(f"{self._where}: {_words_of(cause)}", reached=reached)

    @property
    def _where(self) -> str:
        at = urlsplit(self._url)
        return f"RabbitMQ at {at.hostname}:{at.port or (5671 if self._tls else 5672)} as {self.user!r}"

    # ------------------------------------------------------------------ connections

    def _start(self) -> None:
        """An empty pool. What is open is known in `_open`, for the end and for forks."""
        self._open: weakref.WeakSet[amqp.Connection] = weakref.WeakSet()
        connection = kombu.Connection(
            self._url,
            # by its name kombu would look for another library first, at each connection, under a lock of the import
            transport=Transport,
            ssl=self._tls,
            connect_timeout=CONNECT_WITHIN,
            # nobody would send heartbeats between two events; every event is waited for with a limit instead
            heartbeat=0,
            transport_options={
                "confirm_publish": True,
                # one attempt: this file decides when there is another
                "max_retries": 0,
                # bounds what kombu waits for without a limit of its own
                "read_timeout": CONFIRM_WITHIN,
                "write_timeout": CONFIRM_WITHIN,
                "on_open": self._open.add,
                "client_properties": {"connection_name": f"fleetbus-client {self.user} {os.getpid()}"},
            },
        )
        connections = _Connections(connection, limit=self._connections)
        self._pool = ProducerPool(connections, limit=self._connections, close_after_fork=False)

    def after_fork(self) -> None:
        """In a child: the parent's connections stay the parent's.

        Their sockets are closed without a word: a polite end, or shutting the socket down, would end them for both.
        """
        for connection in list(self._open):
            sock = connection.transport.sock if connection.connected else None
            if isinstance(sock, socket.socket):
                sock.close()
        self._start()


class _Connections(ConnectionPool):  # type: ignore[misc]  # kombu has no types
    #: kombu would shut the parent's sockets down in a child that multiprocessing made, and close the child's new pool.
    close_after_fork = False


def _drop(connection: Any) -> None:
    """Ends a connection without asking the broker, who may not answer."""
    # kombu's `collect` is quick only while there is a transport, which this makes sure of
    assert connection.transport is not None
    connection.collect()


def _user(url: str) -> str:
    try:
        parts = urlsplit(url)
        user = unquote(parts.username or "")
        good = parts.scheme in {"amqp", "amqps"} and parts.hostname and (parts.port or 1)
    except ValueError:
        good, user = False, ""
    if not good or ";" in url:
        raise Misuse(f"no URL of a broker; right would be {GOOD_URL}")
    if not user.startswith("service."):
        raise Misuse(f"the broker user is {user!r}; services have users of their own, service.NAME: {GOOD_URL}")
    return user


def _tls(url: str, ca: str | None) -> dict[str, Any] | bool:
    """What the TLS layer checks: the chain and the name."""
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        if ca is not None:
            raise Misuse("ca is for amqps://, and the URL has another scheme")
        return False
    return {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": ca, "server_hostname": parts.hostname}


def _words_of(error: BaseException) -> str:
    """What went wrong, for people. py-amqp's exceptions show their method first."""
    said = getattr(error, "reply_text", None) or str(error)
    if isinstance(error, MessageNacked):
        said = "it could not store the event"
    if isinstance(error, socket.timeout):
        said = "it did not answer in time"
    return str(said) or error.__class__.__name__
