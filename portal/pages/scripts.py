"""Scripts: the list, one script with its source and versions, publishing and retiring."""

import difflib
from typing import Any

from falcon.asgi import Request, Response

from events.script import PublishScript, RetireScript
from portal.api.answers import document
from portal.api.nodes import DECIDE_SECONDS, decided
from portal.bodies import read_query, to_shape
from portal.gate import identity, session_form
from portal.pages import params
from portal.pages.nodes import plain
from portal.pages.page import Page
from portal.problems import Problem, unprocessable
from portal.queries import JobQuery, ScriptQuery

#: Lines around a change.
CONTEXT = 3


class ScriptsPage(Page):
    section = "scripts"
    travels = True

    async def on_get(self, req: Request, resp: Response) -> None:
        query = read_query(req, ScriptQuery)

        def build() -> dict[str, Any]:
            scripts = self.parts.lists.scripts(query)
            return {"as_of": scripts.as_of, "scripts": scripts, "query_of": plain(query)}

        await self.show(req, resp, "scripts.html", build)


class ScriptPage(Page):
    section = "scripts"
    travels = True

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        hash, against = req.get_param("hash") or "", req.get_param("against") or ""
        await self.show(req, resp, "script.html", lambda: self._build(name, hash, against))

    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        form = await session_form(req)
        if form.get("do") != "retire":
            raise unprocessable(f"the form asks for {form.get('do')!r}, which this page cannot do", "do")
        actor = identity(req).actor
        answer = await self.parts.commands.ask(
            "command.script.retire", name, RetireScript(name=name), actor=actor, wait=DECIDE_SECONDS
        )
        self.go(resp, f"/scripts/{name}", decided(answer).next_offset)

    def _build(self, name: str, hash: str, against: str) -> dict[str, Any]:
        views = self.parts.views
        script = document(self.parts, "script", "scripts", name)
        known = [version["hash"] for version in script.get("versions") or []]
        wanted = hash if hash in known else str(script.get("hash") or "")
        source = str((views.get("script_versions", wanted) or {}).get("source", ""))
        before = str((views.get("script_versions", against) or {}).get("source", "")) if against in known else None
        return {
            "as_of": script["as_of"],
            "script": script,
            "header": params.header_of(script),
            "hash": wanted,
            "source": source,
            "against": against if before is not None else "",
            "diff": None if before is None else list(diff(before, source)),
            "jobs": self.parts.lists.jobs(JobQuery(script=name, limit=8)),
        }


class PublishPage(Page):
    section = "scripts"

    async def on_get(self, req: Request, resp: Response) -> None:
        name = req.get_param("script") or ""

        def build() -> dict[str, Any]:
            script = (self.parts.views.get("scripts", name) if name else None) or {}
            version = self.parts.views.get("script_versions", str(script.get("hash") or "")) or {}
            return {"name": name, "source": version.get("source", ""), "problem": ""}

        await self.show(req, resp, "publish.html", build)

    async def on_post(self, req: Request, resp: Response) -> None:
        form = await session_form(req)
        name, source = form.get("name", "").strip(), form.get("source", "").replace("\r\n", "\n")
        try:
            data = to_shape({"name": name, "source": source}, PublishScript)
            answer = await self.parts.commands.ask(
                "command.script.publish", name, data, actor=identity(req).actor, wait=DECIDE_SECONDS
            )
            self.go(resp, f"/scripts/{name}", decided(answer).next_offset)
        except Problem as problem:
            context = {"name": name, "source": source, "problem": problem.detail, "field": problem.field}
            await self.show(req, resp, "publish.html", lambda: context, status=problem.status)


def diff(before: str, after: str) -> list[tuple[str, str]]:
    """Lines of a unified diff, each with its kind: head, same, old or new."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=CONTEXT)
    kinds = {"@": "head", "-": "old", "+": "new"}
    return [(kinds.get(line[:1], "same"), line) for line in list(lines)[2:]]
