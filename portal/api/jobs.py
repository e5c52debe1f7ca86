"""`/api/v1/jobs`: runs of scripts."""

from typing import Annotated

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from events.job import CancelJob, RetryJob, Rollout, SubmitJob, Target
from portal.api import answers
from portal.api.answers import MAX_WAIT, AtLeastQuery, OutcomeQuery
from portal.api.shapes import Ended, JobList, OneJob, Sent
from portal.bodies import read_json, read_query
from portal.commands import id_from_key
from portal.gate import identity
from portal.lists import Document
from portal.openapi import operation
from portal.parts import Parts
from portal.queries import JobQuery
from portal.runs import Runs
from portal.timeline import hops

#: Seconds that a job may be allowed to take, or to wait for its start: a year.
YEAR = 366 * 86_400

Wait = Annotated[float, Meta(ge=0, le=MAX_WAIT, description="seconds to wait for the job's end")]
Bounded = Annotated[float, Meta(gt=0, le=YEAR)]


class WaitQuery(Struct, kw_only=True):
    wait: Wait = 0.0


class NewTarget(Target, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where to run: `node`, `nodes`, or `role` (one node of it; with `all` every one); `all` alone is every node."""


class NewRollout(Rollout, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a batch goes over its nodes."""


class NewJob(SubmitJob, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One run of a script, or a batch of them. `timeout` and `start_within` in seconds."""

    target: NewTarget
    timeout: Bounded | None = None
    start_within: Bounded | None = None
    rollout: NewRollout | None = None


class Jobs:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("List jobs", query=JobQuery, answers={200: JobList}, problems=[410])
    async def on_get(self, req: Request, resp: Response) -> None:
        await answers.listed(self._parts, req, resp, JobQuery, self._parts.lists.jobs)

    @operation(
        "Run a script; wait for the end of it, if asked to. 202 {id} while it has not ended",
        query=WaitQuery,
        body=NewJob,
        answers={200: Ended, 202: Sent},
        problems=[404],
        keyed=True,
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        wait = read_query(req, WaitQuery).wait
        order = await read_json(req, NewJob)
        actor = identity(req).actor
        key = id_from_key(req.get_header("Idempotency-Key"), actor)
        began = self._parts.clock.monotonic()
        answer = await self._runs().submit(order, actor=actor, id=key, wait=wait)
        left = wait - (self._parts.clock.monotonic() - began)
        ended = await self._runs().end(answer.outcome, left) if answer.outcome and left > 0 else None
        if ended is not None:
            resp.media = ended
            return
        answers.sent(self._parts, resp, answer, status=202)
        kind = "batches" if answer.outcome and answer.outcome.fact.type == "event.batch.created" else "jobs"
        resp.location = f"/api/v1/{kind}/{answer.id}"

    def _runs(self) -> Runs:
        parts = self._parts
        return Runs(parts.commands, parts.hub, parts.views, parts.offload)


class Job:
    travels = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Show a job", query=AtLeastQuery, answers={200: OneJob}, problems=[410])
    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await self._parts.views.at_least(read_query(req, AtLeastQuery).at_least)
        resp.media = await self._parts.offload(whole_job, self._parts, id)


def whole_job(parts: Parts, id: str) -> Document:
    """A job's document with its time line; blocking. Raises `Problem` 404."""
    job = answers.document(parts, "job", "jobs", id)
    # jobs of a batch have the batch's command, a job of its own the one of its id
    command = parts.views.get("commands", str(job.get("batch") or id)) or {}
    return {**job, "timeline": hops(job, command.get("time"))}


class JobCancel:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "Cancel a job, or all unfinished jobs of a batch",
        query=OutcomeQuery,
        answers={200: Sent, 202: Sent},
        keyed=True,
    )
    async def on_post(self, req: Request, resp: Response, id: str) -> None:
        answers.check_id("job", id)
        await answers.ask(self._parts, req, resp, "command.job.cancel", id, CancelJob(job=id))


class JobRetry:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation(
        "Run an ended job again, as a new job whose id is the command's",
        query=OutcomeQuery,
        answers={200: Sent, 202: Sent},
        keyed=True,
    )
    async def on_post(self, req: Request, resp: Response, id: str) -> None:
        answers.check_id("job", id)
        await answers.ask(self._parts, req, resp, "command.job.retry", id, RetryJob(job=id))
