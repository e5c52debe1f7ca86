"""`/api/v1/health`, `/metrics` and the OpenAPI document."""

from typing import Any

from falcon.asgi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from portal.api.shapes import Health
from portal.consumers import Consumer
from portal.health import diverged, look
from portal.openapi import Text, operation
from portal.parts import Parts
from projections.osis.filters import Eq


class HealthResource:
    """Everybody may ask; only who is logged in is told more than the status."""

    public = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("How the whole is: 503 when it is failing", answers={200: Health, 503: Health})
    async def on_get(self, req: Request, resp: Response) -> None:
        health = await self._parts.offload(look, self._parts)
        resp.media = health if req.context.identity else Health(status=health.status)
        resp.status = 503 if health.status == "failing" else 200


class MetricsResource:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("What the portal measures of itself, for Prometheus", answers={200: Text("text/plain")})
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = await self._parts.offload(self._measure)
        resp.content_type = CONTENT_TYPE_LATEST

    def _measure(self) -> bytes:
        parts, metrics, state = self._parts, self._parts.metrics, self._parts.hub.state
        status = parts.views.status()
        metrics.commands.set(parts.commands.sent)
        metrics.watchers.set(parts.hub.watchers)
        metrics.slow_watchers.set(parts.hub.slow_watchers)
        metrics.connected.set(parts.bus.connected)
        metrics.log_offset.set(state.next_offset)
        if state.log_time is not None:
            metrics.log_age.set((parts.now() - state.log_time).total_seconds())
        for verdict, count in (("bad", state.bad), ("void", state.void), ("duplicate", state.duplicate)):
            metrics.refused.labels(verdict).set(count)
        metrics.views_offset.set(status.next_offset)
        metrics.views_lag.set(max(0, state.next_offset - status.next_offset))
        metrics.views_diverged.set(bool(diverged(status, state)))
        metrics.set_aside.set(status.set_aside)
        for name, one in self._foremost().items():
            metrics.lag_records.labels(name).set(one.lag_records)
            metrics.lag_seconds.labels(name).set(one.lag_seconds)
            metrics.heard.labels(name).set(one.heard)
        metrics.gaps.set(len(state.gaps))
        live = parts.views.live()
        for name in ("online", "offline", "joined"):
            metrics.nodes.labels(name).set(live.count("nodes", Eq("state", name)))
        for name in ("waiting", "queued", "started"):
            metrics.jobs.labels(name).set(live.count("jobs", Eq("state", name)))
        return metrics.text()

    def _foremost(self) -> dict[str, Consumer]:
        """Of several processes with one consumer, the one that is furthest; who stands by may be late."""
        found: dict[str, Consumer] = {}
        for one in self._parts.consumers.all():
            if one.name not in found or one.next_offset > found[one.name].next_offset:
                found[one.name] = one
        return found


class OpenApiResource:
    """Describes what anybody can read in the sources."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    @operation("This document", answers={200: Text("application/json")})
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = self._document
