"""1,000 watchers of the portal's live event stream while 100 events a second are said, on the embedded side.

Every watcher must get every event, in order, whatever the load; a latency is from the moment at which the event was to
be said, by the clock, until the watcher has read it. The watchers are one other process. The peer is a bare
Falcon on uvicorn with a queue for each watcher, which makes the same bytes in its own process: it reads no log, and
admits nothing.
"""

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

import psutil

from benchmarks.measure import Goal, Run, Table, compare
from benchmarks.place import Place, Progress
from benchmarks.portals import Running, bare, portal
from bus.clock import new_id
from bus.embedded import EmbeddedBus
from bus.ports import Bus, Message
from events.codec import encode
from events.envelope import Event
from events.routing import routing_key

WATCHERS = 1_000
RATE = 100.0
SECONDS = 20
USER, TYPE = "service.bench", "event.bench.said"
#: What an event carries besides its number: about as much as `event.job.finished` of a small job.
FILLER = "x" * 200

#: The peer does not keep up, and takes ten times as long as its events last: it gets fewer, which flatters its latency.
PEER_SHARE = 4

UNITS = {
    "events to watchers": "events/s",
    "missing": "events",
    "p50": "ms",
    "p99": "ms",
    "slowest": "ms",
    "processor time": "share of a core",
    "memory": "MB",
}
PEER = "bare Falcon, a queue for each watcher"
GOALS = (Goal("p99", PEER, "p99 <= 1,000 ms, none missing"),)


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    watchers, seconds = place.sized(WATCHERS, 50), place.sized(SECONDS, 2)
    count = int(seconds * RATE)
    with place.folder() as folder, closing(EmbeddedBus(folder / "bus", USER)) as bus:
        bus.publish(_message(_event(0))).result(30)
        with (
            portal(folder, f"sqlite://{folder}/views.db") as one,
            bare(folder, "--events", str(RATE), str(count // PEER_SHARE), _frame()) as other,
        ):
            contestants: dict[str, Run] = {
                "fleetbus": partial(watched, one, f"/api/v1/events/stream?type={TYPE}", watchers, count, bus),
                PEER: partial(watched, other, "/events", watchers, count // PEER_SHARE, None),
            }
            title = f"{watchers:,} watchers of the event stream, {RATE:.0f} events/s"
            return [compare(title, contestants, UNITS, GOALS, runs, progress)]


def watched(server: Running, path: str, watchers: int, count: int, bus: Bus | None) -> Mapping[str, float]:
    """One run; without a bus the server makes the events, asked to begin by a POST to the same path."""
    with _crowd(server, path, watchers, count) as crowd:
        began, before = time.monotonic(), server.processor
        if bus is None:
            _begin(server, path)
        else:
            _say(bus, count)
        found = json.loads(_line(crowd))
        took = time.monotonic() - began
    if found["wrong"] or found["closed"]:
        raise OSError(f"watchers were closed, or got events out of order: {found}")
    return {
        "events to watchers": found["got"] / took,
        "missing": found["missing"],
        "p50": found["p50"],
        "p99": found["p99"],
        "slowest": found["slowest"],
        "processor time": (server.processor - before) / took,
        "memory": server.memory,
    }


@contextmanager
def _crowd(server: Running, path: str, watchers: int, count: int) -> Iterator[subprocess.Popen[str]]:
    headers = json.dumps(dict(server.headers))
    command = [sys.executable, "-m", "benchmarks.watching", server.url + path, headers, str(watchers), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if _line(process) != "open":
            raise OSError("the watchers did not get their streams")
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


def _begin(server: Running, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    with closing(connection):
        connection.request("POST", path)
        if connection.getresponse().status != 200:
            raise OSError("the server does not begin")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _say(bus: Bus, count: int) -> None:
    """Publishes by the clock, whether or not earlier ones are confirmed."""
    began, sent = time.time(), []
    for n in range(count):
        planned = began + n / RATE
        time.sleep(max(0.0, planned - time.time()))
        sent.append(bus.publish(_message(_event(n, planned))))
    for one in sent:
        one.result(60)


def _event(n: int, planned: float = 0.0) -> Event:
    return Event(
        id=new_id(),
        source="bench",
        type=TYPE,
        subject="bench",
        time=datetime.now(UTC),
        actor="service:bench",
        data={"n": n, "sent": round(planned, 6), "filler": FILLER},
    )


def _message(event: Event) -> Message:
    return Message(routing_key(event), encode(event), event.id, event.type)


def _frame() -> str:
    """What the portal sends for one event, for the peer to fill in."""
    body = encode(_event(7)).decode()
    head, _, rest = body.partition('"n":7,"sent":')
    tail = rest.partition(",")[2]
    return f'id: {new_id()}:{{n}}\ndata: {{"offset":7,"event":{head}"n":{{n}},"sent":{{sent}},{tail}}}\n\n'
