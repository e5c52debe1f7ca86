"""The first page: how the fleet is, at a glance."""

from datetime import datetime, timedelta
from typing import Any

from falcon.asgi import Request, Response
from markupsafe import Markup

from portal.health import look
from portal.lists import Document
from portal.pages import charts
from portal.pages.page import Page
from portal.pages.wording import parse_moment
from portal.past import MOMENT
from portal.queries import EventQuery, JobQuery, NodeQuery
from projections.osis.filters import EVERYTHING

#: Nodes drawn as cells; more are on the page of nodes.
CELLS = 400
#: Events looked at for the picture of their rate, and the minutes that it spans at most.
RATE_EVENTS = 500
RATE_MINUTES = 60
RATE_BARS = 60
NOT_WELL = "failed,timed_out,lost,expired"


class OverviewPage(Page):
    section = "overview"
    travels = True

    async def on_get(self, req: Request, resp: Response) -> None:
        await self.show(req, resp, "overview.html", self._build)

    def _build(self) -> dict[str, Any]:
        lists, now = self.parts.lists, self.parts.now()
        nodes = lists.nodes(NodeQuery(state="online,offline,joined", limit=CELLS))
        return {
            "as_of": nodes.as_of,
            "nodes": nodes,
            "node_states": count_states(nodes.items),
            "job_states": lists.job_states(EVERYTHING),
            "active": lists.jobs(JobQuery(state="started,queued,waiting", limit=8)),
            "failures": lists.jobs(JobQuery(state=NOT_WELL, limit=8, sort="-ended_at")),
            "scripts": self.parts.views.live().count("scripts"),
            "rate": event_rate(lists.events(EventQuery(limit=RATE_EVENTS)).items, now),
            "health": None if MOMENT.get() else look(self.parts),
        }


def count_states(nodes: list[Document]) -> dict[str, int]:
    """How many nodes are online, in maintenance, offline, joined but never seen."""
    counts = {"online": 0, "maintenance": 0, "offline": 0, "joined": 0}
    for node in nodes:
        state = "maintenance" if node.get("maintenance") and node.get("state") == "online" else str(node.get("state"))
        counts[state] = counts.get(state, 0) + 1
    return counts


class Rate:
    """The picture of how many events came lately, and its words."""

    def __init__(self, picture: Markup, minutes: int, count: int, complete: bool) -> None:
        self.picture = picture
        self.minutes = minutes
        self.count = count
        #: False: there were more in that time than were looked at.
        self.complete = complete


def event_rate(events: list[Document], now: datetime) -> Rate:
    """Events per bar over the last hour, or over less when there were very many."""
    times = [at for event in events if (at := parse_moment(event.get("time"))) is not None]
    since = now - timedelta(minutes=RATE_MINUTES)
    complete = len(events) < RATE_EVENTS or min(times, default=now) < since
    if not complete:
        since = max(since, min(times))
    span = max(60.0, (now - since).total_seconds())
    counts = [0] * RATE_BARS
    for at in times:
        place = int((at - since).total_seconds() / span * RATE_BARS)
        if 0 <= place <= RATE_BARS:
            counts[min(place, RATE_BARS - 1)] += 1
    step = span / RATE_BARS
    labels = [
        f"{count} from {(since + timedelta(seconds=step * at)).strftime('%H:%M:%S')} UTC"
        for at, count in enumerate(counts)
    ]
    minutes = round(span / 60)
    picture = charts.bars(counts, labels, f"{sum(counts)} events in the last {minutes} minutes")
    return Rate(picture, minutes, sum(counts), complete)
