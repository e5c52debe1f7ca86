"""`/api/v1/jobs/ID/output`: what a job prints, whole or line by line while it runs."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from portal.api.answers import check_id
from portal.bodies import read_query
from portal.job_lines import JobLines
from portal.openapi import Text, operation
from portal.parts import Parts
from portal.problems import away, bad_request, not_found
from portal.tails import tail_name


class LinesQuery(Struct, kw_only=True):
    after: Annotated[int, Meta(ge=0, le=2**53, description="the number of the last line that you have")] = 0


class Output:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "What a job printed, as text: all of it once it has ended, before that the last lines",
        answers={200: Text("text/plain")},
    )
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        parts = self._parts
        job = await parts.offload(parts.views.get, "jobs", check_id("job", id))
        if job is None:
            raise not_found("job", id)
        resp.content_type = "text/plain; charset=utf-8"
        blob = (job.get("output") or {}).get("blob")
        chunks = await parts.offload(parts.documents.blobs.read, blob) if blob else None
        if chunks is not None:
            resp.stream = self._stream(chunks)
            return
        lines = await parts.offload(parts.live.last, tail_name(id))
        kept = "".join(f"{text[1:]}\n" for _, text in lines)
        resp.text = kept or (job.get("output") or {}).get("tail", "")

    async def _stream(self, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (chunk := await self._parts.offload(next, chunks, b"")) != b"":
            yield chunk


class Result:
    """A large result is kept as a blob; this is it either way."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("What a job returned, as JSON", answers={200: Text("application/json")})
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        parts = self._parts
        job = await parts.offload(parts.views.get, "jobs", check_id("job", id))
        if job is None:
            raise not_found("job", id)
        blob = job.get("result_blob")
        resp.content_type = "application/json"
        if not blob:
            resp.data = msgspec.json.encode(job.get("result"))
            return
        data = await parts.offload(parts.documents.blobs.get, blob)
        if data is None:
            raise away(f"the result of job {id} has not arrived yet, or is not kept any more")
        resp.data = data


class Lines:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "Watch the lines that a job prints as server-sent events, ids are line numbers; `event: end` is the last",
        query=LinesQuery,
        answers={200: Text("text/event-stream")},
    )
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        parts = self._parts
        after = read_query(req, LinesQuery).after
        last = req.get_header("Last-Event-ID")
        if last:
            if not (last.isascii() and last.isdigit() and len(last) < 17):
                raise bad_request(f"{last[:40]!r} is no line number", "Last-Event-ID")
            after = int(last)
        if await parts.offload(parts.views.get, "jobs", check_id("job", id)) is None:
            raise not_found("job", id)
        lines = JobLines(
            id,
            after,
            hub=parts.hub,
            views=parts.views,
            live=parts.live,
            blobs=parts.documents.blobs,
            offload=parts.offload,
        )
        resp.sse = lines.frames()
        resp.set_header("X-Accel-Buffering", "no")
