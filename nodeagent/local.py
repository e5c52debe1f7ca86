"""The door for services on this machine: they hand events to the agent over a ZeroMQ socket, and need no broker.

The socket is `agent.sock` in the agent's data folder, for programs of the agent's own user (or root). A request is one
frame of JSON; a ZeroMQ REQ socket is enough:

    {"type": "event.billing.invoice_paid", "subject": "invoice/42", "data": {"amount": 12}}

`id` (a UUID), `correlationid` and `causationid` may be given as well. The answer comes when the event is in the agent's
outbox, durable: `{"id": "…"}`, or `{"error": "what was wrong, and what would be right"}`. Who is not sure whether an
event was taken sends it again with the same `id`: within ten minutes it is taken once.

The event is published as `service:<name>`, the name being the second word of the type. A service speaks of itself only:
types of fleetbus are not taken.
"""

import contextlib
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq
from msgspec import Struct

from bus.clock import Clock, new_id
from events.codec import BadEvent, decode, encode
from events.envelope import Event
from events.registry import service_of
from nodeagent import changes
from nodeagent.errors import JournalClosed, JournalConflict
from nodeagent.facts import Speaker
from nodeagent.journal import Journal

#: Requests that share one write.
BATCH = 200
#: The longest request, in bytes: a little more than an event may have.
MAX_REQUEST = 1_100_000
#: The longest path of a socket that Linux takes, in bytes.
MAX_PATH = 107
#: Seconds that a request waits for the journal before it is answered with an error.
ANSWER_WITHIN = 10.0
#: Milliseconds between two looks whether to stop.
LOOK = 200

log = structlog.get_logger(__name__)


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a service asks to be said."""

    type: str
    subject: str
    data: dict[str, Any]
    id: str = ""
    correlationid: str | None = None
    causationid: str | None = None


class Answer(Struct, frozen=True, omit_defaults=True):
    """`id` of the event that is in the outbox, or what was wrong."""

    id: str = ""
    error: str = ""


class LocalDoor:
    """Listens at `path`. Raises `OSError` from `start` when it cannot."""

    def __init__(self, path: Path, journal: Journal, speaker: Speaker, clock: Clock) -> None:
        self._path = path
        self._journal = journal
        self._speaker = speaker
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="local", daemon=True)

    @property
    def path(self) -> Path:
        return self._path

    def start(self) -> None:
        if len(os.fsencode(self._path)) > MAX_PATH:
            raise OSError(f"the path {self._path} is longer than {MAX_PATH} bytes; choose a shorter data folder")
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)
        try:
            self._path.unlink(missing_ok=True)
            self._socket.bind(f"ipc://{self._path}")
            self._path.chmod(0o600)
        except (OSError, zmq.ZMQError) as error:
            self._socket.close()
            raise OSError(f"cannot listen at {self._path}: {error}") from error
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            if self._socket.poll(LOOK):
                self._serve(self._receive())
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _receive(self) -> list[list[bytes]]:
        """The requests that are there, at most a batch; each with the frames that lead back to who asked."""
        requests: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(requests) < BATCH:
                requests.append(self._socket.recv_multipart(zmq.NOBLOCK))
        return requests

    def _serve(self, requests: list[list[bytes]]) -> None:
        """All are handed to the journal before the first is waited for, so that they share a write."""
        taken = [(frames[:-1], self._take(frames[-1])) for frames in requests]
        deadline = time.monotonic() + ANSWER_WITHIN
        for route, answer in taken:
            said = answer if isinstance(answer, Answer) else _wait(*answer, deadline)
            self._socket.send_multipart([*route, msgspec.json.encode(said)])

    def _take(self, body: bytes) -> Answer | tuple[str, Future[None]]:
        if self._journal.full:
            return Answer(error=f"the outbox is full: {self._journal.unconfirmed:,} facts wait for the bus; try later")
        if trouble := self._journal.trouble:
            # it would only wait in memory, and who hands it in would hand it in again
            return Answer(error=f"the agent's journal cannot be written ({trouble}); try again with the same id")
        try:
            event = self._event(msgspec.json.decode(body, type=Request))
        except (msgspec.DecodeError, BadEvent, UnicodeError, RecursionError) as error:
            return Answer(error=str(error))
        if self._journal.file.was_handed(event.id):
            return Answer(id=event.id)
        now = self._clock.now()
        return event.id, self._journal.write(changes.handed(event.id, now), facts=(self._speaker.handed(event),))

    def _event(self, request: Request) -> Event:
        service = service_of(request.type)
        if service is None:
            raise BadEvent(f"{request.type!r} is no type of a service; it would be event.<service>.<what happened>")
        event = Event(
            id=request.id or new_id(),
            source=f"fleetbus/node/{self._speaker.node}",
            type=request.type,
            subject=request.subject,
            time=self._clock.now(),
            actor=f"service:{service}",
            data=request.data,
            correlationid=request.correlationid,
            causationid=request.causationid,
        )
        # whoever reads it must be able to: what is wrong shows here and not in the log
        return decode(encode(event))


def _wait(id: str, written: Future[None], deadline: float) -> Answer:
    try:
        written.result(max(0.0, deadline - time.monotonic()))
    except JournalConflict:  # handed twice within one batch
        return Answer(id=id)
    except TimeoutError:
        return Answer(error="the agent's journal cannot be written just now; try again with the same id")
    except (BadEvent, JournalClosed) as error:
        return Answer(error=str(error))
    return Answer(id=id)
