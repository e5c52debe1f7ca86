"""`/api/v1/batches`: one submission, a job on each of many nodes."""

from falcon.asgi import Request, Response

from portal.api import answers
from portal.api.answers import AtLeastQuery
from portal.api.shapes import BatchList, OneBatch
from portal.bodies import read_query
from portal.lists import Document
from portal.openapi import operation
from portal.parts import Parts
from portal.queries import BatchQuery
from projections.osis.filters import Eq


class Batches:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("List batches", query=BatchQuery, answers={200: BatchList}, problems=[410])
    async def on_get(self, req: Request, resp: Response) -> None:
        await answers.listed(self._parts, req, resp, BatchQuery, self._parts.lists.batches)


class Batch:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Show a batch", query=AtLeastQuery, answers={200: OneBatch}, problems=[410])
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await self._parts.views.at_least(read_query(req, AtLeastQuery).at_least)
        resp.media = await self._parts.offload(self._with_states, id)

    def _with_states(self, id: str) -> Document:
        batch = answers.document(self._parts, "batch", "batches", id)
        return {**batch, "states": self._parts.lists.job_states(Eq("batch", id))}
