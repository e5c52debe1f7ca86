"""Writers and a reader: commands with known ids through bus and portal, and one who follows the portal's stream."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import httpx_sse
import msgspec

from bus.errors import BusError
from bus.ports import Bus, Message
from events.codec import decode_data, encode
from events.envelope import Event
from events.routing import routing_key
from tests.chaos.fleet import NODES, ChaosFleet
from tests.chaos.history import Told, Watched

#: Seconds for which a command whose fate is unknown is sent again: fleetbus knows an id again for ten minutes.
RESEND = 60.0
#: Seconds between two commands of one writer.
PAUSES = (0.05, 0.5)


class Writers:
    """Three writers, two on the bus and one over HTTP, until `stop`; then `told` has every command they sent."""

    def __init__(self, fleet: ChaosFleet, bus: Bus, chance: random.Random) -> None:
        self._fleet, self._bus = fleet, bus
        self._stop, self._abandoned = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(3, thread_name_prefix="writer")
        self.told: list[Told] = []
        self._work = [
            self._pool.submit(self._write, send, random.Random(chance.random()))
            for send in (self._by_bus, self._by_bus, self._by_http)
        ]

    def stop(self) -> list[Told]:
        """Nothing new; waits until the fate of each command is known, or given up."""
        self._stop.set()
        for work in self._work:
            work.result()
        self._pool.shutdown()
        return self.told

    def abandon(self) -> None:
        """As `stop`, and waits for nobody: whoever ends the fault suite would wait for a fleet that is not there."""
        self._stop.set()
        self._abandoned.set()
        self._pool.shutdown(wait=False)

    def _write(self, send: Any, chance: random.Random) -> None:
        jobs: list[str] = []
        while not self._stop.is_set():
            id = str(UUID(int=chance.getrandbits(128), version=4))
            if jobs and chance.random() < 0.1:
                type, data = "command.job.cancel", {"job": chance.choice(jobs[-5:])}
            else:
                type, data = "command.job.submit", self._job(chance)
                jobs.append(id)
            told = Told(id=id, type=type, via="http" if send == self._by_http else "bus")
            self.told.append(told)
            self._until_told(told, data, send)
            self._stop.wait(chance.uniform(*PAUSES))

    def _job(self, chance: random.Random) -> dict[str, Any]:
        """Mostly one job of a role; now and then on a node, or on all of a role."""
        params = {"folder": str(self._fleet.marks), "seconds": chance.choice([0.0, 0.0, 0.1, 1.0])}
        match chance.randrange(10):
            case 0:
                target: dict[str, Any] = {"role": "cpu", "all": True}
            case 1 | 2 | 3:
                target = {"node": chance.choice(sorted(NODES))}
            case _:
                target = {"role": chance.choice(["cpu", "application"])}
        return {"script": "mark", "target": target, "params": params}

    def _until_told(self, told: Told, data: dict[str, Any], send: Any) -> None:
        """Sends it, and again under the same id, as every client does."""
        began = time.monotonic()
        until = began + RESEND
        while told.answer == "unknown" and time.monotonic() < until and not self._abandoned.is_set():
            told.tries += 1
            send(told, data)
            if told.answer == "unknown":
                time.sleep(0.2)
        told.seconds = round(time.monotonic() - began, 1)

    def _by_bus(self, told: Told, data: dict[str, Any]) -> None:
        event = Event(
            id=told.id,
            source="chaos",
            type=told.type,
            subject="fleet",
            time=datetime.now(UTC),
            actor="user:admin",
            data=decode_data(told.type, "", msgspec.json.encode(data)),
        )
        message = Message(routing_key(event), encode(event), event.id, event.type)
        try:
            self._bus.publish(message).result(35)
        except (BusError, TimeoutError):
            return
        told.answer = "confirmed"

    def _by_http(self, told: Told, data: dict[str, Any]) -> None:
        body = {"id": told.id, "type": told.type, "data": data}
        headers = {"Authorization": f"Bearer {self._fleet.token}"}
        try:
            answer = httpx.post(
                f"{self._fleet.url}/api/v1/commands", json=body, headers=headers, timeout=70, trust_env=False
            )
        except httpx.HTTPError:
            return
        if answer.is_success:
            told.answer = "confirmed"
        elif answer.is_client_error:
            told.answer = "refused"


class Watcher:
    """Follows the portal's stream of events as a browser does: from `Last-Event-ID` on, whenever it breaks."""

    def __init__(self, fleet: ChaosFleet) -> None:
        self._fleet = fleet
        self.seen: list[Watched] = []
        #: The next offset that the portal has told of.
        self.place = 0
        #: Answers that a watcher must not get.
        self.refusals: list[str] = []
        #: From where it began to follow, each time, and what was answered.
        self.connections: list[str] = []
        self._last = "first"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (httpx.HTTPError, httpx_sse.SSEError):
                self._stop.wait(0.5)

    def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {self._fleet.token}", "Last-Event-ID": self._last}
        url = f"{self._fleet.url}/api/v1/events/stream"
        with (
            httpx.Client(trust_env=False, timeout=httpx.Timeout(10, read=30)) as client,
            httpx_sse.connect_sse(client, "GET", url, headers=headers) as source,
        ):
            self.connections.append(f"{self._last}: {source.response.status_code}")
            if source.response.is_client_error:
                self.refusals.append(f"HTTP {source.response.status_code} for {self._last}")
                self._stop.wait(1.0)
                return
            for event in source.iter_sse():
                if self._stop.is_set():
                    return
                self._note(event)

    def _note(self, event: httpx_sse.ServerSentEvent) -> None:
        self._last = event.id or self._last
        self.place = int(self._last.rpartition(":")[2])
        if event.data:
            self.seen.append(Watched(self.place, str(event.json()["event"]["id"])))
