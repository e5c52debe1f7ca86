"""Saying things on the bus for people and services, and waiting for what comes of it."""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bus.clock import Clock, SystemClock, new_id
from bus.errors import BusError, NotConfirmed, Refused
from bus.ports import Bus, Message
from events.codec import BadEvent, decode, decode_data, encode
from events.envelope import Event
from events.routing import routing_key
from portal.feed import Entry
from portal.hub import Hub, position
from portal.log import Log
from portal.offload import Offload
from portal.problems import Problem, away, bad_request, rejected, unprocessable
from portal.views import Views

#: After this long, nobody may act on a command.
EXPIRES_AFTER = timedelta(minutes=10)
#: Seconds during which a command that was not confirmed is sent again, with the same id.
RESEND_SECONDS = 60.0
#: Namespace of command ids that are made from an `Idempotency-Key` which is no UUID.
KEYS = UUID("6d1a3c52-94f5-5a0e-8a43-1f7b1f0e8a11")
SOURCE = "fleetbus/portal"


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a command: one fact, or a rejection."""

    command: str
    fact: Event
    offset: int
    #: The next offset of its record: views that reached it show the outcome.
    next_offset: int
    #: The same as clients hold it, for `at_least`.
    position: str

    @property
    def accepted(self) -> bool:
        return self.fact.type != "event.command.rejected"


def id_from_key(key: str | None, actor: str) -> str | None:
    """The command id that an `Idempotency-Key` means: itself when it is a UUID, else derived from it and the actor."""
    if not key:
        return None
    if len(key) > 200 or not key.isprintable():
        raise bad_request("an Idempotency-Key has 1 to 200 printable characters", "Idempotency-Key")
    try:
        return str(UUID(key))
    except ValueError:
        return str(uuid5(KEYS, f"{actor}/{key}"))


class Commands:
    """Publishes for authenticated actors. One per portal; the loop's thread uses it."""

    def __init__(
        self, bus: Bus, log: Log, hub: Hub, views: Views, offload: Offload, clock: Clock | None = None
    ) -> None:
        self._bus = bus
        self._log = log
        self._hub = hub
        self._views = views
        self._offload = offload
        self._clock = clock or SystemClock()
        self.sent = 0

    def now(self) -> datetime:
        return self._clock.now()

    async def ask(
        self,
        type: str,
        subject: str,
        data: Any,
        *,
        actor: str,
        id: str | None = None,
        wait: float = 0.0,
        causation: str | None = None,
        source: str = SOURCE,
    ) -> "Answer":
        """Sends a command and waits up to `wait` seconds for its outcome.

        An id that was used before is not sent again: its outcome is the outcome of that command. Raises `Problem`:
        422 when the data does not fit the type, 503 when the bus does not confirm.
        """
        event = self._command(type, subject, data, actor, id or new_id())
        event = replace(event, causationid=causation, source=source)
        if id is not None and (known := await self._known(id, event)) is not None:
            return Answer(event.id, known)
        with self._hub.watch(("outcome", event.id)) as watch:
            await self.publish(event)
            self.sent += 1
            entry = self._hub.outcome(event.id) or await watch.next(wait)
        return Answer(event.id, None if entry is None else self._outcome(event.id, entry))

    async def tell(
        self,
        type: str,
        subject: str,
        data: dict[str, Any],
        *,
        actor: str,
        id: str | None = None,
        causation: str | None = None,
        source: str = SOURCE,
    ) -> str:
        """Publishes a fact of a service; returns its id. Raises `Problem` as `ask` does."""
        event = Event(
            id=id or new_id(),
            source=source,
            type=type,
            subject=subject,
            time=self.now(),
            actor=actor,
            data=data,
            causationid=causation,
        )
        await self.publish(event)
        return event.id

    def _command(self, type: str, subject: str, data: Any, actor: str, id: str) -> Event:
        now = self.now()
        return Event(
            id=id,
            source=SOURCE,
            type=type,
            subject=subject,
            time=now,
            actor=actor,
            data=data if isinstance(data, Struct) else typed(type, data),
            correlationid=id,
            expires=now + EXPIRES_AFTER,
        )

    async def _known(self, id: str, event: Event) -> Outcome | None:
        """The outcome of a command that was sent before with this id."""
        document = await self._offload(self._views.get, "commands", id)
        if document is not None and (document["actor"], document["type"]) != (event.actor, event.type):
            raise Problem(409, "id-in-use", "another command has this id; choose another Idempotency-Key", id=id)
        if entry := self._hub.outcome(id):
            return self._outcome(id, entry)
        if document is None or not document.get("outcome"):
            return None
        return await self._offload(self._from_log, id, int(document["outcome_offset"]))

    def _from_log(self, id: str, offset: int) -> Outcome:
        """The outcome at an offset; blocking."""
        record = self._log.fetch([offset]).get(offset)
        if record is None:
            raise away(f"the log does not give the outcome of {id} at offset {offset}", id=id)
        return self._outcome(id, Entry(offset, record.next_offset, decode(record.body), len(record.body)))

    def _outcome(self, command: str, entry: Entry) -> Outcome:
        return Outcome(
            command=command,
            fact=entry.event,
            offset=entry.offset,
            next_offset=entry.next_offset,
            position=position(self._hub.state.log, entry.next_offset),
        )

    async def publish(self, event: Event) -> None:
        """Publishes until the bus confirms, for at most a minute. Raises `Problem`."""
        try:
            body = encode(event)
            decode(body)
        except (BadEvent, UnicodeEncodeError) as error:
            raise unprocessable(str(error)) from None
        message = Message(key=routing_key(event), body=body, id=event.id, type=event.type)
        deadline = time.monotonic() + RESEND_SECONDS
        while True:
            try:
                future = await self._offload(self._bus.publish, message)
                # shielded: a cancelled future would trip the bus' own thread when it confirms
                confirmed = asyncio.shield(asyncio.wrap_future(future))
                await asyncio.wait_for(confirmed, max(1.0, deadline - time.monotonic()))
                return
            except (NotConfirmed, TimeoutError) as error:
                if time.monotonic() + 1.0 >= deadline:
                    raise _not_confirmed(event, error) from None
                await asyncio.sleep(0.5)
            except Refused as error:
                raise Problem(502, "refused-by-bus", f"the bus refused the event: {error}", id=event.id) from None
            except BusError as error:
                raise away(f"the bus is not there: {error}", id=event.id) from None


def _not_confirmed(event: Event, error: Exception) -> Problem:
    return away(
        f"the bus did not confirm within {RESEND_SECONDS:.0f} seconds ({error}); it may have happened or not: send it "
        f"again with Idempotency-Key {event.id}, it is done once at most",
        id=event.id,
    )


def typed(type: str, data: Any) -> Any:
    """Data as the type's Struct. Raises `Problem` 422 that names the field."""
    try:
        return decode_data(type, "", msgspec.json.encode(data))
    except (BadEvent, UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        message, _, path = str(error).partition(" - at `")
        raise unprocessable(message, f"data{path.rstrip('`').removeprefix('$')}" if path else "data") from None


class Answer(Struct, frozen=True):
    """A command's id, and its outcome if it came in time."""

    id: str
    outcome: Outcome | None

    def accepted(self) -> Outcome | None:
        """The outcome, unless it is a rejection: raises `Problem` then."""
        if self.outcome is not None and not self.outcome.accepted:
            raise rejected(self.outcome.fact.data, self.id, self.outcome.position)
        return self.outcome
