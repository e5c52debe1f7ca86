"""Saying anew what went into the log as a bad record.

The log keeps the bad record as it is. Its successor is a new event of whoever says it now, with what was wrong put
right, which names the bad record as its cause: `causationid` is derived from the log's id and the record's offset,
because a bad record need not have an id, and `source` has the offset, so that one leads to the other both ways. The
successor's own id is derived from them too: each bad record has one successor at most.
"""

import re
from typing import Any

import msgspec
from msgspec import Struct

from events.envelope import derived_id
from events.registry import TYPES, service_of
from portal.accounts import Identity
from portal.commands import SOURCE, Answer, typed
from portal.lists import Document, public
from portal.parts import Parts
from portal.problems import Problem, not_found, unprocessable
from projections.osis.filters import Eq

#: Ahead of the offset in a successor's `source`.
REPUBLISHED = f"{SOURCE}/republished/"
#: The user that says successors.
SAID_BY = "portal"


class Correction(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to be said instead; what is not given is taken from the bad record."""

    type: str | None = None
    subject: str | None = None
    data: dict[str, Any] | None = None


class _Readable(Struct):
    """What may be read of a bad record."""

    type: str = ""
    subject: str = ""
    data: Any = None


def cause_id(log: str, offset: int) -> str:
    """What a successor names as its cause."""
    return derived_id(log, "bad", str(offset))


def bad_id(offset: int) -> str:
    """The id of a bad record in the index."""
    return f"bad-{offset}"


def successors(parts: Parts, index: Document) -> list[Document]:
    """What was said anew for a bad record."""
    cause = cause_id(parts.hub.state.log, int(index["offset"]))
    page = parts.views.live().find("events", Eq("causation", cause), sort=["offset"], limit=10, total=False)
    return [public(item) for item in page.items if item["verdict"] == "admitted"]


def predecessor(parts: Parts, index: Document, event: Document | None) -> Document | None:
    """The bad record that an event was said anew for, if it was."""
    source = str((event or {}).get("source", ""))
    if index.get("user") != SAID_BY or not re.fullmatch(re.escape(REPUBLISHED) + r"\d{1,18}", source):
        return None
    found = parts.views.get("events", bad_id(int(source.removeprefix(REPUBLISHED))))
    return None if found is None else public(found)


async def republish(parts: Parts, who: Identity, id: str, correction: Correction, wait: float) -> Answer:
    """Says the successor of the bad record with this id in the index. A fact's answer has no outcome.

    Raises `Problem`: 404 unknown, 409 not bad, 422 what would be bad again or is not for people to say, and those of
    commands.
    """
    offset = await parts.offload(_bad_offset, parts, id)
    said = await parts.offload(_readable, parts, offset)
    type = correction.type or said.type
    if not type:
        raise unprocessable("the record does not say its type, so you must: such as event.billing.paid", "type")
    data = said.data if correction.data is None else correction.data
    if not isinstance(data, dict):
        raise unprocessable("the record has no data that can be read, so you must give it: a JSON object", "data")
    log = parts.hub.state.log
    named: dict[str, Any] = {
        "actor": who.actor,
        "id": derived_id(log, "republished", str(offset)),
        "causation": cause_id(log, offset),
        "source": f"{REPUBLISHED}{offset}",
    }
    subject = correction.subject or said.subject
    if type.startswith("command.") and type in TYPES:
        return await parts.commands.ask(type, subject or type, typed(type, data), wait=wait, **named)
    service = service_of(type)
    if service is None:
        raise unprocessable(f"{type!r} is not for people to say: commands and facts of services are", "type")
    if who.is_service and who.actor != f"service:{service}":
        raise Problem(403, "not-allowed", f"{type} belongs to service:{service}, this token is of {who.actor}")
    return Answer(await parts.commands.tell(type, subject or service, data, **named), None)


def _bad_offset(parts: Parts, id: str) -> int:
    offset = id.removeprefix("bad-")
    if id == offset or not re.fullmatch(r"\d{1,18}", offset):
        found = parts.views.get("events", id)
        if found is None:
            raise not_found("event", id)
        raise _not_bad(str(found["verdict"]), int(found["offset"]))
    if parts.views.get("events", id) is None:
        page = parts.views.live().find("events", Eq("offset", int(offset)), limit=1, total=False)
        raise _not_bad(str(page.items[0]["verdict"]), int(offset)) if page.items else not_found("event", id)
    return int(offset)


def _not_bad(verdict: str, offset: int) -> Problem:
    detail = f"the record at offset {offset} is {verdict}, not bad: there is nothing to put right; publish a new event"
    return Problem(409, "not-bad", detail, field="id")


def _readable(parts: Parts, offset: int) -> _Readable:
    record = parts.log.fetch([offset]).get(offset)
    try:
        return _Readable() if record is None else msgspec.json.decode(record.body, type=_Readable)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Readable()
