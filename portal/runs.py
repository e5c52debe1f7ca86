"""Submitting jobs and waiting for their ends."""

import time
from typing import Any

from events.job import BatchCreated, SubmitJob
from portal.commands import Answer, Commands, Outcome
from portal.feed import Entry
from portal.hub import Hub
from portal.lists import ENDED, Document, public
from portal.offload import Offload
from portal.views import Views
from projections.osis.filters import And, Eq, In

#: Seconds for which `POST /jobs` waits for the outcome even without `wait`, so that a rejection is an answer.
OUTCOME_SECONDS = 2.0
#: Seconds that the views may take to show an end that is in the log, beyond the time somebody wants to wait.
VIEW_SECONDS = 3.0
#: After these a job has ended, whatever came before.
ENDING = frozenset({"event.job.finished", "event.job.expired", "event.job.lost"})


class Runs:
    """One per portal; the loop's thread uses it."""

    def __init__(self, commands: Commands, hub: Hub, views: Views, offload: Offload) -> None:
        self._commands = commands
        self._hub = hub
        self._views = views
        self._offload = offload

    async def submit(self, order: SubmitJob, *, actor: str, id: str | None, wait: float = 0.0) -> Answer:
        """Sends `command.job.submit`. Raises `Problem` when it is rejected within the time."""
        answer = await self._commands.ask(
            "command.job.submit", order.script, order, actor=actor, id=id, wait=max(wait, OUTCOME_SECONDS)
        )
        answer.accepted()
        return answer

    async def end(self, outcome: Outcome, seconds: float) -> dict[str, Any] | None:
        """The job, or the batch with its jobs, once all of it has ended and the views show it; None after `seconds`."""
        deadline = time.monotonic() + seconds
        if isinstance(outcome.fact.data, BatchCreated):
            ids = [job.job for job in outcome.fact.data.jobs]
            return (
                await self._offload(self._batch, outcome.command)
                if await self._all_ended(ids, outcome, deadline)
                else None
            )
        if not await self._all_ended([outcome.command], outcome, deadline):
            return None
        job = await self._offload(self._views.get, "jobs", outcome.command)
        return None if job is None else {"id": outcome.command, "job": public(job)}

    async def _all_ended(self, ids: list[str], outcome: Outcome, deadline: float) -> bool:
        left = set(ids)
        with self._hub.watch(*(("job", id) for id in ids)) as watch:
            # what ended before the watch began is in the views as soon as these are here
            here = max(outcome.next_offset, self._hub.state.next_offset)
            await self._views.reach(here, max(VIEW_SECONDS, deadline - time.monotonic()))
            left -= await self._offload(self._ended, list(left))
            last = here
            while left:
                entry = await watch.next(deadline - time.monotonic())
                if entry is None:
                    return False
                last = entry.next_offset
                left -= await self._ended_by(entry, left, deadline)
        return await self._views.reach(last, max(VIEW_SECONDS, deadline - time.monotonic()))

    async def _ended_by(self, entry: Entry, left: set[str], deadline: float) -> set[str]:
        data = entry.event.data
        if entry.event.type in ENDING:
            return {data.job}
        if entry.event.type == "event.job.cancel_requested":
            # ends those that no node has yet; the views know which
            await self._views.reach(entry.next_offset, max(VIEW_SECONDS, deadline - time.monotonic()))
            return await self._offload(self._ended, [id for id in (data.job, *data.jobs) if id in left])
        return set()

    def _ended(self, ids: list[str]) -> set[str]:
        found = self._views.live().get_many("jobs", ids)
        return {id for id, job in found.items() if job.get("state") in ENDED}

    def _batch(self, id: str) -> Document | None:
        live = self._views.live()
        batch = live.get("batches", id)
        if batch is None:
            return None
        jobs = [public(job) for job in live.iterate("jobs", And(Eq("batch", id), In("state", ENDED)))]
        states: dict[str, int] = {}
        for job in jobs:
            states[job["state"]] = states.get(job["state"], 0) + 1
        return {"id": id, "batch": {**public(batch), "states": states}, "jobs": jobs}
