"""The log as it lies on the broker, read with pika alone: an administrator's connection of its own."""

import contextlib
import threading

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties

from tests.chaos.history import Raw

STREAM = "fleetbus.log"


class LogReader:
    """Follows the stream in a thread, over restarts of the broker. `records` only grows."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.records: list[Raw] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="raw-log", daemon=True)
        self._thread.start()

    @property
    def next_offset(self) -> int:
        return self.records[-1].offset + 1 if self.records else 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (AMQPError, OSError):
                self._stop.wait(0.5)

    def _follow(self) -> None:
        parameters = pika.URLParameters(self._url)
        parameters.heartbeat = 5
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=1000)
            channel.basic_consume(STREAM, self._on_message, arguments={"x-stream-offset": self.next_offset})
            while not self._stop.is_set():
                connection.process_data_events(time_limit=0.2)
        finally:
            with contextlib.suppress(AMQPError, OSError):
                connection.close()

    def _on_message(
        self, channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        offset = int(str((properties.headers or {})["x-stream-offset"]))
        # the broker hands out whole chunks, from before the offset that was asked for
        if offset >= self.next_offset:
            self.records.append(Raw(offset, properties.user_id or "", str(method.routing_key), body))
        channel.basic_ack(method.delivery_tag or 0)
