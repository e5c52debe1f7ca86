"""The agent's memory: which jobs it took and how far they are, and the facts that the bus has not confirmed yet.

One SQLite file with synchronous=FULL. One thread writes: it takes what waits, at most 500 writes, into one transaction,
so that many jobs share one fsync. A write is marks and facts together: either all of it is in the file or none. What
nobody waits for has patience, and shares the transaction of what comes next.

While the file cannot be written (disk full, input/output error) nothing is lost and nothing goes on: the thread says so
in the log, and tries again twice a second; whoever waits for a write waits.
"""

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from msgspec.structs import replace

from events.codec import BadEvent, encode
from nodeagent import changes
from nodeagent.blobs import chunks
from nodeagent.changes import Change
from nodeagent.errors import JournalClosed, JournalConflict
from nodeagent.facts import Fact
from nodeagent.journal_file import JournalFile, Row

#: Writes in one transaction.
BATCH = 500
#: Seconds between two tries while the file cannot be written.
RETRY_EVERY = 0.5
#: Facts, and bytes of facts and their blobs, from which on the outbox counts as full. What runs may still end.
MAX_ROWS = 100_000
MAX_BYTES = 256_000_000
#: Seconds that a confirmation waits for others to share their transaction: a fact that is still here is sent again,
#: with its id, and nothing else depends on it.
CONFIRMED_WITHIN = 0.02

log = structlog.get_logger(__name__)


class _Write:
    """One write, and how it comes out. `rows` and `size` (bytes): by how much it makes the outbox grow.

    `patience`: seconds that it may wait for others.
    """

    def __init__(
        self, changes: Sequence[Change], facts: Sequence[Fact], patience: float, confirmed: Sequence[Row] = ()
    ) -> None:
        self.changes = changes
        self.facts = facts
        self.due = time.monotonic() + patience
        self.rows = len(facts) - len(confirmed)
        self.size = -sum(row.size for row in confirmed)
        self.future: Future[None] = Future()
        self.error: Exception | None = None

    def settle(self) -> None:
        if self.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.error)


class Journal:
    """The file at `path`, written for the agent start `producer`. Every method may be called from any thread."""

    def __init__(self, path: Path, producer: str) -> None:
        self.file = JournalFile(path)
        self._path = path
        self._producer = producer
        self._seq = 0
        self._rows, self._size = self.file.outbox_total()
        self._trouble = ""
        self._give_up_at: float | None = None
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._ring: Callable[[], None] = lambda: None
        self._db = self.file.connect()
        self._thread = threading.Thread(target=self._loop, name="journal", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def producer(self) -> str:
        return self._producer

    @property
    def trouble(self) -> str:
        """Why the file cannot be written at the moment; empty when it can."""
        return self._trouble

    @property
    def unconfirmed(self) -> int:
        """Facts in the outbox."""
        return self._rows

    @property
    def full(self) -> bool:
        """Whether the outbox holds so much that no new work may begin."""
        return self._rows >= MAX_ROWS or self._size >= MAX_BYTES

    def on_facts(self, ring: Callable[[], None]) -> None:
        """`ring` is called, by the journal's thread, when new facts are in the outbox."""
        self._ring = ring

    def write(self, *changes: Change, facts: Sequence[Fact] = (), patience: float = 0.0) -> Future[None]:
        """All of it or nothing; durable when the future is done. Writes are committed in the order of their calls.

        With `patience` it waits up to so many seconds for another write, to share its transaction.

        The future fails with `JournalConflict` when a mark does not follow, with `BadEvent` when a fact is too large,
        with `JournalClosed` when it could not be written until the journal closed.
        """
        return self._submit(_Write(changes, facts, patience))

    def confirm(self, rows: Sequence[Row]) -> Future[None]:
        """The bus has these facts: they leave the outbox."""
        gone = [change for row in rows for change in changes.confirmed(row.n, blobs=bool(row.blobs))]
        return self._submit(_Write(gone, (), CONFIRMED_WITHIN, rows))

    def _submit(self, write: _Write) -> Future[None]:
        if self._give_up_at is None:
            self._waiting.put(write)
        else:
            write.future.set_exception(JournalClosed(f"the journal {self._path} is closed"))
        return write.future

    def close(self, timeout: float = 5.0) -> None:
        """Writes what waits; what cannot be written within `timeout` seconds fails with `JournalClosed`."""
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + timeout
            self._waiting.put(None)
        self._thread.join()
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # the journal's thread

    def _loop(self) -> None:
        closing = False
        while not closing:
            batch, closing = self._take()
            self._commit(batch)
        self._db.close()

    def _take(self) -> tuple[list[_Write], bool]:
        """What waits, at most a batch, and whether the journal closes after it.

        Blocks for the first, and for more as long as all of them have patience.
        """
        batch: list[_Write] = []
        due: float | None = None
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH:
                write = self._next(due)
                if write is None:
                    return batch, True
                batch.append(write)
                due = write.due if due is None else min(due, write.due)
        return batch, False

    def _next(self, due: float | None) -> _Write | None:
        """Raises `queue.Empty` when nothing more comes until `due`."""
        left = None if due is None else due - time.monotonic()
        return self._waiting.get(block=left is None or left > 0, timeout=left)

    def _commit(self, batch: list[_Write]) -> None:
        """Tries until it is written: a fact that was lost here would be a job without an end."""
        while batch:
            try:
                self._transaction(batch)
            except sqlite3.Error as error:
                self._say_trouble(str(error))
                if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                    self._give_up(batch)
                    return
                time.sleep(RETRY_EVERY)
            else:
                self._say_trouble("")
                self._settle(batch)
                return

    def _transaction(self, batch: list[_Write]) -> None:
        try:
            self._attempt(batch, self._apply)
        except (JournalConflict, BadEvent):
            self._attempt(batch, self._try)

    def _attempt(self, batch: list[_Write], apply: Callable[[_Write, int], int]) -> None:
        seq = self._seq
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for write in batch:
                write.error = None
                seq = apply(write, seq)
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._seq = seq

    def _try(self, write: _Write, seq: int) -> int:
        """With a savepoint for each write: one that conflicts, which is rare, does not take the others with it."""
        self._db.execute("SAVEPOINT one")
        try:
            seq = self._apply(write, seq)
        except (JournalConflict, BadEvent) as error:
            self._db.execute("ROLLBACK TO one")
            write.error = error
        self._db.execute("RELEASE one")
        return seq

    def _apply(self, write: _Write, seq: int) -> int:
        for change in write.changes:
            touched = self._db.execute(change.sql, change.values).rowcount
            if change.touches is not None and touched != change.touches:
                raise JournalConflict(f"{change.values[-1]} is further already: {change.sql.partition('(')[0].strip()}")
        size = 0
        for fact in write.facts:
            seq += 1
            size += self._add(fact, seq)
        if write.facts:
            write.size = size
        return seq

    def _add(self, fact: Fact, seq: int) -> int:
        """The fact becomes a row, for ever with this producer and seq. Returns its bytes with those of its blobs."""
        event = fact.event
        body = encode(replace(event, producer=self._producer, seq=seq))
        size = len(body) + sum(len(blob.body) for blob in fact.blobs)
        n = self._db.execute(
            "INSERT INTO outbox (id, type, key, body, size) VALUES (?, ?, ?, ?, ?)",
            (event.id, event.type, fact.key, body, size),
        ).lastrowid
        for blob in fact.blobs:
            self._db.execute("INSERT INTO outbox_blob VALUES (?, ?)", (n, blob.sha256))
            self._db.executemany(
                "INSERT OR IGNORE INTO blob VALUES (?, ?, ?, ?, ?)",
                ((chunk.sha256, chunk.n, chunk.total, chunk.content_type, chunk.body) for chunk in chunks(blob)),
            )
        return size

    def _settle(self, batch: list[_Write]) -> None:
        for write in batch:
            if write.error is None:
                self._rows += write.rows
                self._size += write.size
        for write in batch:
            write.settle()
        if any(write.facts for write in batch):
            self._ring()

    def _give_up(self, batch: list[_Write]) -> None:
        for write in batch:
            write.error = JournalClosed(f"the journal {self._path} could not be written: {self._trouble}")
            write.settle()

    def _say_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.error(
                "the journal cannot be written; no job begins or ends until it can",
                action="journal.trouble",
                path=str(self._path),
                error=trouble,
            )
        elif self._trouble and not trouble:
            log.info("the journal can be written again", action="journal.well", path=str(self._path))
        self._trouble = trouble
