"""Batches: the list, and one batch as a grid of its nodes."""

from typing import Any

from falcon.asgi import Request, Response

from portal.api.answers import document
from portal.bodies import read_query
from portal.lists import ENDED, UNFINISHED, Document, public
from portal.pages.nodes import plain
from portal.pages.page import Page
from portal.queries import BatchQuery
from projections.osis.filters import Eq


class BatchesPage(Page):
    section = "batches"
    travels = True

    async def on_get(self, req: Request, resp: Response) -> None:
        query = read_query(req, BatchQuery)

        def build() -> dict[str, Any]:
            batches = self.parts.lists.batches(query)
            return {"as_of": batches.as_of, "batches": batches, "query_of": plain(query)}

        await self.show(req, resp, "batches.html", build)


class BatchPage(Page):
    section = "batches"
    travels = True

    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await self.show(req, resp, "batch.html", lambda: self._build(id))

    def _build(self, id: str) -> dict[str, Any]:
        batch = document(self.parts, "batch", "batches", id)
        found = {job["_id"]: public(job) for job in self.parts.views.live().iterate("jobs", Eq("batch", id))}
        jobs = [found.get(one["job"]) or _unseen(one) for one in batch.get("jobs") or []]
        states: dict[str, int] = {}
        for job in jobs:
            states[job["state"]] = states.get(job["state"], 0) + 1
        order = [*ENDED, *reversed(UNFINISHED)]
        states = {state: states[state] for state in [*order, *(set(states) - set(order))] if state in states}
        return {
            "as_of": batch["as_of"],
            "batch": batch,
            "jobs": jobs,
            "states": states,
            "ended": sum(states.get(state, 0) for state in ENDED),
            "unfinished": any(job["state"] in UNFINISHED for job in jobs),
            "failed": [job for job in jobs if job["state"] in ENDED and job["state"] != "succeeded"][:50],
        }


def _unseen(one: Document) -> Document:
    """A job whose document is not there: its time to be kept is over, or the view is behind."""
    return {"id": one.get("job"), "node": one.get("node"), "state": "unknown"}
