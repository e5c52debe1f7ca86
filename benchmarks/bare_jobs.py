"""What RabbitMQ and pika alone need for the messages of an empty job: the floors under fleetbus's figures.

Three parties, each one process with one thread, pass on the same messages over the same exchanges, stream and inbox,
and do nothing else: nobody decodes, checks or decides. On the first floor nobody keeps a journal or runs anything
either. On the second the node is a keeper: it writes each job down durably before it begins and when it has ended,
together with what it is about to say, and has another process run it.

    caller    command ─▶ stream
    decider             stream ─▶ queued ─▶ stream ─▶ order ─▶ inbox
    node                                                       inbox ─▶ started, finished ─▶ stream
    caller                                                                                   stream ─▶ the end

    python -m benchmarks.bare_jobs decider|node|keeper
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.spec import BasicProperties

from benchmarks.measure import percentile
from bus.rabbitmq.names import DELIVER, EXCHANGE, STREAMS

URL = "BENCH_BARE_BROKER"
INBOX = "bare-inbox"
#: Messages that the broker may have given out without an acknowledgement, and those acknowledged together.
PREFETCH, TOGETHER = 1_000, 100
PERSISTENT = BasicProperties(delivery_mode=2, content_type="application/cloudevents+json")
COMMAND, QUEUED, STARTED, FINISHED, READY = (
    f"event.bare.{word}" for word in ("command", "queued", "started", "finished", "ready")
)
#: Bytes of an empty job's messages, as fleetbus writes them.
SIZES = {COMMAND: 320, QUEUED: 740, STARTED: 630, FINISHED: 670, READY: 100}
ORDER = 420
#: The keeper's journal, and what its other process does: it answers each line with the line.
JOURNAL = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE job (n INTEGER PRIMARY KEY, mark TEXT NOT NULL, run BLOB NOT NULL);
CREATE TABLE outbox (n INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""
RUNNER = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line); sys.stdout.buffer.flush()"


class Party:
    """Hears stream or inbox from now on, and publishes with confirms, which it does not wait for."""

    def __init__(self, url: str, queue: str) -> None:
        self._queue = queue
        self._connection = SelectConnection(pika.URLParameters(url), on_open_callback=self._opened)
        self._channel: Channel

    def run(self) -> None:
        self._connection.ioloop.start()

    def stop(self) -> None:
        self._connection.close()

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda *_: self._connection.ioloop.stop())
        channel.confirm_delivery(lambda _frame: None)
        channel.basic_qos(prefetch_count=PREFETCH)
        if self._queue == INBOX:
            channel.queue_declare(INBOX, durable=True, exclusive=False)
            channel.queue_bind(INBOX, DELIVER, INBOX)
        arguments = {} if self._queue == INBOX else {"x-stream-offset": "next"}
        channel.basic_consume(self._queue, self._delivered, arguments=arguments, callback=lambda _frame: self.ready())

    def ready(self) -> None:
        """It hears. Whoever waits for it is told."""
        self.say(READY, b"")

    def say(self, key: str, job: bytes) -> None:
        self._channel.basic_publish(EXCHANGE, key, job.ljust(SIZES[key]), PERSISTENT)

    def order(self, job: bytes) -> None:
        self._channel.basic_publish(DELIVER, INBOX, job.ljust(ORDER), PERSISTENT)

    def _delivered(self, channel: Channel, method: Any, _properties: BasicProperties, body: bytes) -> None:
        if self._queue == INBOX or method.delivery_tag % TOGETHER == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        self.hear(method.routing_key, body[:16])

    def hear(self, key: str, job: bytes) -> None:
        raise NotImplementedError


class Decider(Party):
    def hear(self, key: str, job: bytes) -> None:
        if key == COMMAND:
            self.say(QUEUED, job)
        elif key == QUEUED:
            self.order(job)


class Node(Party):
    def hear(self, _key: str, job: bytes) -> None:
        self.say(STARTED, job)
        self.say(FINISHED, job)


class Keeper(Node):
    """What came together is written down, run and written down together."""

    def __init__(self, url: str, queue: str) -> None:
        super().__init__(url, queue)
        self._orders: list[bytes] = []
        self._jobs = 0
        self._journal = sqlite3.connect(Path(tempfile.mkdtemp()) / "journal.db", isolation_level=None)
        self._journal.executescript(JOURNAL)
        self._runner = subprocess.Popen([sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def hear(self, _key: str, job: bytes) -> None:
        self._orders.append(job)
        if len(self._orders) == 1:
            self._connection.ioloop.call_later(0, self._serve)

    def _serve(self) -> None:
        orders, self._orders = self._orders, []
        jobs = range(self._jobs, self._jobs + len(orders))
        self._jobs += len(orders)
        run = [(n, "running", b" " * ORDER) for n in jobs]
        self._write("INSERT INTO job VALUES (?, ?, ?)", run, SIZES[STARTED])
        self._run(len(orders))
        self._write("UPDATE job SET mark = ?1 WHERE n = ?2", [("done", n) for n in jobs], SIZES[FINISHED])
        for job in orders:
            super().hear("", job)

    def _write(self, change: str, rows: Sequence[tuple[object, ...]], size: int) -> None:
        self._journal.execute("BEGIN")
        self._journal.executemany(change, rows)
        self._journal.executemany("INSERT INTO outbox (body) VALUES (?)", [(b" " * size,)] * len(rows))
        self._journal.execute("COMMIT")

    def _run(self, count: int) -> None:
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        self._runner.stdin.write(b"job\n" * count)
        self._runner.stdin.flush()
        for _ in range(count):
            self._runner.stdout.readline()


class Caller(Party):
    """One job after another, then many at once."""

    def __init__(self, url: str, trips: int, jobs: int) -> None:
        super().__init__(url, STREAMS["log"])
        self.seconds: list[float] = []
        self.rate = 0.0
        self._trips, self._left = trips, jobs
        self._jobs = jobs

    def ready(self) -> None:
        self._submit()

    def _submit(self) -> None:
        self._began = time.perf_counter()
        self.say(COMMAND, b"job")

    def hear(self, key: str, _job: bytes) -> None:
        if key != FINISHED:
            return
        took = time.perf_counter() - self._began
        if len(self.seconds) < self._trips:
            self.seconds.append(took)
            self._next()
        else:
            self._left -= 1
            if not self._left:
                self.rate = self._jobs / took
                self.stop()

    def _next(self) -> None:
        if len(self.seconds) < self._trips:
            self._submit()
            return
        self._began = time.perf_counter()
        for _ in range(self._jobs):
            self.say(COMMAND, b"job")


def measure(url: str, trips: int, jobs: int) -> Mapping[str, float]:
    """Round trips in milliseconds, and jobs/s. The other two parties run elsewhere."""
    caller = Caller(url, trips, jobs)
    caller.run()
    seconds = [each * 1000 for each in caller.seconds]
    return {
        "round trip p50": percentile(seconds, 0.5),
        "round trip p99": percentile(seconds, 0.99),
        "empty jobs completed": caller.rate,
    }


def wait_for_parties(url: str, start: Callable[[], Any]) -> None:
    """Starts them, and waits until both hear."""
    _Waiting(url, start).run()


class _Waiting(Party):
    def __init__(self, url: str, start: Callable[[], Any]) -> None:
        super().__init__(url, STREAMS["log"])
        self._start, self._missing = start, 2

    def ready(self) -> None:
        self._start()

    def hear(self, key: str, _job: bytes) -> None:
        self._missing -= key == READY
        if not self._missing:
            self.stop()


ROLES: Mapping[str, Callable[[str], Party]] = {
    "decider": lambda url: Decider(url, STREAMS["log"]),
    "node": lambda url: Node(url, INBOX),
    "keeper": lambda url: Keeper(url, INBOX),
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](os.environ[URL]).run()
