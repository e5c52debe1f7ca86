"""One process' way to RabbitMQ."""

import time
from concurrent.futures import Future
from pathlib import Path

from bus.ports import Inbox, Message, Seat, Stream, StreamName
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.inbox import RabbitInbox
from bus.rabbitmq.names import DELIVER, EXCHANGE, inbox_queue
from bus.rabbitmq.native import Native, address
from bus.rabbitmq.pen import Properties
from bus.rabbitmq.probe import ask
from bus.rabbitmq.publisher import Publisher, appended, delivered
from bus.rabbitmq.seat import RabbitSeat
from bus.rabbitmq.stream import RabbitStream
from events.envelope import CONTENT_TYPE


class RabbitBus:
    """`bus.ports.Bus` at an `amqp://` URL, known to the broker as the URL's user.

    It connects by itself, now and after each loss. `folder` is where an agent's inbox remembers what it has bound.
    `stream_url` is where the broker speaks the native stream protocol (`rabbitmq-stream://HOST:PORT`), if it does.
    Futures' callbacks run in the I/O thread: they must neither block nor wait for the bus.
    Raises `BadUrl`.
    """

    def __init__(self, url: str, folder: Path | None = None, stream_url: str = "") -> None:
        if stream_url:
            address(stream_url)
        self._connection = Connection(url)
        self._native = Native(self._connection, stream_url) if stream_url else None
        self._folder = folder
        self._fleet: Publisher[None] = Publisher(self._connection, EXCHANGE, appended)
        self._inboxes: Publisher[bool] = Publisher(self._connection, DELIVER, delivered)

    @property
    def user(self) -> str:
        return self._connection.user

    @property
    def connected(self) -> bool:
        return self._connection.connected

    def publish(self, message: Message) -> Future[None]:
        properties = self._properties(message.id, message.type, message.content_type)
        return self._fleet.publish(message.key, message.body, properties)

    def deliver(self, key: str, body: bytes, id: str = "") -> Future[bool]:
        return self._inboxes.publish(key, body, self._properties(id, "", CONTENT_TYPE))

    def _properties(self, id: str, type: str, content_type: str) -> Properties:
        """The broker refuses a `user_id` that is not the connection's."""
        return Properties(content_type, id or None, int(time.time()), type or None, self._connection.user)

    def stream(self, name: StreamName) -> Stream:
        return RabbitStream(self._connection, self._fleet, name, self._native)

    def seat(self, name: str) -> Seat:
        return RabbitSeat(self._connection, name)

    def inbox(self, node: str) -> Inbox:
        return RabbitInbox(self._connection, node, self._folder and self._folder / f"inbox.{node}.json")

    def remove_inbox(self, node: str) -> None:
        self._connection.wait(ask(self._connection, lambda channel: channel.delete_queue(inbox_queue(node))))

    def close(self) -> None:
        self._connection.close()
        self._fleet.close()
        self._inboxes.close()
