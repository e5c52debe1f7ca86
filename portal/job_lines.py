"""The lines that a job prints, from any line on: those that came, those that come, and at its end the rest."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable

import msgspec

from events.telemetry import Line
from portal.hub import Hub, Watch
from portal.lists import ENDED, Document
from portal.offload import Offload
from portal.runs import VIEW_SECONDS
from portal.sse import KEEP_ALIVE_SECONDS, Frame, KeepAlive
from portal.tails import kept_line, read_lines, tail_name
from portal.views import Views
from projections.osis.blobs import Blobs
from projections.osis.errors import OsisError
from projections.osis.live import Gap, Live, Subscription

#: Seconds that the blob of an ended job may take to arrive.
BLOB_SECONDS = 5.0

_encoder = msgspec.json.Encoder()


class JobLines:
    """One for each request; the loop's thread uses it. `after` is the number of the last line that the client has."""

    def __init__(
        self, job: str, after: int, *, hub: Hub, views: Views, live: Live, blobs: Blobs, offload: Offload
    ) -> None:
        self._job = job
        self._after = after
        self._hub = hub
        self._views = views
        self._live = live
        self._blobs = blobs
        self._offload = offload

    async def frames(self) -> AsyncGenerator[Frame | KeepAlive | None, None]:
        """A message for each line, `{"n", "stream": "o"|"e", "text"}` with its number as id; at last `event: end`."""
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        with self._hub.watch(("job", self._job)) as watch:
            ended = asyncio.create_task(self._ended(watch))
            ended.add_done_callback(lambda _: came.set())

            def wake() -> None:
                # the loop may have ended before the last line came
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(came.set)

            lines = await self._offload(self._live.subscribe, tail_name(self._job), wake=wake)
            try:
                yield KeepAlive()
                for line in await self._offload(self._tail):
                    yield self._frame(line)
                while not ended.done():
                    if not await _came(came):
                        yield KeepAlive()
                    for line in await self._new(lines):
                        yield self._frame(line)
                for line in await self._rest(ended.result()):
                    yield self._frame(line)
                yield Frame(
                    _encoder.encode({"state": ended.result().get("state", "")}), id=str(self._after), event="end"
                )
            finally:
                ended.cancel()
                lines.close()

    def _frame(self, line: Line) -> Frame:
        self._after = line.n
        data = {"n": line.n, "stream": line.stream, "text": line.text}
        return Frame(_encoder.encode(data), id=str(line.n))

    def _wanted(self, lines: Iterable[Line]) -> list[Line]:
        """Those that the client does not have, in order, each once."""
        return [line for n, line in sorted({line.n: line for line in lines}.items()) if n > self._after]

    def _tail(self) -> list[Line]:
        try:
            return self._wanted(kept_line(n, kept) for n, kept in self._live.last(tail_name(self._job)))
        except OsisError:
            return []

    async def _new(self, lines: Subscription) -> list[Line]:
        found: list[Line] = []
        for item in lines.drain():
            if isinstance(item, Gap):
                found += await self._offload(self._tail)
            else:
                found += read_lines(item.data)
        return self._wanted(found)

    async def _ended(self, watch: Watch) -> Document:
        """The job's document, once it has ended."""
        while True:
            job = await self._offload(self._views.get, "jobs", self._job) or {}
            if job.get("state") in ENDED:
                return job
            entry = await watch.next(60.0)
            # it may be the last about this job: however far behind the views are, they are waited for
            while entry is not None and not await self._views.reach(entry.next_offset, VIEW_SECONDS):
                continue

    async def _rest(self, job: Document) -> list[Line]:
        """The lines of an ended job that the client does not have."""
        blob = (job.get("output") or {}).get("blob")
        deadline = time.monotonic() + BLOB_SECONDS
        while blob:
            text = await self._offload(self._blobs.get, blob)
            if text is not None:
                parts = text.decode(errors="replace").removesuffix("\n").split("\n")
                return self._wanted(Line(n=n, stream="o", text=part) for n, part in enumerate(parts, 1))
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        return await self._offload(self._tail)


async def _came(event: asyncio.Event) -> bool:
    """Whether something came before it was time to keep the connection alive."""
    try:
        await asyncio.wait_for(event.wait(), KEEP_ALIVE_SECONDS)
    except TimeoutError:
        return False
    event.clear()
    return True
