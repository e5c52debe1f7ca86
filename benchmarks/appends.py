"""Confirmed appends per second from one process: fleetbus, with `stream` and with `fsync`; bare pika with windowed
confirms; kombu; and bytes that were made before the clock ran, which is what the broker takes from anybody.
"""

import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import kombu
import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.frame import Method

from benchmarks.measure import Goal, Run, Table, compare
from benchmarks.place import Place, Progress
from bus.ports import Bus, Message
from bus.rabbitmq.pen import Pen, Properties
from bus.wiring import open_bus
from events.envelope import CONTENT_TYPE

#: Events in one run. kombu waits for each confirm, so that fewer say as much.
COUNT = 20_000
COUNT_ONE_BY_ONE = 1_000
BODY = b'{"data":"' + b"x" * 500 + b'"}'
KEY = "event.bench.said"
#: Unconfirmed messages at a time, as many as fleetbus allows itself.
WINDOW = 10_000
#: Messages that are sent in one piece when they were made beforehand.
PIECE = 200

USER = "service.bench"
UNITS = {"confirmed appends": "events/s"}
GOALS = (
    Goal("confirmed appends", "bare pika, windowed confirms", ">= 0.7"),
    Goal("confirmed appends", "kombu, confirm_publish", ">= 10"),
    Goal("confirmed appends", "fleetbus, fsync", "none: what fsync costs on this disk"),
    Goal("confirmed appends", "bytes made beforehand", "none: what the broker takes"),
)


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    with place.engine() as engine, place.engine("fsync") as durable:
        url = engine.url(USER)
        with closing(open_bus(url, USER)) as bus, closing(open_bus(durable.url(USER), USER)) as lasting:
            contestants: dict[str, Run] = {
                "fleetbus": lambda: _fleetbus(bus),
                "fleetbus, fsync": lambda: _fleetbus(lasting),
                "bare pika, windowed confirms": lambda: _pika(_Publisher(url)),
                "bytes made beforehand": lambda: _pika(_Ready(url)),
                "kombu, confirm_publish": lambda: _kombu(url),
            }
            return [compare("Confirmed appends", contestants, UNITS, GOALS, runs, progress)]


def _ids() -> list[str]:
    """Of one run's events; made before the clock runs, for who gives them ids."""
    return [str(uuid.uuid4()) for _ in range(COUNT)]


def _fleetbus(bus: Bus) -> Mapping[str, float]:
    ids = _ids()
    began = time.perf_counter()
    futures = [bus.publish(Message(KEY, BODY, id, KEY)) for id in ids]
    for future in futures:
        future.result(60)
    return {"confirmed appends": COUNT / (time.perf_counter() - began)}


class _Publisher:
    """The least that publishes with asynchronous confirms: one connection, one channel, a window."""

    def __init__(self, url: str) -> None:
        self._sent = 0
        self._confirmed = 0
        self._began = 0.0
        self.seconds = 0.0
        self._user = urlsplit(url).username
        self._ids = _ids()
        self._connection = SelectConnection(
            pika.URLParameters(url), on_open_callback=lambda connection: connection.channel(on_open_callback=self._open)
        )

    def run(self) -> None:
        self._connection.ioloop.start()

    def _open(self, channel: Channel) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirm)
        self._prepare()
        self._began = time.perf_counter()
        self._send()

    def _prepare(self) -> None:
        """Before the clock runs."""

    def _send(self) -> None:
        while self._sent < COUNT and self._sent - self._confirmed < WINDOW:
            properties = pika.BasicProperties(
                message_id=self._ids[self._sent],
                type=KEY,
                delivery_mode=2,
                user_id=self._user,
                timestamp=int(time.time()),
            )
            self._channel.basic_publish("fleetbus", KEY, BODY, properties)
            self._sent += 1

    def _confirm(self, frame: Method[Any]) -> None:
        self._confirmed = frame.method.delivery_tag if frame.method.multiple else self._confirmed + 1
        if self._confirmed >= COUNT:
            self.seconds = time.perf_counter() - self._began
            self._connection.close()
            self._connection.ioloop.stop()
        elif self._sent - self._confirmed < WINDOW // 2:
            self._send()


class _Ready(_Publisher):
    """Sends pieces of many messages that were made beforehand: the client's part costs next to nothing."""

    def _prepare(self) -> None:
        pen = Pen(self._channel.channel_number, "fleetbus", self._connection.params.frame_max)
        messages = [self._message(pen, id) for id in self._ids]
        self._pieces = [b"".join(messages[at : at + PIECE]) for at in range(0, COUNT, PIECE)]

    def _message(self, pen: Pen, id: str) -> bytes:
        said = Properties(CONTENT_TYPE, id, int(time.time()), KEY, self._user)
        return b"".join(pen.frames(KEY, BODY, said))

    def _send(self) -> None:
        while self._sent < COUNT and self._sent - self._confirmed <= WINDOW - PIECE:
            # pika has no public way for frames
            self._connection._adapter_emit_data(self._pieces[self._sent // PIECE])  # type: ignore[attr-defined]  # noqa: SLF001
            self._sent += PIECE


def _pika(publisher: _Publisher) -> Mapping[str, float]:
    publisher.run()
    return {"confirmed appends": COUNT / publisher.seconds}


def _kombu(url: str) -> Mapping[str, float]:
    user = kombu.Connection(url).userid
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        began = time.perf_counter()
        for _ in range(COUNT_ONE_BY_ONE):
            producer.publish(BODY, exchange="fleetbus", routing_key=KEY, delivery_mode=2, user_id=user)
        return {"confirmed appends": COUNT_ONE_BY_ONE / (time.perf_counter() - began)}
