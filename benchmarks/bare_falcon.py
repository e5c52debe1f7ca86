"""The least that a web server in Python does: bare Falcon on uvicorn, with the same bytes from memory.

`python -m benchmarks.bare_falcon PORT --pages FILE`: answers each path with what the file has for it, a JSON object of
path and query to [content type, text].
`python -m benchmarks.bare_falcon PORT --events RATE COUNT FRAME`: an event stream of `COUNT` frames, so many a second,
after each POST; `{n}` and `{sent}` in the frame become its number and the time it was sent at.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import msgspec
import uvicorn
from falcon.asgi import Request, Response, SSEvent
from falcon.media import BaseHandler


class Pages:
    """Bytes by path and query."""

    def __init__(self, pages: dict[str, tuple[str, str]]) -> None:
        self._pages = {path: (kind, text.encode()) for path, (kind, text) in pages.items()}

    async def __call__(self, req: Request, resp: Response | None, **_: Any) -> None:
        assert resp is not None
        kind, resp.data = self._pages.get(req.relative_uri, ("text/plain", b"no such page"))
        resp.content_type = kind


class Raw(SSEvent):
    """A frame that is ready."""

    def __init__(self, frame: bytes) -> None:
        super().__init__()
        self._frame = frame

    def serialize(self, handler: BaseHandler | None = None) -> bytes:
        return self._frame


class Stream:
    """Each frame is made once and put into a queue for each watcher, as the usual recipe goes."""

    def __init__(self, rate: float, count: int, frame: str) -> None:
        self._rate, self._count, self._frame = rate, count, frame
        self._queues: set[asyncio.Queue[Raw]] = set()
        self._going: asyncio.Task[None] | None = None

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.sse = self._frames()

    async def on_post(self, req: Request, resp: Response) -> None:
        """Begins to send."""
        self._going = asyncio.create_task(self._send())

    async def _frames(self) -> AsyncGenerator[SSEvent | None, None]:
        queue: asyncio.Queue[Raw] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield Raw(b": here\n\n")
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    async def _send(self) -> None:
        began = time.time()
        for n in range(self._count):
            planned = began + n / self._rate
            await asyncio.sleep(max(0.0, planned - time.time()))
            frame = self._frame.replace("{n}", str(n)).replace("{sent}", f"{planned:.6f}")
            raw = Raw(frame.encode())
            for queue in self._queues:
                queue.put_nowait(raw)


def main(port: str, kind: str, *arguments: str) -> None:
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
    if kind == "--events":
        app.add_route("/events", Stream(float(arguments[0]), int(arguments[1]), arguments[2]))
    else:
        app.add_sink(Pages(msgspec.json.decode(Path(arguments[0]).read_bytes(), type=dict[str, tuple[str, str]])))
    uvicorn.run(app, port=int(port), log_config=None, access_log=False, lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:])
