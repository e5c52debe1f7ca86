"""`/api/v1/scripts`: jumpscripts by name, and each version that a name has meant."""

from typing import Annotated

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from events.names import SCRIPT_PATTERN
from events.script import PublishScript, RetireScript
from portal.api import answers
from portal.api.answers import OutcomeQuery
from portal.api.shapes import OneScript, ScriptList, Sent
from portal.bodies import read_body, read_json, read_query, to_shape
from portal.lists import Document
from portal.openapi import operation
from portal.parts import Parts
from portal.problems import bad_request, not_found
from portal.queries import AsOfText, ScriptQuery


class VersionQuery(Struct, kw_only=True):
    hash: Annotated[str, Meta(max_length=64, description="a version; without it the one the name means now")] = ""
    at_least: Annotated[str, Meta(max_length=200)] = ""
    as_of: AsOfText = ""


class NewSource(Struct, kw_only=True, forbid_unknown_fields=True):
    """The text of a jumpscript. It may as well be sent as it is, as text/x-python."""

    source: str


class Scripts:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("List scripts", query=ScriptQuery, answers={200: ScriptList}, problems=[410])
    async def on_get(self, req: Request, resp: Response) -> None:
        await answers.listed(self._parts, req, resp, ScriptQuery, self._parts.lists.scripts)


class Script:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Show a script with its source", query=VersionQuery, answers={200: OneScript}, problems=[410])
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        query = read_query(req, VersionQuery)
        await self._parts.views.at_least(query.at_least)
        resp.media = await self._parts.offload(self._with_source, name, query.hash)

    def _with_source(self, name: str, wanted: str) -> Document:
        script = answers.document(self._parts, "script", "scripts", name)
        version = self._parts.views.get("script_versions", wanted or script.get("hash", ""))
        if version is None or name not in (version.get("names") or [name]):
            raise not_found("version", wanted or str(script.get("hash", "")))
        return {**script, "source": version.get("source", "")}

    @operation(
        "Publish a script: the name means this source from now on",
        query=OutcomeQuery,
        body=NewSource,
        answers={200: Sent, 202: Sent},
        keyed=True,
    )
    async def on_put(self, req: Request, resp: Response, name: str) -> None:
        data = to_shape({"name": name, "source": await self._source(req)}, PublishScript)
        await answers.ask(self._parts, req, resp, "command.script.publish", name, data)

    async def _source(self, req: Request) -> str:
        if not (req.content_type or "").startswith(("text/", "application/x-python")):
            return (await read_json(req, NewSource)).source
        try:
            return (await read_body(req)).decode()
        except UnicodeDecodeError as error:
            raise bad_request(f"the source is not UTF-8: {error}", "source") from None

    @operation(
        "Retire a script: no new job may name it", query=OutcomeQuery, answers={200: Sent, 202: Sent}, keyed=True
    )
    async def on_delete(self, req: Request, resp: Response, name: str) -> None:
        answers.check_id("script", name, SCRIPT_PATTERN)
        await answers.ask(self._parts, req, resp, "command.script.retire", name, RetireScript(name=name))
