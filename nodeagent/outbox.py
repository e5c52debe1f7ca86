"""Sends the facts of the journal, in order, until the bus has confirmed each.

A window of facts is on its way at a time. When the bus does not confirm one, nothing new is sent until the fate of all
others is known; then what is unconfirmed is sent again, from the oldest on, with the id, producer and seq that it had.
The blobs of a fact go before it, and are confirmed before it goes.

What the bus refuses would be refused again at once: it is set aside, said loudly, counted in the statistics, and tried
again every five minutes and when the agent starts anew, in case somebody has put the permissions right.
"""

import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from itertools import islice

import structlog
from msgspec import Struct

from bus.backoff import Backoff
from bus.errors import Refused
from bus.ports import Bus, Message
from nodeagent import changes
from nodeagent.errors import JournalUnusable
from nodeagent.journal import Journal
from nodeagent.journal_file import Row

#: Facts that are on their way at a time.
WINDOW = 500
#: Facts whose blobs are sent ahead, and the bytes of blobs on their way from which on no further one is begun.
AHEAD = 50
BLOB_WINDOW = 8_000_000
#: Seconds that the beginning of a job waits for company: its end, or that of others. Whoever reads is woken less often.
COMPANY_WITHIN = 0.01
#: Seconds before a second try: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: Seconds before what was refused is tried again.
REFUSED_PAUSE = 300.0

log = structlog.get_logger(__name__)


class _Heard(Struct, frozen=True):
    """The bus' answer to one fact (`row`) or to one chunk of a blob (`sha256`, `size` in bytes)."""

    error: BaseException | None
    row: Row | None = None
    sha256: str = ""
    size: int = 0


class Outbox:
    def __init__(self, bus: Bus, journal: Journal) -> None:
        self._bus = bus
        self._journal = journal
        self._heard: queue.SimpleQueue[_Heard | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._read_to = 0
        self._line: deque[Row] = deque()
        #: When the oldest of the line came into it.
        self._since = 0.0
        self._sent: dict[int, Row] = {}
        #: Chunks not confirmed yet of each blob that was sent; chunks on their way, and their bytes.
        self._chunks_left: dict[str, int] = {}
        self._chunks_out = 0
        self._blob_bytes = 0
        self._refused_blobs: dict[str, str] = {}
        self._refused_until: float | None = None
        self._failure: BaseException | None = None
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._confirming: Future[None] | None = None
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._journal.on_facts(self._ring)
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until everything that can be sent is confirmed. False when it is not."""
        deadline = time.monotonic() + timeout
        while self._journal.file.rows(0, 1):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def stop(self) -> None:
        """Sends nothing more. What is not confirmed stays in the journal."""
        self._stopping.set()
        self._ring()
        self._thread.join()

    def _ring(self) -> None:
        self._heard.put(None)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except JournalUnusable as error:
                log.error("the outbox cannot be read", action="outbox.unreadable", error=str(error))
                self._stopping.wait(LONGEST_PAUSE)

    def _turn(self) -> None:
        wait = 0.0
        if self._failure is not None:
            self._recover()
        elif self._refused_until is not None and time.monotonic() > self._refused_until:
            self._try_refused()
        elif self._bus.connected:
            self._fill()
            wait = self._patience()
            if not wait:
                self._send()
        self._hear(wait or 1.0)

    def _fill(self) -> None:
        room = WINDOW - len(self._sent) - len(self._line)
        if room > 0:
            rows = self._journal.file.rows(self._read_to, room)
            if rows and not self._line:
                self._since = time.monotonic()
            self._line.extend(rows)
            self._read_to = rows[-1].n if rows else self._read_to

    def _patience(self) -> float:
        """Seconds that the line still waits for company."""
        if any(row.type != "event.job.started" for row in self._line):
            return 0.0
        return max(0.0, self._since + COMPANY_WITHIN - time.monotonic()) if self._line else 0.0

    def _send(self) -> None:
        for row in islice(self._line, AHEAD):
            for sha256 in row.blobs:
                self._send_blob(sha256)
        while self._line and self._may_go(self._line[0]):
            row = self._line.popleft()
            self._sent[row.n] = row
            message = Message(key=row.key, body=row.body, id=row.id, type=row.type)
            self._publish(message, row=row)

    def _send_blob(self, sha256: str) -> None:
        if sha256 in self._chunks_left or self._blob_bytes >= BLOB_WINDOW:
            return
        for chunk in self._journal.file.chunks(sha256):
            self._chunks_left.setdefault(sha256, chunk.total)
            self._chunks_out += 1
            self._blob_bytes += len(chunk.body)
            self._publish(chunk.message, sha256=sha256, size=len(chunk.body))

    def _may_go(self, row: Row) -> bool:
        """Whether the blobs of a row are there. A row whose blob was refused is set aside instead."""
        refused = [sha256 for sha256 in row.blobs if sha256 in self._refused_blobs]
        if refused:
            self._line.popleft()
            self._set_aside(row, f"its blob {refused[0]} was refused: {self._refused_blobs[refused[0]]}")
            return bool(self._line) and self._may_go(self._line[0])
        return all(self._chunks_left.get(sha256) == 0 for sha256 in row.blobs)

    def _publish(self, message: Message, row: Row | None = None, sha256: str = "", size: int = 0) -> None:
        def hear(future: Future[None]) -> None:
            self._heard.put(_Heard(future.exception(), row, sha256, size))

        self._bus.publish(message).add_done_callback(hear)

    def _hear(self, wait: float) -> None:
        """What the bus said meanwhile; waits up to `wait` seconds for the first answer, or for new facts."""
        confirmed: list[Row] = []
        try:
            heard = self._heard.get(timeout=wait)
            while True:
                if heard is not None:
                    self._note(heard, confirmed)
                heard = self._heard.get_nowait()
        except queue.Empty:
            pass
        if confirmed:
            self._backoff.reset()
            self._confirming = self._journal.confirm(confirmed)

    def _note(self, heard: _Heard, confirmed: list[Row]) -> None:
        if heard.row is None:
            self._note_chunk(heard)
            return
        row = self._sent.pop(heard.row.n)
        if heard.error is None:
            confirmed.append(row)
            for sha256 in row.blobs:
                self._chunks_left.pop(sha256, None)
        elif isinstance(heard.error, Refused):
            self._set_aside(row, str(heard.error))
        else:
            self._fail(heard.error)

    def _note_chunk(self, heard: _Heard) -> None:
        self._chunks_out -= 1
        self._blob_bytes -= heard.size
        if heard.error is None:
            self._chunks_left[heard.sha256] = self._chunks_left.get(heard.sha256, 1) - 1
        elif isinstance(heard.error, Refused):
            self._refused_blobs[heard.sha256] = str(heard.error)
        else:
            self._fail(heard.error)

    def _set_aside(self, row: Row, reason: str) -> None:
        log.error(
            "the bus refused a fact; it is set aside and tried again later",
            action="outbox.refused",
            type=row.type,
            id=row.id,
            key=row.key,
            error=reason,
        )
        self._journal.write(changes.set_aside(row.n, reason))
        self._refused_until = self._refused_until or time.monotonic() + REFUSED_PAUSE

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.warning("the bus did not confirm; sending again", action="outbox.unconfirmed", error=str(error))
        self._failure = error

    def _recover(self) -> None:
        """Begins again at the oldest fact, after a pause."""
        if self._begin_again():
            self._failure = None
            self._stopping.wait(self._backoff.next())

    def _try_refused(self) -> None:
        """Takes what was set aside back into the line."""
        if self._begin_again():
            self._refused_until = None
            self._refused_blobs.clear()
            self._journal.write(changes.TAKE_BACK).result()

    def _begin_again(self) -> bool:
        """Back to the oldest fact, once the fate of all that is on its way is known and written down."""
        if self._sent or self._chunks_out or (self._confirming is not None and not self._confirming.done()):
            return False
        self._line.clear()
        self._chunks_left.clear()
        self._read_to = 0
        self._ring()
        return True
