"""What all pages have in common: templates, their filters, and what every template may ask for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import falcon
from falcon.asgi import Request, Response
from jinja2 import ChainableUndefined, Environment, PackageLoader

from portal import VERSION
from portal.accounts import Identity
from portal.gate import identity
from portal.hub import position
from portal.pages import charts, wording
from portal.pages.highlight import json_html, python_html
from portal.pages.then import as_of_then, kept
from portal.parts import Parts
from portal.past import MOMENT
from portal.views import AsOf

ENVIRONMENT = Environment(
    loader=PackageLoader("portal", "templates"),
    autoescape=True,
    # documents of views may lack a field that a later version of them has
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "clock": wording.clock_time,
    "precise": wording.precise_time,
    "iso": wording.iso_time,
    "duration": wording.duration,
    "size": wording.size,
    "number": wording.number,
    "short": wording.short,
    "words": wording.words,
    "moment_words": wording.moment_words,
    "actor": wording.actor_name,
    "pretty": wording.pretty,
    "compact": wording.compact,
    "json_html": json_html,
    "python_html": python_html,
}
ENVIRONMENT.globals |= {
    "query": wording.query,
    "share_bar": charts.share_bar,
    "meter": charts.meter,
    "version": VERSION,
}


def render(template: str, **context: Any) -> str:
    """A template's text. Blocking, if shortly."""
    return ENVIRONMENT.get_template(template).render(**context)


class Page:
    """A page for those who are logged in."""

    #: Which entry of the menu is marked.
    section = ""
    #: Whether the page can be of the past (`portal.past`).
    travels = False

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def show(
        self, req: Request, resp: Response, template: str, build: Callable[[], dict[str, Any]], status: int = 200
    ) -> None:
        """Builds the context and renders, both in a thread of the pool; waits for `at_least` before."""
        await self.parts.views.at_least(req.get_param("at_least"))
        who = identity(req)
        resp.text = await self.parts.offload(self._render, template, req, who, build)
        resp.content_type = falcon.MEDIA_HTML
        resp.status = status

    def _render(self, template: str, req: Request, who: Identity, build: Callable[[], dict[str, Any]]) -> str:
        now = self.parts.now()
        context = {
            "as_of": self.parts.views.as_of(),
            **build(),
            "who": who,
            "csrf": who.csrf,
            "path": req.path,
            "section": self.section,
            "now": now,
            "ago": partial(wording.ago, now=now),
            "then": (then := MOMENT.get()),
            "travels": self.travels,
            "kept": kept(req.params),
        }
        context["position"] = "" if then else _position(context["as_of"])
        page = render(template, **context)
        return as_of_then(page, then.key) if then else page

    def go(self, resp: Response, path: str, next_offset: int | None = None) -> None:
        """Sends the browser on, to a page that shows everything before `next_offset`."""
        mark = ""
        if next_offset is not None:
            mark = ("&" if "?" in path else "?") + wording.query(
                {"at_least": position(self.parts.hub.state.log, next_offset)}
            )
        resp.status = 303
        resp.location = path + mark


def _position(as_of: AsOf | None) -> str:
    return position(as_of.log, as_of.next_offset) if as_of and as_of.log else ""


def safe_path(text: str | None) -> str:
    """Where to go after the login: a path of this portal, nothing else."""
    if text and text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable():
        return text
    return "/"
