"""Following jobs until they end: their lines, and the documents of those that have ended."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from fleetbus.api import RESEND_SECONDS, Api, Problem

ENDED = ("succeeded", "failed", "timed_out", "cancelled", "expired", "lost")
#: After these, a job has ended.
ENDING = ("event.job.finished", "event.job.expired", "event.job.lost")
#: Ends those jobs that no node has yet.
CANCELLING = "event.job.cancel_requested"

Document = dict[str, Any]


class Line(Struct):
    """One line that a job printed: its number from 1, `o` for stdout or `e` for stderr, and its text."""

    n: int
    stream: str
    text: str


class Watched(Struct, frozen=True, kw_only=True):
    """Jobs that somebody waits for, perhaps those of a `batch`. From `position` on the log may tell of their ends."""

    jobs: tuple[str, ...]
    correlation: str
    position: str
    batch: str = ""


def from_outcome(sent: Mapping[str, Any]) -> Watched:
    """What the outcome of `command.job.submit` or `command.job.retry` made."""
    fact = sent["event"]
    batch = fact["type"] == "event.batch.created"
    return Watched(
        jobs=tuple(one["job"] for one in fact["data"]["jobs"]) if batch else (sent["id"],),
        correlation=fact.get("correlationid") or sent["id"],
        position=sent["position"],
        batch=sent["id"] if batch else "",
    )


def ends(api: Api, watched: Watched) -> Iterator[Document]:
    """The document of each job as it ends, in the order of their ends. Survives a portal that restarts."""
    left = set(watched.jobs)
    query = {"correlation": watched.correlation}
    for message in api.stream("/events/stream", query, watched.position):
        # an empty message says only that the stream is open: what ended while it was not is looked up
        found = _ended(api, watched, left) if not message.data else _told(api, left, message.id, message.json())
        for job in found:
            left.discard(job["id"])
            yield job
        if not left:
            return


def _told(api: Api, left: set[str], position: str, entry: Document) -> Iterator[Document]:
    event = entry["event"]
    data = event["data"]
    if event["type"] in ENDING and data["job"] in left:
        yield fresh(api, data["job"], position)
    elif event["type"] == CANCELLING:
        for id in left & {data["job"], *data.get("jobs", ())}:
            job = fresh(api, id, position)
            if job["state"] in ENDED:
                yield job


def _ended(api: Api, watched: Watched, left: Iterable[str]) -> list[Document]:
    if not watched.batch:
        jobs = [fresh(api, id, watched.position) for id in left]
        return [job for job in jobs if job["state"] in ENDED]
    query = {"batch": watched.batch, "state": ",".join(ENDED), "sort": "ended_at"}
    wanted = set(left)
    return [job for job in api.pages("/jobs", query, limit=100_000, patience=RESEND_SECONDS) if job["id"] in wanted]


def fresh(api: Api, id: str, position: str) -> Document:
    """The job as of this position of the log; waits for views that are behind."""
    deadline = time.monotonic() + RESEND_SECONDS
    while True:
        try:
            job: Document = api.get(f"/jobs/{id}", {"at_least": position}, patience=RESEND_SECONDS)
            return job
        except Problem as error:
            if error.status != 503 or time.monotonic() > deadline:
                raise


def lines(api: Api, job: str) -> Iterator[Line]:
    """What a job prints, until it has ended."""
    for message in api.stream(f"/jobs/{job}/output/stream"):
        if message.event == "end":
            return
        if message.data:
            yield msgspec.json.decode(message.data, type=Line)
