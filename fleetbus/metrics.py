"""What a service measures of itself, sent to StatsD when there is one: a bus that counts, and a look at the process.

Names are `fleetbus.<service>.<metric>`; `METRICS` has all metrics, each with its unit.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import psutil

from bus.ports import Bus, Inbox, Message, Reader, Record, Seat, Start, Stream, StreamName
from fleetbus.errors import Wrong

Metric = Literal[
    "bus.connected",
    "bus.published",
    "bus.confirm",
    "bus.failed",
    "bus.delivered",
    "bus.undelivered",
    "bus.read",
    "process.cpu",
    "process.memory",
    "process.threads",
    "archive.unsealed",
    "views.lag",
    "views.documents",
    "views.set_aside",
    "views.left_alone",
    "views.restarts",
    "consumer.lag",
    "consumer.lag_seconds",
    "consumer.round_trip",
]
#: Gauges that a service adds to those of its process, as they are now.
Gauges = Callable[[], Mapping[Metric, float]]

#: Metric -> what it measures.
METRICS = MappingProxyType[Metric, str](
    {
        "bus.connected": "gauge: 1 while the bus is connected, else 0",
        "bus.published": "counter: events that were confirmed",
        "bus.confirm": "timer: milliseconds until an event was confirmed",
        "bus.failed": "counter: events and deliveries that were not confirmed",
        "bus.delivered": "counter: deliveries that an inbox took",
        "bus.undelivered": "counter: deliveries for which there was no inbox",
        "bus.read": "counter: records read from streams",
        "process.cpu": "gauge: percent of one processor",
        "process.memory": "gauge: bytes of resident memory",
        "process.threads": "gauge: threads",
        "archive.unsealed": "gauge: records that were read and are not in a sealed segment yet (archiver)",
        "views.lag": "gauge: records of the log that are not in the live views yet (projections)",
        "views.documents": "gauge: documents written since the start (projections)",
        "views.set_aside": "gauge: documents that are set aside (projections)",
        "views.left_alone": "gauge: records that left such documents alone since the start (projections)",
        "views.restarts": "gauge: errors after which a part was started again, since the start (projections)",
        "consumer.lag": "gauge: records that the consumer which is furthest behind has not read yet",
        "consumer.lag_seconds": "gauge: seconds since which it has not reached an end of its stream",
        "consumer.round_trip": "gauge: seconds until an event of its own was read back from the log (handlers)",
    }
)
#: Seconds between two looks at the process.
LOOK_EVERY = 10.0
STATSD_PORT = 8125


class Metrics:
    """Sends over UDP: what nobody takes is lost, and nothing waits for it."""

    def __init__(self, url: str, service: str) -> None:
        from statsd import StatsClient

        try:
            at = urlsplit(url)
            host, port = at.hostname, at.port or STATSD_PORT
            if not host:
                raise ValueError("it names no host")
            self._client: Any = StatsClient(host, port, prefix=f"fleetbus.{service}")
        except (ValueError, OSError) as error:
            raise Wrong(
                f"FLEETBUS_STATSD_URL: {url!r} leads nowhere ({error}); right would be statsd://HOST:{STATSD_PORT}"
            ) from None

    def count(self, metric: Metric, by: int = 1) -> None:
        self._client.incr(metric, by)

    def gauge(self, metric: Metric, value: float) -> None:
        self._client.gauge(metric, value)

    def timing(self, metric: Metric, milliseconds: float) -> None:
        self._client.timing(metric, milliseconds)


@contextlib.contextmanager
def measured(bus: Bus, url: str, service: str, gauges: Gauges = dict) -> Iterator[Bus]:
    """The bus, and while it is in use a look at the process now and then. Without a URL, the bus as it is."""
    if not url:
        yield bus
        return
    metrics, stop = Metrics(url, service), threading.Event()
    look = threading.Thread(target=_look, args=(metrics, bus, gauges, stop), name="metrics", daemon=True)
    look.start()
    try:
        yield MeasuredBus(bus, metrics)
    finally:
        stop.set()
        look.join(1.0)


def _look(metrics: Metrics, bus: Bus, gauges: Gauges, stop: threading.Event) -> None:
    process = psutil.Process()
    process.cpu_percent()
    while True:
        metrics.gauge("bus.connected", int(bus.connected))
        metrics.gauge("process.memory", process.memory_info().rss)
        metrics.gauge("process.threads", process.num_threads())
        for metric, value in gauges().items():
            metrics.gauge(metric, value)
        if stop.wait(LOOK_EVERY):
            return
        metrics.gauge("process.cpu", process.cpu_percent())


class MeasuredBus:
    """`bus.ports.Bus` around another one, which it counts."""

    def __init__(self, bus: Bus, metrics: Metrics) -> None:
        self._bus = bus
        self._metrics = metrics

    @property
    def user(self) -> str:
        return self._bus.user

    @property
    def connected(self) -> bool:
        return self._bus.connected

    def publish(self, message: Message) -> Future[None]:
        began, metrics = time.monotonic(), self._metrics

        def confirmed(future: Future[None]) -> None:
            if future.cancelled() or future.exception() is not None:
                metrics.count("bus.failed")
            else:
                metrics.count("bus.published")
                metrics.timing("bus.confirm", (time.monotonic() - began) * 1000)

        future = self._bus.publish(message)
        future.add_done_callback(confirmed)
        return future

    def deliver(self, key: str, body: bytes, id: str = "") -> Future[bool]:
        metrics = self._metrics

        def delivered(future: Future[bool]) -> None:
            if future.cancelled() or future.exception() is not None:
                metrics.count("bus.failed")
            else:
                metrics.count("bus.delivered" if future.result() else "bus.undelivered")

        future = self._bus.deliver(key, body, id)
        future.add_done_callback(delivered)
        return future

    def stream(self, name: StreamName) -> Stream:
        return _MeasuredStream(self._bus.stream(name), self._metrics)

    def seat(self, name: str) -> Seat:
        return self._bus.seat(name)

    def inbox(self, node: str) -> Inbox:
        return self._bus.inbox(node)

    def remove_inbox(self, node: str) -> None:
        self._bus.remove_inbox(node)

    def close(self) -> None:
        self._bus.close()


class _MeasuredStream:
    def __init__(self, stream: Stream, metrics: Metrics) -> None:
        self._stream = stream
        self._metrics = metrics
        self.first = stream.first
        self.next_offset = stream.next_offset
        self.offset_at = stream.offset_at

    def read_from(self, start: Start) -> Reader:
        return _MeasuredReader(self._stream.read_from(start), self._metrics)


class _MeasuredReader:
    def __init__(self, reader: Reader, metrics: Metrics) -> None:
        self._reader = reader
        self._metrics = metrics

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        records = self._reader.read(limit, timeout)
        if records:
            self._metrics.count("bus.read", len(records))
        return records

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
