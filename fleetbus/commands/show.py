"""Jobs on the screen: while they run, and when they have ended."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fleetbus.errors import FAILED
from fleetbus.output import Printer, as_json, seconds, state

if TYPE_CHECKING:
    from fleetbus.api import Api
    from fleetbus.follow import Watched

Document = Mapping[str, Any]

#: Seconds that a large result may take to arrive behind the end of its job.
BLOB_SECONDS = 10.0


def waiting(fact: Document) -> None:
    """Says why a job cannot begin yet, if the first fact about it says so."""
    if fact["type"] == "event.job.waiting":
        data = fact["data"]
        place = f" (place {data['place']} in the line)" if data.get("place", 1) > 1 else ""
        click.echo(f"waiting: {data['reason']}{place}", err=True)


def follow_one(api: "Api", out: Printer, watched: "Watched") -> None:
    """A job until its end. Ends the program with 1 when it did not succeed."""
    from fleetbus import follow

    if out.for_eyes:
        (id,) = watched.jobs
        follow.fresh(api, id, watched.position)  # until then the views may not know it
        for line in follow.lines(api, id):
            click.echo(line.text, err=line.stream == "e")
    for job in follow.ends(api, watched):
        with_result(api, job)
        if out.for_eyes:
            _result(job)
            ended(job, err=True)
        else:
            out.line(job)
        if job["state"] != "succeeded":
            raise SystemExit(FAILED)


def follow_batch(api: "Api", out: Printer, watched: "Watched") -> None:
    """The jobs of a batch, each as it ends. Ends the program with 1 when not all succeeded."""
    from fleetbus import follow

    states: Counter[str] = Counter()
    for job in follow.ends(api, watched):
        states[job["state"]] += 1
        with_result(api, job)
        if out.for_eyes:
            ended(job)
            _output(job)
            _result(job)
        else:
            out.line(job)
    click.echo(f"batch {watched.batch}: " + ", ".join(f"{count} {name}" for name, count in states.items()), err=True)
    if set(states) != {"succeeded"}:
        raise SystemExit(FAILED)


def ended(job: Document, *, err: bool = False) -> None:
    """One line about the end, and why it was not a good one: the script's own traceback."""
    took = f" in {seconds(job['duration'])}" if job.get("duration") is not None else ""
    late = ", late" if job.get("late") else ""
    where = job.get("node") or "no node"
    click.echo(f"{job['script']} on {where}: {state(job['state'])}{took}{late} ({job['id']})", err=err)
    failure = job.get("failure")
    if failure:
        click.echo((failure["traceback"] or failure["error"]).rstrip("\n"), err=err)
    elif job.get("reason"):
        click.echo(job["reason"], err=err)


def _output(job: Document) -> None:
    output = job.get("output") or {}
    for line in output.get("tail", "").splitlines():
        click.echo(f"  {line}")
    if output.get("size", 0) > len(output.get("tail", "").encode()):
        click.echo(f"  … {output['lines']} lines: `fleetbus job logs {job['id']}`")


def _result(job: Document) -> None:
    result = job.get("result")
    if result is not None:
        click.echo(result if isinstance(result, str) else as_json(result))


def with_result(api: "Api", job: dict[str, Any]) -> None:
    """Fetches a result that is too large for the job's document; waits for it as long as blobs take to arrive."""
    if job.get("result") is not None or not job.get("result_blob"):
        return
    from fleetbus.api import Problem

    deadline = time.monotonic() + BLOB_SECONDS
    while job["result"] is None:
        try:
            job["result"] = api.get(f"/jobs/{job['id']}/result")
        except Problem as error:
            if error.status != 503 or time.monotonic() > deadline:
                click.echo(f"the result of {job['id']} is not there: {error.message}", err=True)
                return
            time.sleep(0.2)
