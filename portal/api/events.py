"""`/api/v1/events`: the log, as the index of events knows it; facts of other services; the live stream."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from bus.errors import BusError
from bus.ports import Record
from events.names import EventType
from events.registry import service_of
from portal.api import answers
from portal.api.answers import AtLeastQuery, OutcomeQuery
from portal.api.shapes import EventList, OneEvent, Sent, Told
from portal.bodies import read_json, read_query
from portal.commands import id_from_key
from portal.gate import identity
from portal.hub import Place
from portal.lists import Document, public
from portal.openapi import Text, operation
from portal.parts import Parts
from portal.problems import Problem, away, gone, unprocessable
from portal.queries import EventQuery
from portal.republish import Correction, predecessor, republish, successors
from portal.stream import EventStream, StreamQuery, parse_start
from projections.osis.filters import Eq

#: Events shown of one story: causes upward, consequences of one event.
MAX_CAUSES = 50
MAX_CONSEQUENCES = 200
#: Characters shown of a record that is no event.
BAD_BODY = 4_096
#: Seconds that this portal may be behind the one that gave a position out.
CATCH_UP_SECONDS = 5.0


class NewEvent(Struct, kw_only=True, forbid_unknown_fields=True):
    """A fact of a service: its type is `event.<service>.…`, and no type of fleetbus' own."""

    type: EventType
    data: dict[str, Any]
    subject: Annotated[str, Meta(max_length=200)] = ""


class Events:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Search the log", query=EventQuery, answers={200: EventList}, problems=[410])
    async def on_get(self, req: Request, resp: Response) -> None:
        await answers.listed(self._parts, req, resp, EventQuery, self._parts.lists.events)

    @operation("Tell a fact of a service", body=NewEvent, answers={201: Told}, problems=[409], keyed=True)
    async def on_post(self, req: Request, resp: Response) -> None:
        new = await read_json(req, NewEvent)
        who = identity(req)
        service = service_of(new.type)
        if service is None:
            raise unprocessable(
                f"{new.type!r} is not for services to say; theirs are event.<service>.<what happened>, "
                "as in event.billing.invoice.paid",
                "type",
            )
        if who.is_service and who.actor != f"service:{service}":
            raise Problem(
                403,
                "not-allowed",
                f"{new.type} belongs to service:{service}, this token is of {who.actor}",
                field="type",
            )
        id = await self._parts.commands.tell(
            new.type,
            new.subject or service,
            new.data,
            actor=who.actor,
            id=id_from_key(req.get_header("Idempotency-Key"), who.actor),
        )
        resp.media = Told(id=id)
        resp.status = 201


class Event:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "Show an event whole, with its causes and consequences",
        query=AtLeastQuery,
        answers={200: OneEvent},
        problems=[410],
    )
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await self._parts.views.at_least(read_query(req, AtLeastQuery).at_least)
        resp.media = await self._parts.offload(whole_event, self._parts, id)


class Republish:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "Say a bad record anew, with what was wrong put right; it names the bad one as its cause, and happens once",
        query=OutcomeQuery,
        body=Correction,
        answers={200: Sent, 202: Sent},
        problems=[409],
    )
    async def on_post(self, req: Request, resp: Response, id: str) -> None:
        correction = await read_json(req, Correction)
        wait = read_query(req, OutcomeQuery).wait
        answer = await republish(self._parts, identity(req), id, correction, wait)
        answer.accepted()
        answers.sent(self._parts, resp, answer, status=200 if answer.outcome else 202)


class Stream:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "Watch the log: admitted events as server-sent events, ids are <log id>:<next offset>",
        query=StreamQuery,
        answers={200: Text("text/event-stream")},
        problems=[410],
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        parts = self._parts
        query = read_query(req, StreamQuery)
        start = await self._start(req.get_header("Last-Event-ID") or query.start)
        stream = EventStream(query, hub=parts.hub, views=parts.views, log=parts.log, offload=parts.offload)
        resp.sse = stream.frames(start)
        resp.set_header("Cache-Control", "no-store")
        # proxies that buffer would hold events back
        resp.set_header("X-Accel-Buffering", "no")

    async def _start(self, text: str) -> int | None:
        parts = self._parts
        if not await self._soon(lambda: parts.hub.state.log != ""):
            raise away("this portal has only begun, and has not read the log yet")
        if not text:
            return None
        found = await parts.offload(parse_start, text, parts.now(), parts.bus.stream("log").offset_at)
        place = found if isinstance(found, Place) else Place(parts.hub.state.log, found)
        if place.log != parts.hub.state.log:
            raise gone(f"the position belongs to log {place.log}, this is log {parts.hub.state.log}; begin anew")
        if not await self._soon(lambda: place.next_offset <= parts.hub.state.next_offset):
            await self._refuse(place)
        return place.next_offset

    async def _soon(self, condition: Callable[[], bool]) -> bool:
        """Whether it comes true while a portal that is behind the one that gave the place out catches up."""
        waited = 0.0
        while not condition() and waited < CATCH_UP_SECONDS:
            await asyncio.sleep(0.05)
            waited += 0.05
        return condition()

    async def _refuse(self, place: Place) -> NoReturn:
        """For good only when the log itself ends before the place: a client that is told so begins anew."""
        try:
            end = await self._parts.offload(self._parts.bus.stream("log").next_offset)
        except BusError as error:
            raise away(f"this portal is behind, and the bus is not there: {error}") from None
        if place.next_offset <= end:
            raise away(f"this portal is at offset {self._parts.hub.state.next_offset}, before {place.next_offset}")
        raise gone(f"the log ends at offset {end}, before {place.next_offset}; begin anew")


def whole_event(parts: Parts, id: str) -> Document:
    """An event's entry in the index, the record itself, and what is around it. Blocking. Raises `Problem` 404."""
    index = answers.document(parts, "event", "events", id)
    record = parts.log.fetch([index["offset"]]).get(index["offset"])
    event, body = _contents(record, str(index.get("verdict")))
    return {
        **index,
        "event": event,
        "body": body,
        "causes": causes_of(parts, index, event),
        "consequences": consequences_of(parts, index["id"]) if index["verdict"] != "bad" else successors(parts, index),
    }


def _contents(record: Record | None, verdict: str) -> tuple[dict[str, Any] | None, str | None]:
    if record is None:
        return None, None
    try:
        plain = msgspec.json.decode(record.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = None
    if isinstance(plain, dict) and verdict != "bad":
        return plain, None
    return None, record.body[:BAD_BODY].decode(errors="replace")


def causes_of(parts: Parts, index: Document, event: dict[str, Any] | None = None) -> list[Document]:
    """The chain of causes that led to an event, the first cause first; or the bad record that it was said anew for."""
    if (bad := predecessor(parts, index, event)) is not None:
        return [bad]
    chain: list[Document] = []
    seen = {index["id"]}
    cause = index.get("causation")
    while cause and cause not in seen and len(chain) < MAX_CAUSES:
        seen.add(cause)
        found = parts.views.get("events", cause)
        if found is None:
            break
        chain.append(public(found))
        cause = found.get("causation")
    return chain[::-1]


def consequences_of(parts: Parts, id: str) -> list[Document]:
    """The events that name this one as their cause, in log order."""
    page = parts.views.live().find("events", Eq("causation", id), sort=["offset"], limit=MAX_CONSEQUENCES, total=False)
    return [public(item) for item in page.items]
