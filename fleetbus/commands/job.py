"""`fleetbus job`: what runs, what ran, and why."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from bus.clock import new_id
from fleetbus.commands import show
from fleetbus.commands.options import talks
from fleetbus.errors import FAILED, Failure
from fleetbus.output import Column, Printer, as_json, moment, seconds, state

if TYPE_CHECKING:
    from fleetbus.api import Api
    from fleetbus.follow import Watched

STATES = ("waiting", "queued", "started", "succeeded", "failed", "timed_out", "cancelled", "expired", "lost")

COLUMNS: tuple[Column, ...] = (
    ("ID", lambda job: job["id"]),
    ("SCRIPT", lambda job: job["script"] or ""),
    ("NODE", lambda job: job["node"] or ""),
    ("STATE", lambda job: job["state"]),
    ("SUBMITTED", lambda job: moment(job["submitted_at"])),
    ("TOOK", lambda job: seconds(job["duration"])),
    ("BY", lambda job: job["by"] or ""),
)


@click.group("job")
def job() -> None:
    """Runs of scripts."""


@job.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="In this state; may be given again.")
@click.option("--script", help="Runs of this script.")
@click.option("--node", help="On this node.")
@click.option("--by", help="Asked for by this actor, such as user:admin.")
@click.option("--batch", help="Of this batch.")
@click.option("--since", help="Submitted at or after: 2026-01-31T12:00:00Z, or -4h.")
@click.option("--until", help="Submitted before.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, the latest first."
)
@talks
def list_(*, api: "Api", out: Printer, states: Sequence[str], limit: int, **query: Any) -> None:
    """List jobs, the latest first."""
    found = api.pages("/jobs", {**query, "state": ",".join(states)}, limit)
    out.items(found, COLUMNS, "there is no such job")


@job.command("show")
@click.argument("id")
@talks
def show_(*, api: "Api", out: Printer, id: str) -> None:
    """Show a job, or a batch, by its id."""
    found = job_or_batch(api, id)
    if "states" in found:
        _show_batch(out, found)
    else:
        show.with_result(api, found)
        _show_job(out, found)


def job_or_batch(api: "Api", id: str) -> dict[str, Any]:
    """The document with this id. Raises `Problem` 404 when there is neither a job nor a batch."""
    from fleetbus.api import Problem

    try:
        found: dict[str, Any] = api.get(f"/jobs/{id}")
        return found
    except Problem as error:
        if error.status != 404:
            raise
        missing = error
    try:
        batch: dict[str, Any] = api.get(f"/batches/{id}")
        return batch
    except Problem as error:
        raise missing if error.status == 404 else error from None


def _show_job(out: Printer, job: dict[str, Any]) -> None:
    failure, output = job.get("failure") or {}, job.get("output") or {}
    result = job.get("result")
    out.fields(
        job,
        (
            ("job", job["id"]),
            ("script", f"{job['script']} ({(job['hash'] or '')[:12]})"),
            ("params", as_json(job["params"]) if job["params"] else ""),
            ("state", state(job["state"]) + (" (late)" if job["late"] else "")),
            ("reason", job["reason"]),
            ("node", job["node"] or ""),
            ("by", job["by"] or ""),
            ("batch", job["batch"] or ""),
            ("retry of", job["retry_of"] or ""),
            ("submitted", moment(job["submitted_at"])),
            ("started", moment(job["started_at"])),
            ("ended", moment(job["ended_at"])),
            ("took", seconds(job["duration"])),
            ("error", (failure.get("traceback") or failure.get("error") or "").rstrip("\n")),
            ("output", output.get("tail", "").rstrip("\n")),
            ("result", "" if result is None else result if isinstance(result, str) else as_json(result)),
        ),
    )


def _show_batch(out: Printer, batch: dict[str, Any]) -> None:
    states = ", ".join(f"{count} {name}" for name, count in batch["states"].items())
    out.fields(
        batch,
        (
            ("batch", batch["id"]),
            ("script", batch["script"]),
            ("params", as_json(batch["params"]) if batch["params"] else ""),
            ("by", batch["by"]),
            ("jobs", f"{batch['total']}: {states}"),
            ("at a time", str(batch["size"] or "all")),
            ("created", moment(batch["created_at"])),
            ("cancelled", batch["cancel_reason"] if batch["cancel_requested"] else ""),
            ("", f"`fleetbus job list --batch {batch['id']}` lists its jobs"),
        ),
    )


@job.command("logs")
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@talks
def logs(*, api: "Api", out: Printer, id: str, follow: bool) -> None:
    """Print what a job printed."""
    from fleetbus.follow import lines

    if not follow:
        text = api.text(f"/jobs/{id}/output")
        if out.for_eyes:
            click.echo(text, nl=bool(text) and not text.endswith("\n"))
        else:
            out.document({"id": id, "output": text})
        return
    with suppress(KeyboardInterrupt):
        for line in lines(api, id):
            if out.for_eyes:
                click.echo(line.text, err=line.stream == "e")
            else:
                out.line({"n": line.n, "stream": line.stream, "text": line.text})


@job.command("wait")
@click.argument("ids", nargs=-1, required=True)
@talks
def wait(*, api: "Api", out: Printer, ids: Sequence[str]) -> None:
    """Wait until jobs or batches have ended. Ends with 1 when one of them did not succeed."""
    from fleetbus import follow

    good = True
    for id in ids:
        for ended in follow.ends(api, _watched(api, id)):
            good = good and ended["state"] == "succeeded"
            if out.for_eyes:
                show.ended(ended)
            else:
                out.line(ended)
    if not good:
        raise SystemExit(FAILED)


def _watched(api: "Api", id: str) -> "Watched":
    from fleetbus.follow import Watched

    found = job_or_batch(api, id)
    as_of = found["as_of"]
    batch = "states" in found
    return Watched(
        jobs=tuple(one["job"] for one in found["jobs"]) if batch else (id,),
        correlation=found["correlation"] or "",
        position=f"{as_of['log']}:{as_of['next_offset']}",
        batch=id if batch else "",
    )


@job.command("cancel")
@click.argument("id")
@talks
def cancel(*, api: "Api", out: Printer, id: str) -> None:
    """End a job, or all unfinished jobs of a batch."""
    sent = api.ask("POST", f"/jobs/{id}/cancel", id=new_id())
    out.done("its end was asked for; `fleetbus job wait` waits for it", sent)


@job.command("retry")
@click.argument("id")
@click.option("--no-wait", is_flag=True, help="Print the id and do not wait for the end.")
@talks
def retry(*, api: "Api", out: Printer, id: str, no_wait: bool) -> None:
    """Run an ended job again, as a new job."""
    from fleetbus import follow
    from fleetbus.commands.run import attached

    new = new_id()
    with attached(api, new):
        sent = api.ask("POST", f"/jobs/{id}/retry", id=new)
        if no_wait:
            out.done(new, {"id": new})
        elif sent.get("event") is None:
            raise Failure("nobody has decided on it yet; are the handlers running?", f"`fleetbus job wait {new}`")
        else:
            show.waiting(sent["event"])
            show.follow_one(api, out, follow.from_outcome(sent))


@job.command("why")
@click.argument("id")
@talks
def why(*, api: "Api", out: Printer, id: str) -> None:
    """Explain where a job stands, and how it came there. Takes the id of a rejected command, too."""
    from fleetbus.api import Problem

    try:
        found = api.get(f"/jobs/{id}")
    except Problem as error:
        if error.status != 404:
            raise
        _why_not(api, out, id, error)
        return
    if not out.for_eyes:
        out.document({name: found[name] for name in ("id", "state", "reason", "place", "start_by", "history")})
        return
    click.echo(_standing(found))
    for line in _story(found):
        click.echo(line)


def _why_not(api: "Api", out: Printer, id: str, missing: Failure) -> None:
    """There is no job: perhaps its command was rejected, or nobody has decided on it yet."""
    from fleetbus.api import Problem

    try:
        command = api.get(f"/commands/{id}")
    except Problem as error:
        raise missing if error.status == 404 else error from None
    rejection = command.get("rejection") or {}
    if rejection:
        text = f"rejected: {rejection['message']}"
    elif command["outcome"] is None:
        text = "nobody has decided on it yet; are the handlers running?"
    else:
        text = f"{command['type']} was accepted: {command['outcome_type']}"
    out.done(text, command)


def _standing(job: dict[str, Any]) -> str:
    """One sentence: the state, and the reason for it."""
    name, where = state(job["state"]), job["node"] or "no node"
    match job["state"]:
        case "waiting":
            line = f", number {job['place']} in the line" if job.get("place") else ""
            return f"{name}: {job['reason']}{line}; it must start before {moment(job['start_by'])}"
        case "queued":
            return (
                f"{name}: {where} was told to run it and has not begun; it must start before {moment(job['start_by'])}"
            )
        case "started":
            asked = "; its end was asked for" if job["cancel_requested"] else ""
            return f"{name}: it runs on {where} since {moment(job['started_at'])}{asked}"
        case "failed" | "timed_out":
            return f"{name} on {where}: {(job.get('failure') or {}).get('error') or job['reason']}"
        case "succeeded":
            return f"{name} on {where} after {seconds(job['duration'])}"
        case _:
            return f"{name} ({where}): {job['reason'] or 'somebody asked for its end'}"


def _story(job: dict[str, Any]) -> Iterator[str]:
    for fact in job["history"]:
        by = f"  {fact['node']}" if fact.get("node") else ""
        yield f"  {moment(fact['time'])}  {fact['type'].removeprefix('event.')}{by}  (offset {fact['offset']})"
    if job["retry_of"]:
        yield f"  it runs {job['retry_of']} again"
    if job["own_slot"]:
        yield f"  the node began it by itself: {job['own_slot']}"
