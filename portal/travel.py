"""Middleware: `?as_of=` lets a request look at the views of an earlier moment. Nothing can be asked for there."""

import asyncio
from typing import Any

from falcon.asgi import Request, Response

from portal.gate import SAFE_METHODS
from portal.hub import Hub
from portal.offload import Offload
from portal.past import MOMENT, Asked, Building, Moment, Moments, parse
from portal.problems import Problem, bad_request

PARAMETER = "as_of"
#: Seconds that a request waits for views that are being made, and between two looks.
WAIT, LOOK = 2.0, 0.05
#: Seconds after which it is worth asking again.
AGAIN = 2


class StillBuilding(Problem):
    """The views of that moment are being made: 503, to be asked for again."""

    def __init__(self, building: Building) -> None:
        place = f"; {building.before} moments are made before it" if building.before else ""
        done = f"{building.next_offset:,} of {building.end:,} records" if building.end else "not begun"
        detail = f"the views as of {building.key} are being made ({done}{place}); ask again in {AGAIN} seconds"
        super().__init__(503, "being-made", detail, field=PARAMETER, headers={"Retry-After": str(AGAIN)})
        self.building = building


class Travel:
    """Comes after the gate: who is not logged in makes nobody work."""

    def __init__(self, moments: Moments, hub: Hub, offload: Offload) -> None:
        self._moments = moments
        self._hub = hub
        self._offload = offload

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        MOMENT.set(None)
        text = req.get_param(PARAMETER)
        if not text or req.context.identity is None:
            return
        if req.method not in SAFE_METHODS:
            raise Problem(409, "past", "this is a page of the past; nothing can be commanded there", field=PARAMETER)
        if not getattr(resource, "travels", False):
            raise bad_request("this shows the present only; leave out as_of", PARAMETER)
        if req.get_param("at_least"):
            raise bad_request("at_least speaks of the present; leave it out, or as_of", "at_least")
        MOMENT.set(await self._find(parse(text, self._hub.state)))

    async def _find(self, asked: Asked) -> Moment:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT
        while True:
            found = await self._offload(self._moments.find, asked, self._hub.state.log)
            if isinstance(found, Moment):
                return found
            if loop.time() >= deadline:
                raise StillBuilding(found)
            await asyncio.sleep(LOOK)
