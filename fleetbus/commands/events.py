"""`fleetbus events`: the log as it is, and facts of other services."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from bus.clock import new_id
from fleetbus.commands.options import talks
from fleetbus.errors import Wrong
from fleetbus.output import Printer, moment

if TYPE_CHECKING:
    from fleetbus.api import Api

#: Events shown when nobody says from where.
LAST = 20


@click.group("events")
def events() -> None:
    """The log: every command and every fact."""


@events.command("tail")
@click.option(
    "--from", "start", default="", metavar="OFFSET|TIME", help="From here: an offset, a moment, -4h, or first."
)
@click.option("--type", "pattern", default="", metavar="PATTERN", help="Types that fit: * is one word, # any number.")
@click.option("--subject", default="", help="About this job, node or script.")
@click.option("--correlation", default="", metavar="ID", help="Of the story that began with this command.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
@talks
def tail(*, api: "Api", out: Printer, start: str, follow: bool, pattern: str, subject: str, correlation: str) -> None:
    """Print events in the order of the log; without --from, the last 20. `--json` prints one per line, whole."""
    query = {"type": pattern, "subject": subject, "correlation": correlation}
    with suppress(KeyboardInterrupt):
        for entry in _entries(api, start or _last(api, query), query, follow=follow):
            if out.for_eyes:
                click.echo(_shown(entry))
            else:
                out.line(entry)


def _last(api: "Api", query: dict[str, str]) -> str:
    """The offset of the last but 19 that fit."""
    found = api.get("/events", {**query, "verdict": "admitted", "limit": LAST})["items"]
    return str(found[-1]["offset"]) if found else ""


def _entries(api: "Api", start: str, query: dict[str, str], *, follow: bool) -> Iterator[dict[str, Any]]:
    """`{"offset", "event"}`, from `start` on."""
    if not start and not follow:
        return
    given = {**query, "from": start, "follow": str(follow).lower()}
    for message in api.stream("/events/stream", given, once=not follow):
        if message.data:
            yield message.json()


def _shown(entry: dict[str, Any]) -> str:
    event = entry["event"]
    head = f"{entry['offset']:>8}  {moment(event['time'])}  {event['type']:<30}  {event['subject']}"
    return f"{head}  {click.style(event['actor'], dim=True)}"


@events.command("publish")
@click.argument("type")
@click.option("--subject", default="", help="What it is about.")
@click.option("--data", required=True, metavar="JSON", help="A JSON object.")
@talks
def publish(*, api: "Api", out: Printer, type: str, subject: str, data: str) -> None:
    """Publish a fact of a service: TYPE is event.SERVICE.WHAT."""
    body = {"type": type, "data": _object(data)} | ({"subject": subject} if subject else {})
    sent = api.send("POST", "/events", body, id=new_id())
    out.done(sent["id"], sent)


@events.command("republish")
@click.argument("offset", type=click.IntRange(min=0))
@click.option("--type", "type_", default="", metavar="TYPE", help="Its type, when the record's is wrong.")
@click.option("--subject", default="", help="What it is about, when the record's is wrong.")
@click.option("--data", default=None, metavar="JSON", help="A JSON object, when the record's data is wrong.")
@talks
def republish(*, api: "Api", out: Printer, offset: int, type_: str, subject: str, data: str | None) -> None:
    """Say the bad record at OFFSET anew, with what was wrong put right.

    It becomes a new event of yours, which names the bad record as its cause. What is not given is taken from the
    record. Each bad record has one successor; a record that is not bad is refused.
    """
    given = {"type": type_ or None, "subject": subject or None, "data": None if data is None else _object(data)}
    body = {name: value for name, value in given.items() if value is not None}
    sent = api.send("POST", f"/events/bad-{offset}/republish", body)
    out.done(sent["id"], sent)


def _object(data: str) -> dict[str, Any]:
    try:
        payload = json.loads(data)
    except ValueError as error:
        raise Wrong(f"--data is no JSON: {error}") from None
    if not isinstance(payload, dict):
        raise Wrong("--data must be a JSON object, such as '{\"invoice\": 7}'")
    return payload
