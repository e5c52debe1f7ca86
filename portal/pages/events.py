"""Events: searching the log, and one event with its causes and consequences."""

from typing import Any

from falcon.asgi import Request, Response

from events.registry import TYPES
from portal.api.events import whole_event
from portal.bodies import read_query
from portal.lists import Document, public
from portal.pages.nodes import plain
from portal.pages.page import Page
from portal.parts import Parts
from portal.queries import EventQuery
from projections.osis.filters import Eq

VERDICTS = ("admitted", "duplicate", "void", "bad")
#: Events of one story that are drawn as a tree.
MAX_TREE = 300


class EventsPage(Page):
    section = "events"
    travels = True

    async def on_get(self, req: Request, resp: Response) -> None:
        query = read_query(req, EventQuery)

        def build() -> dict[str, Any]:
            found = self.parts.lists.events(query)
            return {
                "as_of": found.as_of,
                "events": found,
                "query_of": plain(query),
                "verdicts": VERDICTS,
                "types": sorted(name for name in TYPES if not name.startswith("telemetry.")),
            }

        await self.show(req, resp, "events.html", build)


class EventPage(Page):
    section = "events"
    travels = True

    async def on_get(self, req: Request, resp: Response, id: str) -> None:
        def build() -> dict[str, Any]:
            event = whole_event(self.parts, id)
            return {"as_of": event["as_of"], "event": event, "tree": story(self.parts, event)}

        await self.show(req, resp, "event.html", build)


def story(parts: Parts, event: Document) -> list[tuple[int, Document]]:
    """The event's causes, itself and all that followed from it, each with its depth in the tree, in order to draw."""
    causes: list[Document] = event["causes"]
    rows = [(depth, cause) for depth, cause in enumerate(causes)]
    children = _story_children(parts, event)
    if event["verdict"] == "bad":
        # what was said anew for it names it by a derived id
        children[event["id"]] = event["consequences"]

    def add(depth: int, one: Document) -> None:
        rows.append((depth, one))
        for child in children.get(one["id"], ()):
            if len(rows) < MAX_TREE and depth < 40:
                add(depth + 1, child)

    add(len(causes), event)
    return rows


def _story_children(parts: Parts, event: Document) -> dict[str, list[Document]]:
    """All events of the same story by their cause, in log order; those that this one caused in any case."""
    found: dict[str, Document] = {one["id"]: one for one in event["consequences"]}
    if event.get("correlation"):
        where = Eq("correlation", event["correlation"])
        page = parts.views.live().find("events", where, sort=["offset"], limit=MAX_TREE, total=False)
        found |= {item["_id"]: public(item) for item in page.items}
    children: dict[str, list[Document]] = {}
    for one in sorted(found.values(), key=lambda one: int(one["offset"])):
        if one.get("causation") and one["id"] != event["id"]:
            children.setdefault(one["causation"], []).append(one)
    return children
