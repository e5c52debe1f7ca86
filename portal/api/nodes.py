"""`/api/v1/nodes`: machines with an agent; inviting and joining."""

import hashlib
import secrets
from datetime import timedelta
from typing import Annotated

import structlog
from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from bus.errors import BusError
from events.names import NODE_PATTERN, NodeId, Role, Text
from events.node import InviteNode, JoinNode, NodeJoined, RemoveNode, SetMaintenance, SetRoles
from portal.api import answers
from portal.api.answers import AtLeastQuery, OutcomeQuery
from portal.api.shapes import Invited, Joined, NodeList, OneNode, Sent
from portal.bodies import read_json
from portal.commands import Answer, Outcome
from portal.gate import identity
from portal.limits import JOIN_ADDRESS
from portal.openapi import operation
from portal.parts import Parts
from portal.problems import away, unprocessable
from portal.queries import NodeQuery

log = structlog.get_logger("portal.nodes")

INVITATION_LASTS = timedelta(minutes=15)
#: Seconds that joining and inviting wait for the decider.
DECIDE_SECONDS = 10.0
VIEW_SECONDS = 5.0


class NodeChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change; what is not given stays. `reason` goes with maintenance."""

    maintenance: bool | None = None
    reason: Text = ""
    roles: tuple[Role, ...] | None = None


class NewInvitation(Struct, kw_only=True, forbid_unknown_fields=True):
    roles: tuple[Role, ...] = ()


class Join(Struct, kw_only=True, forbid_unknown_fields=True):
    token: Annotated[str, Meta(min_length=20, max_length=200)]
    node: NodeId


class Nodes:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("List nodes", query=NodeQuery, answers={200: NodeList}, problems=[410])
    async def on_get(self, req: Request, resp: Response) -> None:
        await answers.listed(self._parts, req, resp, NodeQuery, self._parts.lists.nodes)


class Node:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Show a node", query=AtLeastQuery, answers={200: OneNode}, problems=[410])
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await answers.one(self._parts, req, resp, "node", "nodes", id)

    @operation(
        "Set maintenance or roles of a node",
        query=OutcomeQuery,
        body=NodeChange,
        answers={200: OneNode, 202: Sent},
        keyed=True,
    )
    async def on_patch(self, req: Request, resp: Response, id: str) -> None:
        change = await read_json(req, NodeChange)
        answers.check_id("node", id, NODE_PATTERN)
        answer: Answer | None = None
        if change.maintenance is not None:
            data = SetMaintenance(node=id, on=change.maintenance, reason=change.reason)
            answer = await answers.ask(self._parts, req, resp, "command.node.maintenance", id, data)
        if change.roles is not None:
            part = "roles" if answer else ""
            roles = SetRoles(node=id, roles=change.roles)
            answer = await answers.ask(self._parts, req, resp, "command.node.roles", id, roles, part=part)
        if answer is None:
            raise unprocessable("nothing to change; give maintenance, roles, or both", "maintenance")
        if answer.outcome and await self._parts.views.reach(answer.outcome.next_offset, VIEW_SECONDS):
            resp.media = await self._parts.offload(answers.document, self._parts, "node", "nodes", id)

    @operation("Remove a node from the fleet", query=OutcomeQuery, answers={200: Sent, 202: Sent}, keyed=True)
    async def on_delete(self, req: Request, resp: Response, id: str) -> None:
        answers.check_id("node", id, NODE_PATTERN)
        answer = await answers.ask(self._parts, req, resp, "command.node.remove", id, RemoveNode(node=id))
        if answer.outcome is not None:
            resp.media.warning = await forget(self._parts, id)


class Invitations:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Invite a machine: a token that works once, for 15 minutes", body=NewInvitation, answers={201: Invited})
    async def on_post(self, req: Request, resp: Response) -> None:
        roles = (await read_json(req, NewInvitation)).roles
        resp.media = await invite(self._parts, identity(req).actor, roles, public_url(self._parts, req))
        resp.status = 201


class Joining:
    """Needs no login: the token of the invitation is the right to join."""

    public = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Join the fleet by an invitation", body=Join, answers={200: Joined}, problems=[403, 409, 429])
    async def on_post(self, req: Request, resp: Response) -> None:
        join = await read_json(req, Join)
        await self._parts.offload(self._parts.limiter.count, JOIN_ADDRESS, req.remote_addr)
        data = JoinNode(node=join.node, token_hash=token_hash(join.token))
        answer = await self._parts.commands.ask(
            "command.node.join", join.node, data, actor="service:portal", wait=DECIDE_SECONDS
        )
        joined = decided(answer).fact.data
        assert isinstance(joined, NodeJoined)
        url = await self._parts.offload(self._parts.credentials_for, join.node)
        resp.media = Joined(node=join.node, bus_url=url, roles=list(joined.roles))


async def forget(parts: Parts, node: str) -> str:
    """Takes what a removed node has on the bus away; says what could not be, or "". The fleet is deaf to it anyway."""
    try:
        await parts.offload(parts.forget_node, node)
    except BusError as error:
        log.warning("a removed node keeps its account on the bus", action="node.kept", node=node, error=str(error))
        return f"{node} was removed, but what it has on the bus is still there: {error}"
    return ""


async def invite(parts: Parts, actor: str, roles: tuple[str, ...], url: str) -> Invited:
    """Sends the invitation. The log has the token's hash only. Raises `Problem`."""
    token = secrets.token_urlsafe(32)
    until = parts.now() + INVITATION_LASTS
    data = InviteNode(token_hash=token_hash(token), roles=roles, valid_until=until)
    answer = await parts.commands.ask("command.node.invite", "invitation", data, actor=actor, wait=DECIDE_SECONDS)
    decided(answer)
    return Invited(token=token, command=join_command(url, token), roles=list(roles), valid_until=until)


def join_command(url: str, token: str) -> str:
    """What to run on the new machine. The token goes through the environment: process lists show arguments."""
    return f"FLEETBUS_JOIN_TOKEN={token} fleetbus agent --join {url}"


def public_url(parts: Parts, req: Request) -> str:
    return parts.public_url or req.prefix


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def decided(answer: Answer) -> Outcome:
    """The outcome of a command that makes no sense without one. Raises `Problem`: 503 when nobody decided."""
    outcome = answer.accepted()
    if outcome is None:
        raise away(
            f"nobody decided within {DECIDE_SECONDS:.0f} seconds; are the handlers running? `fleetbus handlers`",
            id=answer.id,
        )
    return outcome
