"""The bus on one machine without a server: SQLite files in WAL mode, and a ZeroMQ bell.

`bus.db` holds log, blobs and inboxes with synchronous=FULL, `telemetry.db` the telemetry with synchronous=NORMAL.
Leases (the seat, who consumes an inbox) have a file of their own, `lease.db`: SQLite's lock on a file is not fair, and
whoever writes a lot would keep others from renewing theirs.

One thread per process writes: it takes what waits, at most 500 messages, into one short transaction, and rings.
Readers look when the bell rings, and once a second anyway.

What the broker verifies on the other side, the file's permissions must: who can write `bus.db` can write anything
into the log. The folder is made with mode 0700.

This file is longer than others because it is one engine: the tables, their one writer, and the readers of each.
"""

import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from bus.bell import Bell, Ear, bell_folder
from bus.errors import BusError, Closed, InboxTaken, NotConfirmed, Refused, Unreachable
from bus.genesis import first_record
from bus.patterns import matches
from bus.ports import Delivered, Message, Reader, Record, Start, StreamName
from events.actors import HANDLERS

SCHEMA = """
CREATE TABLE IF NOT EXISTS {stream} (
    offset INTEGER PRIMARY KEY, at REAL NOT NULL, key TEXT NOT NULL, user TEXT NOT NULL, body BLOB NOT NULL
);
"""
INBOX_SCHEMA = """
CREATE TABLE IF NOT EXISTS binding (node TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (node, key));
CREATE TABLE IF NOT EXISTS delivery (
    tag INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS delivery_by_node ON delivery (node, tag);
"""
LEASE_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL);
"""

#: Messages in one transaction.
BATCH = 500
#: Messages that may wait for the writer; then `publish` blocks.
WINDOW = 10_000
#: Seconds until a message that is not confirmed is given up.
CONFIRM_WITHIN = 30.0
#: Seconds that a lease lasts without being renewed. It is renewed five times as often.
LEASE = 5.0
#: Records of telemetry that are kept, and how many writes pass between two sweeps.
TELEMETRY_KEPT = 200_000
TELEMETRY_SWEEP = 10_000
#: Seconds that opening an inbox waits for a former consumer's lease to end.
OPEN_WITHIN = 15.0
#: Seconds that a statement waits for another process' transaction.
BUSY = 15.0
STREAM_OF = {"command": "log", "event": "log", "telemetry": "telemetry", "blob": "blobs"}


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={synchronous}")
    except sqlite3.Error as error:
        raise Unreachable(f"cannot open {path}: {error}") from error
    return db


class EmbeddedBus:
    """`bus.ports.Bus` over the folder `path`, for the process known as `user`."""

    def __init__(self, path: str | Path, user: str) -> None:
        self._folder = Path(path).resolve()
        self._user = user
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._closing = threading.Event()
        self._bell = Bell(bell_folder(self._folder))
        self._waiting: queue.Queue[_Work | None] = queue.Queue(WINDOW)
        self._open: set[EmbeddedReader | EmbeddedInbox] = set()
        self._leases: set[Lease] = set()
        self._begin()
        self._writer = threading.Thread(target=self._write, name="bus-writer", daemon=True)
        self._writer.start()

    def _begin(self) -> None:
        with contextlib.closing(self.connect("log")) as db:
            db.executescript(SCHEMA.format(stream="log") + SCHEMA.format(stream="blobs") + INBOX_SCHEMA)
            _begin_log(db)
        with contextlib.closing(self.connect("telemetry")) as db:
            db.executescript(SCHEMA.format(stream="telemetry"))
        with contextlib.closing(self.connect("lease")) as db:
            db.executescript(LEASE_SCHEMA)

    @property
    def user(self) -> str:
        return self._user

    @property
    def connected(self) -> bool:
        return not self._closing.is_set()

    def connect(self, name: str) -> sqlite3.Connection:
        """To the file that holds this stream, or the leases."""
        if name in ("telemetry", "lease"):
            return _connect(self._folder / f"{name}.db", "NORMAL")
        return _connect(self._folder / "bus.db", "FULL")

    def ear(self) -> Ear:
        return Ear(bell_folder(self._folder))

    def publish(self, message: Message) -> Future[None]:
        work = _Append(message, STREAM_OF.get(message.key.partition(".")[0], "log"))
        self._submit(work)
        return work.future

    def deliver(self, key: str, body: bytes, id: str = "") -> Future[bool]:
        work = _Deliver(key, body)
        if self._user != HANDLERS:
            work.future.set_exception(Refused(f"only {HANDLERS!r} may deliver, this is {self._user!r}"))
        else:
            self._submit(work)
        return work.future

    def _submit(self, work: "_Work") -> None:
        if self._closing.is_set():
            work.fail(Closed("the bus is closed"))
            return
        try:
            self._waiting.put(work, timeout=CONFIRM_WITHIN)
        except queue.Full:
            work.fail(NotConfirmed(f"{WINDOW} messages have waited for {CONFIRM_WITHIN:.0f} seconds"))
        if self._closing.is_set() and not self._writer.is_alive():
            self._give_up()

    def stream(self, name: StreamName) -> "EmbeddedStream":
        return EmbeddedStream(self, name)

    def seat(self, name: str) -> "EmbeddedSeat":
        return EmbeddedSeat(self.lease(f"seat {name}"))

    def lease(self, name: str) -> "Lease":
        """One that ends with this bus."""
        lease = Lease(self, name)
        self._leases.add(lease)
        return lease

    def inbox(self, node: str) -> "EmbeddedInbox":
        return EmbeddedInbox(self, node)

    def remove_inbox(self, node: str) -> None:
        with contextlib.closing(self.connect("log")) as db, _transaction(db):
            for table in ("delivery", "binding"):
                db.execute(f"DELETE FROM {table} WHERE node = ?", (node,))

    def track(self, part: "EmbeddedReader | EmbeddedInbox") -> None:
        self._open.add(part)

    def forget(self, part: "EmbeddedReader | EmbeddedInbox") -> None:
        self._open.discard(part)

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._writer.join(CONFIRM_WITHIN)
        self._give_up()
        for part in list(self._open):
            part.close()
        for lease in list(self._leases):
            lease.release()
        self._bell.close()

    def _give_up(self) -> None:
        """Nobody waits for ever for what the writer did not get to."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (work := self._waiting.get_nowait()) is not None:
                    work.fail(Closed("the bus was closed"))

    # the writer's thread

    def _write(self) -> None:
        dbs = {"log": self.connect("log"), "telemetry": self.connect("telemetry")}
        swept = 0
        while not (self._closing.is_set() and self._waiting.empty()):
            if batch := self._take():
                self._commit(dbs["log"], [work for work in batch if work.stream != "telemetry"])
                telemetry = [work for work in batch if work.stream == "telemetry"]
                self._commit(dbs["telemetry"], telemetry)
                swept = _sweep(dbs["telemetry"], swept + len(telemetry))
                self._bell.ring()
        for db in dbs.values():
            db.close()

    def _take(self) -> "list[_Work]":
        """What waits, at most a batch; blocks for the first. The None that `close` puts there only wakes it."""
        batch = [self._waiting.get()]
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH:
                batch.append(self._waiting.get_nowait())
        return [work for work in batch if work is not None]

    def _commit(self, db: sqlite3.Connection, batch: "list[_Work]") -> None:
        if not batch:
            return
        try:
            with _transaction(db):
                for work in batch:
                    work.write(db, self._user)
        except sqlite3.Error as error:
            for work in batch:
                work.fail(NotConfirmed(f"cannot write to {self._folder}: {error}"))
        else:
            for work in batch:
                work.done()


class _Append:
    def __init__(self, message: Message, stream: str) -> None:
        self.message = message
        self.stream = stream
        self.future: Future[None] = Future()

    def write(self, db: sqlite3.Connection, user: str) -> None:
        db.execute(
            f"INSERT INTO {self.stream} SELECT coalesce(max(offset) + 1, 0), ?, ?, ?, ? FROM {self.stream}",
            (time.time(), self.message.key, user, self.message.body),
        )

    def done(self) -> None:
        self.future.set_result(None)

    def fail(self, error: BusError) -> None:
        self.future.set_exception(error)


class _Deliver:
    stream = "log"

    def __init__(self, key: str, body: bytes) -> None:
        self.key = key
        self.body = body
        self.future: Future[bool] = Future()
        self._found = False

    def write(self, db: sqlite3.Connection, user: str) -> None:
        node = self.key.partition(".")[0]
        rows = db.execute("SELECT key FROM binding WHERE node = ?", (node,))
        self._found = any(matches(pattern, self.key) for (pattern,) in rows)
        if self._found:
            db.execute("INSERT INTO delivery (node, key, body) VALUES (?, ?, ?)", (node, self.key, self.body))

    def done(self) -> None:
        self.future.set_result(self._found)

    def fail(self, error: BusError) -> None:
        self.future.set_exception(error)


_Work = _Append | _Deliver


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _begin_log(db: sqlite3.Connection) -> None:
    """The first record of a new log, once, whoever opens the file first."""
    with _transaction(db):
        if db.execute("SELECT 1 FROM log LIMIT 1").fetchone() is None:
            message = first_record(f"embedded bus, process {os.getpid()}", datetime.now(UTC), str(uuid4()))
            _Append(message, "log").write(db, HANDLERS)


def _sweep(db: sqlite3.Connection, written: int) -> int:
    """Drops old telemetry every now and then; the newest records stay, so that offsets go on from them."""
    if written < TELEMETRY_SWEEP:
        return written
    with contextlib.suppress(sqlite3.Error), _transaction(db):
        db.execute("DELETE FROM telemetry WHERE offset < (SELECT max(offset) FROM telemetry) - ?", (TELEMETRY_KEPT,))
    return 0


class EmbeddedStream:
    def __init__(self, bus: EmbeddedBus, name: StreamName) -> None:
        self._bus = bus
        self._name = name

    def read_from(self, start: Start) -> Reader:
        return EmbeddedReader(self._bus, self._name, self._resolve(start))

    def _resolve(self, start: Start) -> int:
        if start == "next":
            return self.next_offset()
        return 0 if start == "first" else start

    def first(self) -> Record | None:
        row = self._one(f"SELECT offset, body, key, user FROM {self._name} ORDER BY offset LIMIT 1")
        return Record(*row) if row else None

    def next_offset(self) -> int:
        row = self._one(f"SELECT coalesce(max(offset) + 1, 0) FROM {self._name}")
        return int(row[0]) if row else 0

    def offset_at(self, time: datetime) -> int:
        row = self._one(f"SELECT min(offset) FROM {self._name} WHERE at >= ?", time.timestamp())
        return self.next_offset() if row is None or row[0] is None else int(row[0])

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        try:
            with contextlib.closing(self._bus.connect(self._name)) as db:
                row: tuple[Any, ...] | None = db.execute(sql, values).fetchone()
                return row
        except sqlite3.Error as error:
            raise Unreachable(f"cannot read the {self._name}: {error}") from error


class EmbeddedReader:
    def __init__(self, bus: EmbeddedBus, name: StreamName, start: int) -> None:
        self._bus = bus
        self._db = bus.connect(name)
        self._ear = bus.ear()
        self._sql = f"SELECT offset, body, key, user FROM {name} WHERE offset >= ? ORDER BY offset LIMIT ?"
        self._next = start
        self._closed = False
        self._reading = threading.Lock()
        bus.track(self)

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        with self._reading:
            try:
                return self._read(limit, time.monotonic() + timeout)
            finally:
                if self._closed:
                    self._clean_up()

    def _read(self, limit: int, deadline: float) -> list[Record]:
        while True:
            if self._closed or not self._bus.connected:
                raise Closed("the reader is closed")
            records = self._fetch(limit)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            self._ear.wait(min(left, 1.0))

    def _fetch(self, limit: int) -> list[Record]:
        try:
            records = [Record(*row) for row in self._db.execute(self._sql, (self._next, limit))]
        except sqlite3.OperationalError:
            return []
        if records:
            self._next = records[-1].next_offset
        return records

    def close(self) -> None:
        """From another thread it only marks: the reading one may be inside SQLite or ZeroMQ, and cleans up itself."""
        self._closed = True
        self._bus.forget(self)
        if self._reading.acquire(blocking=False):
            self._clean_up()
            self._reading.release()

    def _clean_up(self) -> None:
        self._ear.close()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lease:
    """A row with an owner and an end. A thread renews it; when that fails in time it is lost for ever."""

    TAKE = (
        "INSERT INTO lease (name, owner, until) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET owner = excluded.owner, until = excluded.until WHERE owner = excluded.owner OR until < ?"
    )

    def __init__(self, bus: EmbeddedBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._owner = f"{os.getpid()}-{uuid4()}"
        self._until = 0.0
        self._stop = threading.Event()
        self._lost = False

    def acquire(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds, then holds it until `release`, or until it is lost."""
        deadline = time.monotonic() + timeout
        with contextlib.closing(self._bus.connect("lease")) as db:
            while not self._take(db):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(left, 0.2))
        threading.Thread(target=self._renew, name=f"lease of {self._name}", daemon=True).start()
        return True

    def _take(self, db: sqlite3.Connection) -> bool:
        """Takes or renews. The wall clock is one machine's, shared by all who compare with it."""
        now, began = time.time(), time.monotonic()
        try:
            with _transaction(db):
                taken = db.execute(self.TAKE, (self._name, self._owner, now + LEASE, now)).rowcount > 0
        except sqlite3.Error:
            return False
        if taken:
            self._until = began + LEASE
        return taken

    def _renew(self) -> None:
        with contextlib.closing(self._bus.connect("lease")) as db:
            while not self._stop.wait(LEASE / 5):
                if not self.held or (not self._take(db) and not self.held):
                    self._lost = True
                    return

    @property
    def held(self) -> bool:
        """By the monotonic clock: a process that was frozen past its lease knows before it does anything."""
        return not self._lost and time.monotonic() < self._until

    def release(self) -> None:
        held, self._lost = self.held, True
        self._stop.set()
        if held:
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._bus.connect("lease")) as db:
                db.execute("DELETE FROM lease WHERE name = ? AND owner = ?", (self._name, self._owner))


class EmbeddedSeat:
    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def acquire(self, timeout: float) -> bool:
        return self._lease.acquire(timeout)

    @property
    def held(self) -> bool:
        return self._lease.held

    def release(self) -> None:
        self._lease.release()


class EmbeddedInbox:
    def __init__(self, bus: EmbeddedBus, node: str) -> None:
        self._bus = bus
        self._node = node
        self._db = bus.connect("log")
        self._ear = bus.ear()
        self._lease = bus.lease(f"inbox {node}")
        self._generation = 0
        bus.track(self)
        self._read_to = 0
        self._closed = False
        self._reading = threading.Lock()

    @property
    def generation(self) -> int:
        return self._generation

    def open(self, keys: Sequence[str]) -> None:
        if not self._lease.acquire(OPEN_WITHIN):
            raise InboxTaken(f"another agent consumes the inbox of {self._node!r}; are there two with one id?")
        self.bind(keys)
        self._read_to = 0
        self._generation += 1

    def bind(self, keys: Sequence[str]) -> None:
        with self._writing():
            self._db.execute("DELETE FROM binding WHERE node = ?", (self._node,))
            self._db.executemany("INSERT INTO binding (node, key) VALUES (?, ?)", [(self._node, key) for key in keys])

    def read(self, limit: int = 100, timeout: float = 1.0) -> list[Delivered]:
        with self._reading:
            try:
                return self._read(limit, time.monotonic() + timeout)
            finally:
                if self._closed:
                    self._clean_up()

    def _read(self, limit: int, deadline: float) -> list[Delivered]:
        while True:
            self._check()
            found = self._fetch(limit)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            self._ear.wait(min(left, 1.0))

    def _check(self) -> None:
        if self._closed or not self._bus.connected:
            raise Closed("the inbox is closed")
        if not self._lease.held:
            raise InboxTaken(f"the lease on the inbox of node {self._node!r} ran out; another agent may consume it")

    def _fetch(self, limit: int) -> list[Delivered]:
        sql = "SELECT tag, key, body FROM delivery WHERE node = ? AND tag > ? ORDER BY tag LIMIT ?"
        try:
            rows = self._db.execute(sql, (self._node, self._read_to, limit)).fetchall()
        except sqlite3.OperationalError:
            return []
        if rows:
            self._read_to = rows[-1][0]
        return [Delivered(*row) for row in rows]

    def ack(self, tags: Sequence[int]) -> None:
        with self._writing():
            self._db.executemany("DELETE FROM delivery WHERE node = ? AND tag = ?", [(self._node, tag) for tag in tags])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _transaction(self._db):
                yield
        except sqlite3.Error as error:
            raise Unreachable(f"cannot write to the inbox of {self._node!r}: {error}") from error

    def close(self) -> None:
        """From another thread than the reading one it only marks, as `EmbeddedReader.close` does."""
        if self._closed:
            return
        self._closed = True
        self._lease.release()
        self._bus.forget(self)
        if self._reading.acquire(blocking=False):
            self._clean_up()
            self._reading.release()

    def _clean_up(self) -> None:
        self._ear.close()
        self._db.close()
