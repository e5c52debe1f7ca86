"""The portal as an ASGI application: which resource answers which path, and how errors become answers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import msgspec
import structlog
from falcon.asgi import Request, Response
from falcon.media import JSONHandler

from bus.errors import BusError
from portal import VERSION
from portal.api import batches, commands, events, jobs, nodes, output, scripts, system, tokens
from portal.gate import API, Gate
from portal.metrics import Metrics
from portal.openapi import document
from portal.pages import routes as page_routes
from portal.pages.errors import problem_page
from portal.parts import Parts
from portal.problems import CONTENT_TYPE, Problem, away, from_status
from portal.travel import Travel
from projections.osis.errors import Misuse, OsisError

STATIC = Path(__file__).parent / "static"

log = structlog.get_logger("portal.app")


#: The REST API on one screen.
API_ROUTES: tuple[tuple[str, Callable[[Parts], object]], ...] = (
    ("/api/v1/health", system.HealthResource),
    ("/api/v1/login", tokens.Login),
    ("/api/v1/tokens", tokens.Tokens),
    ("/api/v1/tokens/{id}", tokens.Token),
    ("/api/v1/nodes", nodes.Nodes),
    ("/api/v1/nodes/invitations", nodes.Invitations),
    ("/api/v1/nodes/join", nodes.Joining),
    ("/api/v1/nodes/{id}", nodes.Node),
    ("/api/v1/jobs", jobs.Jobs),
    ("/api/v1/jobs/{id}", jobs.Job),
    ("/api/v1/jobs/{id}/cancel", jobs.JobCancel),
    ("/api/v1/jobs/{id}/retry", jobs.JobRetry),
    ("/api/v1/jobs/{id}/output", output.Output),
    ("/api/v1/jobs/{id}/result", output.Result),
    ("/api/v1/jobs/{id}/output/stream", output.Lines),
    ("/api/v1/batches", batches.Batches),
    ("/api/v1/batches/{id}", batches.Batch),
    ("/api/v1/scripts", scripts.Scripts),
    ("/api/v1/scripts/{name}", scripts.Script),
    ("/api/v1/commands", commands.Commands),
    ("/api/v1/commands/{id}", commands.Command),
    ("/api/v1/events", events.Events),
    ("/api/v1/events/stream", events.Stream),
    ("/api/v1/events/{id}", events.Event),
    ("/api/v1/events/{id}/republish", events.Republish),
)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of the API."""
    return document(API_ROUTES, VERSION)


def create_app(parts: Parts) -> falcon.asgi.App[Request, Response]:
    """The application over these parts; nothing runs yet."""
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App(
        middleware=[
            Measure(parts.metrics),
            Gate(parts.accounts, parts.offload),
            Travel(parts.moments, parts.hub, parts.offload),
        ]
    )
    handler = JSONHandler(dumps=msgspec.json.encode, loads=msgspec.json.decode)
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = handler
    openapi = openapi_document()
    routes = [
        *((path, resource(parts)) for path, resource in API_ROUTES),
        ("/api/v1/openapi.json", system.OpenApiResource(openapi)),
        ("/metrics", system.MetricsResource(parts)),
        *page_routes(parts),
    ]
    for path, resource in routes:
        app.add_route(path, resource)
    app.add_static_route("/static", STATIC)
    app.add_error_handler(Exception, _on_defect)
    app.add_error_handler(falcon.HTTPError, _on_http)
    app.add_error_handler(OsisError, _on_storage)
    app.add_error_handler(BusError, _on_bus)
    app.add_error_handler(Problem, _on_problem)
    return app


class Measure:
    """Middleware that counts requests and their time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.began = time.monotonic()
        req.context.identity = None

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        route = req.uri_template or ("/static" if req.path.startswith("/static/") else "none")
        self._metrics.requests.labels(req.method, route, str(resp.status_code)).inc()
        self._metrics.request_seconds.labels(req.method).observe(time.monotonic() - req.context.began)


async def answer(req: Request, resp: Response, problem: Problem) -> None:
    """A problem document for programs, a page for people."""
    resp.status = problem.status
    for name, value in problem.headers.items():
        resp.set_header(name, value)
    resp.sse = None
    if req.path.startswith(API) or req.path == "/metrics":
        resp.data = msgspec.json.encode(problem.document(req.path))
        resp.content_type = CONTENT_TYPE
    else:
        resp.text = problem_page(req, problem)
        resp.content_type = falcon.MEDIA_HTML


async def _on_problem(req: Request, resp: Response, error: Problem, params: dict[str, Any]) -> None:
    await answer(req, resp, error)


async def _on_http(req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    detail = error.description or _DETAILS.get(error.status_code, "")
    headers = dict(error.headers) if error.headers else {}
    await answer(req, resp, from_status(error.status_code, detail, headers))


_DETAILS = {404: "there is nothing at this path; /api/v1/openapi.json lists what there is"}


async def _on_storage(req: Request, resp: Response, error: OsisError, params: dict[str, Any]) -> None:
    if isinstance(error, Misuse):
        await _on_defect(req, resp, error, params)
    else:
        log.warning("the views cannot be read", action="answer", path=req.path, error=str(error))
        await answer(req, resp, away(f"the views cannot be read now: {error}"))


async def _on_bus(req: Request, resp: Response, error: BusError, params: dict[str, Any]) -> None:
    log.warning("the log cannot be read", action="answer", path=req.path, error=str(error))
    await answer(req, resp, away(f"the log cannot be read now: {error}"))


async def _on_defect(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    log.error("a request failed", action="answer", method=req.method, path=req.path, exc_info=error)
    await answer(req, resp, Problem(500, "defect", "something went wrong in the portal; its log says what"))
