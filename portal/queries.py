"""What lists can be asked for: the parameters of each, and the filters they mean."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from bus.patterns import matches
from events.registry import TYPES
from portal.problems import bad_request
from projections.osis.filters import And, Contains, Eq, Filter, Gte, Has, In, Lt, Or, Prefix

#: Items of one page.
MAX_LIMIT = 500

Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description=f"items of one page, 1 to {MAX_LIMIT}")]
Text = Annotated[str, Meta(max_length=500)]
Moment = Annotated[
    str, Meta(max_length=40, description="RFC 3339 (2026-01-31T12:00:00Z), or back from now: -30m, -4h, -2d, -1w")
]
AsOfText = Annotated[
    str,
    Meta(max_length=40, description="a moment (2026-01-31T12:00:00Z), or an offset: the views as they were then"),
]
Words = Annotated[str, Meta(max_length=500, description="one value, or several joined by commas")]


class ListQuery(Struct, kw_only=True):
    """What every list takes."""

    sort: Annotated[str, Meta(max_length=100, description="a field; with - in front the other way round")] = ""
    limit: Limit = 50
    cursor: Annotated[str, Meta(max_length=4000, description="`next_cursor` of the page before, same sort")] = ""
    at_least: Annotated[
        str, Meta(max_length=200, description="<log id>:<next offset>; waits until the views are there")
    ] = ""
    as_of: AsOfText = ""


class JobQuery(ListQuery, kw_only=True):
    state: Words = ""
    script: Words = ""
    node: Words = ""
    by: Text = ""
    batch: Text = ""
    retry_of: Text = ""
    correlation: Text = ""
    since: Moment = ""
    until: Moment = ""


class NodeQuery(ListQuery, kw_only=True):
    state: Words = ""
    role: Annotated[str, Meta(max_length=120, description="the role, or one below it")] = ""
    maintenance: bool | None = None
    name: Annotated[str, Meta(max_length=100, description="a part of the node's id")] = ""


class ScriptQuery(ListQuery, kw_only=True):
    name: Annotated[str, Meta(max_length=100, description="a part of the name")] = ""
    retired: bool | None = None


class BatchQuery(ListQuery, kw_only=True):
    script: Words = ""
    by: Text = ""
    since: Moment = ""
    until: Moment = ""


class EventQuery(ListQuery, kw_only=True):
    type: Annotated[str, Meta(max_length=200, description="a type; * is one word of it, # any number")] = ""
    subject: Text = ""
    actor: Text = ""
    user: Text = ""
    correlation: Text = ""
    causation: Text = ""
    verdict: Words = ""
    since: Moment = ""
    until: Moment = ""


class CommandQuery(ListQuery, kw_only=True):
    type: Words = ""
    actor: Text = ""
    outcome: Annotated[str, Meta(max_length=40, description="accepted, rejected, or open")] = ""
    since: Moment = ""
    until: Moment = ""


#: Fields by which each list can be sorted; the first is how it is sorted by default.
SORTS: dict[type[ListQuery], tuple[str, ...]] = {
    JobQuery: ("-submitted_at", "started_at", "ended_at", "duration", "state", "script", "node"),
    NodeQuery: ("id", "state", "connected_at", "changed_at"),
    ScriptQuery: ("id", "published_at"),
    BatchQuery: ("-created_at", "script", "total"),
    EventQuery: ("-offset", "time"),
    CommandQuery: ("-time", "offset"),
}

_BACK = re.compile(r"-(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def sort_of(query: ListQuery) -> list[str]:
    """The sort as Documents takes it. Raises `Problem` 400."""
    allowed = SORTS[type(query)]
    wanted = query.sort or allowed[0]
    names = [name.removeprefix("-") for name in allowed]
    if wanted.removeprefix("-") not in names:
        raise bad_request(f"cannot sort by {wanted[:80]!r}; sort by {', '.join(names)}", "sort", names)
    return ["_id" if wanted == "id" else "-_id" if wanted == "-id" else wanted]


def moment(text: str, now: datetime, field: str) -> str:
    """A moment as documents can be compared with it: RFC 3339 in UTC, without its end. Raises `Problem` 400."""
    try:
        if back := _BACK.fullmatch(text):
            at = now - timedelta(**{_UNITS[back[2]]: int(back[1])})
        else:
            at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
            at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise bad_request(
            f"{text!r} is no moment; write 2026-01-31T12:00:00Z, or -30m, -4h, -2d, -1w for back from now", field
        ) from None
    return at.replace(tzinfo=None).isoformat()


def jobs(query: JobQuery, now: datetime) -> Filter:
    return And(
        *_in("state", query.state),
        *_in("script", query.script),
        *_in("node", query.node),
        *_eq("by", query.by),
        *_eq("batch", query.batch),
        *_eq("retry_of", query.retry_of),
        *_eq("correlation", query.correlation),
        *_between("submitted_at", query, now),
    )


def nodes(query: NodeQuery, roles: list[str]) -> Filter:
    """`roles`: all that hold the role asked for."""
    flag = [] if query.maintenance is None else [Eq("maintenance", query.maintenance)]
    name = [Contains("_id", query.name)] if query.name else []
    role = [Or(*(Has("roles", held) for held in roles))] if query.role else []
    return And(*_in("state", query.state), *flag, *name, *role)


def scripts(query: ScriptQuery) -> Filter:
    flag = [] if query.retired is None else [Eq("retired", query.retired)]
    return And(*flag, *([Contains("_id", query.name)] if query.name else []))


def batches(query: BatchQuery, now: datetime) -> Filter:
    return And(*_in("script", query.script), *_eq("by", query.by), *_between("created_at", query, now))


def commands(query: CommandQuery, now: datetime) -> Filter:
    outcome = []
    if query.outcome:
        outcome = [Eq("outcome", None if query.outcome == "open" else query.outcome)]
    return And(*_in("type", query.type), *_eq("actor", query.actor), *outcome, *_between("time", query, now))


def events(query: EventQuery, now: datetime) -> Filter:
    """All conditions; that on the type may find too much (`fits_type` decides)."""
    return And(
        *_type(query.type),
        *_eq("subject", query.subject),
        *_eq("actor", query.actor),
        *_eq("user", query.user),
        *_eq("correlation", query.correlation),
        *_eq("causation", query.causation),
        *_in("verdict", query.verdict),
        *_between("time", query, now),
    )


def is_pattern(type: str) -> bool:
    return "*" in type or "#" in type


def needs_check(type: str) -> bool:
    """Whether the filter on the type finds too much, so that each document must be looked at."""
    return is_pattern(type) and not _only_end(type)


def _only_end(type: str) -> bool:
    """`a.b.#`: exactly what begins with `a.b`."""
    return type.endswith(".#") and not is_pattern(type[:-2])


def _type(pattern: str) -> list[Filter]:
    if not pattern or pattern == "#":
        return []
    if not is_pattern(pattern):
        return [Eq("type", pattern)]
    if _only_end(pattern):
        return [Or(Eq("type", pattern[:-2]), Prefix("type", pattern[:-1]))]
    platform = tuple(name for name in TYPES if matches(pattern, name))
    fixed = re.split(r"[*#]", pattern, maxsplit=1)[0]
    return [Or(In("type", platform), Prefix("type", fixed))] if fixed else []


def _eq(field: str, value: str) -> list[Filter]:
    return [Eq(field, value)] if value else []


def _in(field: str, words: str) -> list[Filter]:
    values = tuple(word.strip() for word in words.split(",") if word.strip())
    return [In(field, values) if len(values) > 1 else Eq(field, values[0])] if values else []


def _between(field: str, query: JobQuery | BatchQuery | EventQuery | CommandQuery, now: datetime) -> list[Filter]:
    found: list[Filter] = []
    if query.since:
        found.append(Gte(field, moment(query.since, now, "since")))
    if query.until:
        found.append(Lt(field, moment(query.until, now, "until")))
    return found
