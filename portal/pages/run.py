"""Running a script: choose it, fill in its parameters, say where."""

import re
from typing import Any

from falcon.asgi import Request, Response

from bus.clock import new_id
from events.job import BatchCreated, Rollout, SubmitJob, Target
from events.names import NODE_PATTERN
from portal.api.answers import document
from portal.api.jobs import YEAR
from portal.bodies import Form
from portal.commands import id_from_key
from portal.gate import identity, session_form
from portal.pages import params
from portal.pages.page import Page
from portal.problems import Problem, not_found, unprocessable
from portal.queries import NodeQuery, ScriptQuery
from portal.runs import Runs

#: Nodes offered in the list of suggestions.
SUGGESTED = 500
#: Seconds that the page waits for the decider.
DECIDE_SECONDS = 10.0


class RunPage(Page):
    section = "run"

    async def on_get(self, req: Request, resp: Response) -> None:
        name = req.get_param("script") or ""
        given = Form([("nodes", req.get_param("node") or ""), ("role", req.get_param("role") or ""), ("id", new_id())])
        await self.show(req, resp, "run.html", lambda: self._build(name, given, None, {}))

    async def on_post(self, req: Request, resp: Response) -> None:
        form = await session_form(req)
        name = form.get("script", "")
        try:
            path, next_offset = await self._submit(req, form)
        except Problem as problem:
            wrong = _by_field(problem)
            await self.show(req, resp, "run.html", lambda: self._build(name, form, form, wrong), status=problem.status)
            return
        self.go(resp, path, next_offset)

    async def _submit(self, req: Request, form: Form) -> tuple[str, int | None]:
        script = await self.parts.offload(self.parts.views.get, "scripts", form.get("script", ""))
        if script is None:
            raise not_found("script", form.get("script", ""))
        header = params.header_of(script)
        values, problems = params.values(header, form) if header else ({}, {})
        if problems:
            raise _ParamProblems(problems)
        order = SubmitJob(
            script=script["_id"],
            target=target_of(form),
            params=values,
            timeout=_number(form, "timeout", YEAR),
            rollout=rollout_of(form),
        )
        actor = identity(req).actor
        parts = self.parts
        runs = Runs(parts.commands, parts.hub, parts.views, parts.offload)
        answer = await runs.submit(order, actor=actor, id=id_from_key(form.get("id"), actor), wait=DECIDE_SECONDS)
        outcome = answer.outcome
        if outcome is not None and isinstance(outcome.fact.data, BatchCreated):
            return f"/batches/{answer.id}", outcome.next_offset
        return f"/jobs/{answer.id}", outcome.next_offset if outcome else None

    def _build(self, name: str, given: Form, form: Form | None, problems: dict[str, str]) -> dict[str, Any]:
        lists = self.parts.lists
        script = document(self.parts, "script", "scripts", name) if name else None
        header = params.header_of(script) if script else None
        nodes = lists.nodes(NodeQuery(state="online,offline,joined", limit=SUGGESTED))
        return {
            "as_of": nodes.as_of,
            "script": script,
            "header": header,
            "fields": params.fields(header, form, problems) if header else [],
            "scripts": lists.scripts(ScriptQuery(retired=False, limit=500)).items if script is None else [],
            "nodes": nodes.items,
            "roles": lists.roles(),
            "given": given,
            "where": given.get("where") or ("role" if given.get("role") else "nodes"),
            "problems": problems,
        }


class _ParamProblems(Problem):
    """Parameters that do not fit, by name."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__(422, "bad-params", "; ".join(problems.values()))
        self.problems = problems


def _by_field(problem: Problem) -> dict[str, str]:
    """Messages by the field that they are shown beside; "" is the top of the form."""
    if isinstance(problem, _ParamProblems):
        return {**problem.problems, "": "Some parameters do not fit; see below."}
    field = problem.field.removeprefix("params.")
    return {field: problem.detail, "": problem.detail}


def target_of(form: Form) -> Target:
    """Where to run. Raises `Problem` 422 that names the field."""
    role = form.get("role", "")
    match form.get("where"):
        case "nodes":
            return _named_nodes(form.get("nodes", ""))
        case "role" | "role-all" as where:
            if not role:
                raise unprocessable("choose a role", "target.role")
            return Target(role=role, all=where == "role-all")
        case "all":
            return Target(all=True)
        case _:
            raise unprocessable("say where it is to run: nodes, a role, or every node", "target")


def _named_nodes(text: str) -> Target:
    nodes = tuple(dict.fromkeys(word for word in re.split(r"[\s,]+", text) if word))
    if not nodes:
        raise unprocessable("name a node, or several with commas between", "target.node")
    for node in nodes:
        if not re.fullmatch(NODE_PATTERN, node):
            raise unprocessable(f"{node[:80]!r} is no name of a node: 1 to 63 of a-z, 0-9 and -", "target.node")
    return Target(node=nodes[0]) if len(nodes) == 1 else Target(nodes=nodes)


def rollout_of(form: Form) -> Rollout | None:
    """How a batch goes over its nodes: `10` or `25%` at a time. Raises `Problem` 422."""
    text, most = form.get("size", "").strip(), _number(form, "max_failures", 1e9, lowest=0)
    if not text and most is None:
        return None
    size = re.fullmatch(r"(\d{1,7})(\s*%)?", text)
    if text and (size is None or not int(size[1]) >= 1 or (size[2] and int(size[1]) > 100)):
        raise unprocessable(f"{text[:40]!r} is no size of a batch; write 10, or 25%", "size")
    amount = int(size[1]) if size else None
    share = bool(size and size[2])
    return Rollout(
        size=None if share else amount,
        percent=float(amount) if share and amount else None,
        max_failures=None if most is None else int(most),
    )


def _number(form: Form, name: str, highest: float, lowest: float = 0.001) -> float | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value <= highest:
        raise unprocessable(f"{name.replace('_', ' ')} must be a number from {lowest:g} to {highest:g}", name)
    return value
