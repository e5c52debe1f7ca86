"""Jobs: the list, and one job with everything about it."""

from typing import Any

import msgspec
from falcon.asgi import Request, Response

from events.job import CancelJob, RetryJob
from portal.api.answers import check_id
from portal.api.jobs import whole_job
from portal.api.nodes import DECIDE_SECONDS, decided
from portal.bodies import read_query
from portal.gate import identity, session_form
from portal.lists import JOB_STATES, UNFINISHED, Document
from portal.pages.charts import Segment, timeline
from portal.pages.hops import rows_of
from portal.pages.nodes import plain
from portal.pages.page import Page
from portal.pages.results import blocks_of
from portal.pages.wording import duration, parse_moment, words
from portal.past import MOMENT
from portal.problems import unprocessable
from portal.queries import JobQuery
from portal.tails import kept_line, tail_name
from projections.osis.errors import OsisError
from projections.osis.filters import EVERYTHING

#: Bytes of output, or of a result, that the page itself shows; the rest is a click away.
SHOWN = 200_000


class JobsPage(Page):
    section = "jobs"
    travels = True

    async def on_get(self, req: Request, resp: Response) -> None:
        query = read_query(req, JobQuery)

        def build() -> dict[str, Any]:
            jobs = self.parts.lists.jobs(query)
            return {
                "as_of": jobs.as_of,
                "jobs": jobs,
                "query_of": plain(query),
                "counts": self.parts.lists.job_states(EVERYTHING),
                "states": JOB_STATES,
                "unfinished": ",".join(UNFINISHED),
                "scripts": sorted(one["_id"] for one in self.parts.views.live().iterate("scripts")),
            }

        await self.show(req, resp, "jobs.html", build)


class JobPage(Page):
    section = "jobs"
    travels = True

    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        await self.show(req, resp, "job.html", lambda: self._build(check_id("job", id)))

    async def on_post(self, req: Request, resp: Response, id: str) -> None:
        """Cancel or run again; the button pressed says which."""
        form = await session_form(req)
        check_id("job", id)
        kinds: dict[str, tuple[str, msgspec.Struct]] = {
            "cancel": ("command.job.cancel", CancelJob(job=id)),
            "retry": ("command.job.retry", RetryJob(job=id)),
        }
        if form.get("do", "") not in kinds:
            raise unprocessable(f"the form asks for {form.get('do')!r}, which this page cannot do", "do")
        kind, data = kinds[form["do"]]
        answer = await self.parts.commands.ask(kind, id, data, actor=identity(req).actor, wait=DECIDE_SECONDS)
        outcome = decided(answer)
        back = safe_back(form.get("back"), f"/jobs/{id}")
        self.go(resp, f"/jobs/{answer.id}" if form["do"] == "retry" else back, outcome.next_offset)

    def _build(self, id: str) -> dict[str, Any]:
        parts = self.parts
        job = whole_job(parts, id)
        version = parts.views.get("script_versions", str(job.get("hash") or "")) or {}
        retries = parts.lists.jobs(JobQuery(retry_of=id, limit=10)).items
        stretches, result = segments(job, parts.now()), self._result(job)
        return {
            "as_of": job["as_of"],
            "job": job,
            "unfinished": job.get("state") in UNFINISHED,
            "source": version.get("source", ""),
            "result": result,
            "blocks": blocks_of(result),
            "output": self._output(job),
            "retries": retries,
            "segments": stretches,
            "timeline": timeline(stretches),
            "hops": rows_of(job["timeline"], parts.now()),
        }

    def _result(self, job: Document) -> Any:
        """The result, also when it is kept as a blob that is not too large to show."""
        blob = job.get("result_blob")
        if not blob:
            return job.get("result")
        size = self.parts.documents.blobs.size(blob)
        data = self.parts.documents.blobs.get(blob) if size is not None and size <= SHOWN else None
        return None if data is None else msgspec.json.decode(data)

    def _output(self, job: Document) -> dict[str, Any]:
        """The lines to show, and the number of the last one: there the live stream goes on."""
        said = job.get("output") or {}
        blob = said.get("blob")
        if blob:
            size = self.parts.documents.blobs.size(blob) or 0
            parts = self.parts.documents.blobs.read(blob, max(0, size - SHOWN))
            if parts is not None:
                text = b"".join(parts).decode(errors="replace")
                return {"text": text, "last": 0, "cut": max(0, size - SHOWN)}
        if MOMENT.get() is not None:
            # the lines of a running job are of today
            return {"text": str(said.get("tail") or ""), "last": 0, "cut": 0}
        try:
            kept = [kept_line(n, line) for n, line in self.parts.live.last(tail_name(job["id"]))]
        except OsisError:
            kept = []
        text = "".join(f"{line.text}\n" for line in kept) or str(said.get("tail") or "")
        return {"text": text, "last": kept[-1].n if kept else 0, "cut": 0}


def safe_back(text: str | None, default: str) -> str:
    return text if text and text.startswith(("/batches/", "/jobs")) and text.isprintable() else default


def segments(job: Document, now: Any) -> list[Segment]:
    """The stretches of a job's life: waiting, queued, running, and its end."""
    state = str(job.get("state"))
    marks = [("waiting", "submitted_at"), ("queued", "queued_at"), ("started", "started_at")]
    times = [(name, at) for name, field in marks if (at := parse_moment(job.get(field))) is not None]
    if not times:
        return []
    end = parse_moment(job.get("ended_at")) or now
    found = []
    for index, (name, at) in enumerate(times):
        until = times[index + 1][1] if index + 1 < len(times) else end
        seconds = max(0.0, (until - at).total_seconds())
        colour = state if name == "started" and job.get("ended_at") else name
        if seconds > 0 or name == "started":
            label = (
                "ran" if name == "started" and job.get("ended_at") else words("running" if name == "started" else name)
            )
            found.append(Segment(colour, 0.0, seconds, f"{label} {duration(seconds)}"))
    return found
