"""Pages of documents, with how fresh they are: the same for the REST API and for people."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bus.clock import Clock, SystemClock
from bus.patterns import matches
from events.names import holds
from portal import queries
from portal.past import now
from portal.problems import bad_request
from portal.queries import (
    BatchQuery,
    CommandQuery,
    EventQuery,
    JobQuery,
    ListQuery,
    NodeQuery,
    ScriptQuery,
    sort_of,
)
from portal.views import AsOf, Views
from projections.osis.documents import Page
from projections.osis.errors import BadQuery
from projections.osis.filters import And, Eq, Filter
from projections.osis.query import parse_sort, write_cursor

#: Documents that a search by a pattern looks at for one page; the cursor goes on from there.
SCANNED = 5_000

JOB_STATES = ("waiting", "queued", "started", "succeeded", "failed", "timed_out", "cancelled", "expired", "lost")
UNFINISHED = ("waiting", "queued", "started")
ENDED = JOB_STATES[3:]

Document = dict[str, Any]


class Listed(Struct, frozen=True, kw_only=True):
    """One page of a list. `total` counts all pages; None where nobody counted."""

    items: list[Document]
    next_cursor: str | None
    total: int | None
    as_of: AsOf


class Lists:
    """Blocking: for threads of the pool."""

    def __init__(self, views: Views, clock: Clock | None = None) -> None:
        self._views = views
        self._clock = clock or SystemClock()

    def jobs(self, query: JobQuery) -> Listed:
        return self._find("jobs", query, queries.jobs(query, now(self._clock)))

    def nodes(self, query: NodeQuery, roles: list[str] | None = None) -> Listed:
        """`roles`: every role that some node holds, if the caller has just looked."""
        known = (roles or self.roles()) if query.role else []
        return self._find("nodes", query, queries.nodes(query, [role for role in known if holds((role,), query.role)]))

    def scripts(self, query: ScriptQuery) -> Listed:
        return self._find("scripts", query, queries.scripts(query))

    def commands(self, query: CommandQuery) -> Listed:
        return self._find("commands", query, queries.commands(query, now(self._clock)))

    def batches(self, query: BatchQuery) -> Listed:
        found = self._find("batches", query, queries.batches(query, now(self._clock)))
        for item in found.items:
            item["states"] = self.job_states(And(Eq("batch", item["id"])))
        return found

    def events(self, query: EventQuery) -> Listed:
        where = queries.events(query, now(self._clock))
        if queries.needs_check(query.type):
            return self._search(query, where)
        return self._find("events", query, where)

    def roles(self) -> list[str]:
        """Every role that some node holds, sorted."""
        return self._views.live().texts("nodes", "roles")

    def job_states(self, where: Filter) -> dict[str, int]:
        """How many jobs are in each state; states without jobs are left out."""
        counts = self._views.live().tally("jobs", "state", where)
        return {state: counts[state] for state in JOB_STATES if state in counts}

    def _find(self, collection: str, query: ListQuery, where: Filter) -> Listed:
        as_of = self._views.as_of()
        page = self._page(collection, query, where, total=not query.cursor)
        return Listed(
            items=[public(item) for item in page.items],
            next_cursor=page.next_cursor,
            total=page.total,
            as_of=as_of,
        )

    def _page(self, collection: str, query: ListQuery, where: Filter, *, total: bool) -> Page:
        try:
            return self._views.live().find(
                collection, where, sort=sort_of(query), limit=query.limit, after=query.cursor or None, total=total
            )
        except BadQuery as error:
            raise bad_request(str(error), "cursor") from None

    def _search(self, query: EventQuery, where: Filter) -> Listed:
        """Looks at each document, because the pattern says more than a filter can."""
        as_of = self._views.as_of()
        keys = parse_sort(sort_of(query))
        items: list[Document] = []
        cursor, looked_at = query.cursor or None, 0
        while True:
            page = self._page(
                "events", replace(query, cursor=cursor or "", limit=max(query.limit, 500)), where, total=False
            )
            for item in page.items:
                if matches(query.type, str(item.get("type") or "")):
                    items.append(public(item))
                    if len(items) == query.limit:
                        return Listed(items=items, next_cursor=write_cursor(keys, item), total=None, as_of=as_of)
            cursor, looked_at = page.next_cursor, looked_at + len(page.items)
            if cursor is None or looked_at >= SCANNED:
                return Listed(items=items, next_cursor=cursor, total=None, as_of=as_of)


def public(document: Document) -> Document:
    """A document as clients see it: `id` for `_id`, nothing else that begins with `_`."""
    return {"id": document["_id"], **{key: value for key, value in document.items() if not key.startswith("_")}}
