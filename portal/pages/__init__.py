"""Pages for people: rendered on the server, readable without JavaScript, enhanced by a little of it."""

from portal.pages.batches import BatchesPage, BatchPage
from portal.pages.events import EventPage, EventsPage
from portal.pages.jobs import JobPage, JobsPage
from portal.pages.login import LoginPage, LogoutPage
from portal.pages.nodes import InvitePage, NodePage, NodesPage
from portal.pages.overview import OverviewPage
from portal.pages.run import RunPage
from portal.pages.scripts import PublishPage, ScriptPage, ScriptsPage
from portal.pages.system import AccountPage, HealthPage
from portal.parts import Parts


def routes(parts: Parts) -> list[tuple[str, object]]:
    """All pages on one screen."""
    return [
        ("/", OverviewPage(parts)),
        ("/login", LoginPage(parts)),
        ("/logout", LogoutPage(parts)),
        ("/nodes", NodesPage(parts)),
        ("/nodes/{id}", NodePage(parts)),
        ("/invite", InvitePage(parts)),
        ("/jobs", JobsPage(parts)),
        ("/jobs/{id}", JobPage(parts)),
        ("/run", RunPage(parts)),
        ("/batches", BatchesPage(parts)),
        ("/batches/{id}", BatchPage(parts)),
        ("/scripts", ScriptsPage(parts)),
        ("/scripts/{name}", ScriptPage(parts)),
        ("/publish", PublishPage(parts)),
        ("/events", EventsPage(parts)),
        ("/events/{id}", EventPage(parts)),
        ("/health", HealthPage(parts)),
        ("/account", AccountPage(parts)),
    ]
