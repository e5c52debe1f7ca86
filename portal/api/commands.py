"""`/api/v1/commands`: any command, by its type; and what came of each."""

from typing import Any

from falcon.asgi import Request, Response
from msgspec import Struct

from events.names import EventType, Id
from events.registry import TYPES
from portal.api import answers
from portal.api.answers import AtLeastQuery
from portal.api.jobs import WaitQuery
from portal.api.shapes import CommandList, OneCommand, Sent
from portal.bodies import read_json, read_query
from portal.commands import id_from_key, typed
from portal.gate import identity
from portal.openapi import operation
from portal.parts import Parts
from portal.problems import unprocessable
from portal.queries import CommandQuery

COMMANDS = tuple(sorted(name for name in TYPES if name.startswith("command.")))


class NewCommand(Struct, kw_only=True, forbid_unknown_fields=True):
    """`id` is a UUID that you choose; the same id is done once at most, and answered with the same outcome."""

    type: EventType
    data: dict[str, Any]
    subject: str = ""
    id: Id | None = None


class Commands:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("List commands", query=CommandQuery, answers={200: CommandList}, problems=[410])
    async def on_get(self, req: Request, resp: Response) -> None:
        await answers.listed(self._parts, req, resp, CommandQuery, self._parts.lists.commands)

    @operation(
        "Send a command; wait for its outcome, if asked to. 202 {id} while there is none",
        query=WaitQuery,
        body=NewCommand,
        answers={200: Sent, 202: Sent},
        keyed=True,
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        wait = read_query(req, WaitQuery).wait
        new = await read_json(req, NewCommand)
        if new.type not in COMMANDS:
            raise unprocessable(f"{new.type!r} is no command; there are: {', '.join(COMMANDS)}", "type", COMMANDS)
        actor = identity(req).actor
        answer = await self._parts.commands.ask(
            new.type,
            subject_of(new.subject, new.data),
            typed(new.type, new.data),
            actor=actor,
            id=new.id or id_from_key(req.get_header("Idempotency-Key"), actor),
            wait=wait,
        )
        answers.sent(self._parts, resp, answer, status=200 if answer.outcome else 202)


class Command:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Show a command and what came of it", query=AtLeastQuery, answers={200: OneCommand}, problems=[410])
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await answers.one(self._parts, req, resp, "command", "commands", id)


def subject_of(subject: str, data: dict[str, Any]) -> str:
    """What a command is about, when its sender does not say."""
    named = next((data[key] for key in ("job", "node", "script", "name") if data.get(key)), "fleet")
    return subject or (named if isinstance(named, str) else "fleet")
