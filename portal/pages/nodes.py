"""Nodes: the list, one node with its facts and charts, maintenance and roles, inviting, removing."""

import re
from typing import Any

from falcon.asgi import Request, Response

from events.names import ROLE_PATTERN
from events.node import RemoveNode, SetMaintenance, SetRoles
from portal.api.answers import document
from portal.api.nodes import DECIDE_SECONDS, decided, forget, invite, public_url
from portal.bodies import read_query
from portal.gate import identity, session_form
from portal.lists import Document
from portal.pages.facts import Facts, read_facts
from portal.pages.node_charts import RANGES, charts_of
from portal.pages.page import Page
from portal.problems import Problem, unprocessable
from portal.queries import JobQuery, ListQuery, NodeQuery
from projections.osis.errors import OsisError

FACTS = "facts"


class NodesPage(Page):
    section = "nodes"
    travels = True

    async def on_get(self, req: Request, resp: Response) -> None:
        query = read_query(req, NodeQuery)

        def build() -> dict[str, Any]:
            roles = self.parts.lists.roles()
            nodes = self.parts.lists.nodes(query, roles)
            return {"as_of": nodes.as_of, "nodes": nodes, "query_of": plain(query), "roles": roles}

        await self.show(req, resp, "nodes.html", build)


class NodePage(Page):
    section = "nodes"
    travels = True

    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        wanted = req.get_param("range") or "1h"
        await self.show(req, resp, "node.html", lambda: self._build(id, wanted if wanted in RANGES else "1h"))

    async def on_post(self, req: Request, resp: Response, id: str) -> None:
        """The forms of the page; the button pressed says what to do."""
        form = await session_form(req)
        match form.get("do"):
            case "maintenance":
                data: Any = SetMaintenance(node=id, on=form.get("on") == "1", reason=form.get("reason", "")[:4000])
                kind = "command.node.maintenance"
            case "roles":
                data, kind = SetRoles(node=id, roles=roles_of(form.get("roles", ""))), "command.node.roles"
            case "remove":
                data, kind = RemoveNode(node=id), "command.node.remove"
            case other:
                raise unprocessable(f"the form asks for {other!r}, which this page cannot do", "do")
        actor = identity(req).actor
        answer = await self.parts.commands.ask(kind, id, data, actor=actor, wait=DECIDE_SECONDS)
        outcome = decided(answer)
        if kind == "command.node.remove":
            await forget(self.parts, id)
        self.go(resp, "/nodes" if kind == "command.node.remove" else f"/nodes/{id}", outcome.next_offset)

    def _build(self, id: str, wanted: str) -> dict[str, Any]:
        parts = self.parts
        node = document(parts, "node", "nodes", id)
        jobs = parts.lists.jobs(JobQuery(node=id, limit=12))
        try:
            charts, charts_problem = charts_of(parts.series, id, wanted, parts.now()), ""
        except OsisError as error:
            charts, charts_problem = [], str(error)
        return {
            "as_of": node["as_of"],
            "node": node,
            "jobs": jobs,
            "facts": self._facts(id),
            "charts": charts,
            "charts_problem": charts_problem,
            "ranges": list(RANGES),
            "range": wanted,
        }

    def _facts(self, id: str) -> Facts | None:
        """What the last `facts` that ended well said of the machine."""
        query = JobQuery(node=id, script=FACTS, state="succeeded", limit=1, sort="-ended_at")
        found: list[Document] = self.parts.lists.jobs(query).items
        return read_facts(found[0]) if found else None


class InvitePage(Page):
    section = "nodes"

    async def on_get(self, req: Request, resp: Response) -> None:
        await self.show(req, resp, "invite.html", lambda: {"roles": self.parts.lists.roles(), "invited": None})

    async def on_post(self, req: Request, resp: Response) -> None:
        form = await session_form(req)
        problem, invited = "", None
        try:
            roles = roles_of(form.get("roles", ""))
            invited = await invite(self.parts, identity(req).actor, roles, public_url(self.parts, req))
        except Problem as error:
            problem = error.detail
        context = {"invited": invited, "problem": problem, "given": form.get("roles", "")}
        await self.show(
            req,
            resp,
            "invite.html",
            lambda: {**context, "roles": self.parts.lists.roles()},
            status=422 if problem else 200,
        )


def roles_of(text: str) -> tuple[str, ...]:
    """Roles from a text field, apart by spaces or commas. Raises `Problem` 422."""
    found = tuple(dict.fromkeys(word for word in re.split(r"[\s,]+", text) if word))
    for role in found:
        if not re.fullmatch(ROLE_PATTERN, role) or len(role) > 120:
            raise unprocessable(
                f"{role[:80]!r} is no role; a role is a-z, 0-9, - and dots, as in computenode.kvm", "roles"
            )
    return found


def plain(query: ListQuery) -> dict[str, Any]:
    """A list's parameters for links, without the place in it."""
    leave = {"cursor", "at_least", "as_of"} | ({"limit"} if query.limit == 50 else set())
    return {name: getattr(query, name) for name in query.__struct_fields__ if name not in leave}
