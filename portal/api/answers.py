"""What resources have in common: lists, single documents, and commands with their outcomes."""

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from events.codec import encode
from events.envelope import Event, derived_id
from events.names import UUID_PATTERN
from portal.api.shapes import Sent, SetAside
from portal.bodies import read_query
from portal.commands import Answer, id_from_key
from portal.gate import identity
from portal.lists import Document, Listed, public
from portal.parts import Parts
from portal.problems import Problem, not_found
from portal.queries import AsOfText, ListQuery
from portal.runs import OUTCOME_SECONDS

Q = TypeVar("Q", bound=ListQuery)

#: Seconds that a request waits at most.
MAX_WAIT = 3_600


class OutcomeQuery(Struct, kw_only=True):
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT, description="seconds to wait for the outcome")] = OUTCOME_SECONDS


class AtLeastQuery(Struct, kw_only=True):
    at_least: Annotated[
        str, Meta(max_length=200, description="<log id>:<next offset>; waits until the views are there")
    ] = ""
    as_of: AsOfText = ""


def check_id(what: str, id: str, pattern: str = UUID_PATTERN) -> str:
    """An id that cannot be one names nothing. Raises `Problem` 404."""
    if not re.fullmatch(pattern, id):
        raise not_found(what, id)
    return id


async def listed(parts: Parts, req: Request, resp: Response, shape: type[Q], read: Callable[[Q], Listed]) -> None:
    """Answers with a page of a list."""
    query = read_query(req, shape)
    await parts.views.at_least(query.at_least)
    resp.media = await parts.offload(read, query)


async def one(parts: Parts, req: Request, resp: Response, what: str, collection: str, id: str) -> None:
    """Answers with one document of a view, and how fresh it is. Raises `Problem` 404."""
    await parts.views.at_least(read_query(req, AtLeastQuery).at_least)
    resp.media = await parts.offload(document, parts, what, collection, id)


def document(parts: Parts, what: str, collection: str, id: str) -> Document:
    """One document of a view with `as_of`, and why it is set aside, if it is; blocking. Raises `Problem` 404."""
    as_of = parts.views.as_of()
    found, marker = parts.views.get(collection, id), parts.views.set_aside(collection, id)
    aside = None if marker is None else SetAside(event=marker.event, offset=marker.offset, error=marker.error)
    if found is None:
        raise not_found(what, id) if aside is None else _never_folded(what, id, aside)
    return {**public(found), "as_of": as_of, "set_aside": aside}


def _never_folded(what: str, id: str, aside: SetAside) -> Problem:
    detail = (
        f"{what} {id[:100]!r} is set aside: the record at offset {aside.offset}, the first about it, could not be "
        f"folded ({aside.error}); after a mended version `fleetbus replay` shows it"
    )
    return Problem(404, f"unknown-{what}", detail, field=what)


async def ask(
    parts: Parts, req: Request, resp: Response, type: str, subject: str, data: Any, *, part: str = ""
) -> Answer:
    """Sends a command for the request and answers with its outcome, or 202 while there is none.

    `part` tells the commands of one request apart, which all follow from its one `Idempotency-Key`.
    """
    wait = read_query(req, OutcomeQuery).wait
    actor = identity(req).actor
    key = id_from_key(req.get_header("Idempotency-Key"), actor)
    key = derived_id(key, part) if key and part else key
    answer = await parts.commands.ask(type, subject, data, actor=actor, id=key, wait=wait)
    answer.accepted()
    sent(parts, resp, answer, status=200 if answer.outcome else 202)
    return answer


def sent(parts: Parts, resp: Response, answer: Answer, *, status: int) -> None:
    resp.status = status
    resp.media = describe(parts, answer)


def describe(parts: Parts, answer: Answer) -> Sent:
    """A command and what came of it."""
    outcome = answer.outcome
    if outcome is None:
        return Sent(id=answer.id)
    return Sent(
        id=answer.id,
        outcome="accepted" if outcome.accepted else "rejected",
        offset=outcome.offset,
        event=plain(outcome.fact),
        position=outcome.position,
    )


def plain(event: Event) -> dict[str, Any]:
    """An event as the log has it."""
    found: dict[str, Any] = msgspec.json.decode(encode(event))
    return found
