"""Lists of 20,000 nodes and 20,000 jobs in the portal, pages of 50, as a person with a session and a program ask.

On SQLite 30 requests a second, sent by the clock whether or not earlier ones were answered; a latency counts from the
moment at which the request was to be sent. The peer is a bare Falcon on uvicorn that serves the same bytes from memory.

On MongoDB's protocol one after the other, beside bare pymongo that asks the same server for the same page and the same
count: a server written in Python takes longer for one of them than 30 requests a second leave.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
import pymongo

from benchmarks.measure import Goal, Run, Table, compare, percentile
from benchmarks.place import Place, Progress
from benchmarks.portals import Running, bare, build_views, portal
from events.job import Outcome
from events.names import holds
from portal import queries
from portal.queries import JobQuery, NodeQuery
from projections.admission_store import LIVE
from projections.osis.documents import Documents
from projections.osis.filters import Filter
from projections.osis.mongo_query import condition, order_by
from projections.osis.open import open_documents
from projections.osis.query import parse_sort
from projections.registry import PROJECTIONS
from tests.contract.stores import mongodb_database
from tests.stories import STEP, Story

COUNT = 20_000
RATE = 30.0
SECONDS = 20.0
#: Requests that may be under way at a time: more than a server that keeps up ever has.
CLIENTS = 60

SCRIPTS = ("facts", "disk_usage", "log_tail", "network_check", "processes", "service_status", "shell", "top")
ROLES = ("computenode", "computenode.kvm", "computenode.lxc", "storage.ceph", "storage.nfs", "network.router")
OUTCOMES: tuple[Outcome, ...] = ("succeeded",) * 16 + ("failed", "failed", "timed_out", "cancelled")
#: Events that are written together.
PIECE = 20_000

#: What is asked for, in turn: what the forms of the pages offer, and the same of the API.
PATHS = (
    "/jobs",
    "/nodes",
    "/jobs?state=failed",
    "/jobs?state=succeeded&sort=-duration",
    "/nodes?role=computenode",
    "/api/v1/jobs?sort=-ended_at",
    "/api/v1/nodes?state=online",
    "/jobs?script=facts&sort=-ended_at",
    "/nodes?name=node-123",
    "/api/v1/jobs?state=waiting,queued,started",
    "/jobs?node=node-00007",
    "/api/v1/nodes?sort=-changed_at&role=storage",
    "/jobs?by=user:bob&sort=submitted_at",
    "/api/v1/jobs?since=-1h&state=timed_out,lost&sort=node",
    "/nodes?state=offline",
    "/api/v1/jobs?sort=script&by=user:alice",
    "/api/v1/nodes?maintenance=true&sort=connected_at",
    "/jobs?sort=-duration&since=-24h",
)

#: The same of documents on MongoDB's protocol: fewer, because each takes seconds.
MONGO_PATHS = PATHS[:5] + PATHS[9:11]

UNITS = {"p50": "ms", "p99": "ms", "slowest": "ms", "processor time": "ms/request"}
GOALS = (Goal("p99", "bare Falcon, bytes from memory", "p99 <= 100 ms"),)
MONGO_UNITS = {"p50": "ms", "p99": "ms"}
MONGO_GOALS = (
    Goal(
        "p50", "bare pymongo, the same page and count", "none: what else a page reads, each a question to a slow server"
    ),
)


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    count = place.sized(COUNT, 1_000)
    seconds = place.sized(int(SECONDS), 2)
    with place.folder() as folder:
        progress(f"writing a log of {count:,} nodes and {count:,} jobs")
        write_fleet(folder / "bus", count)
        progress("building views")
        build_views(folder, f"sqlite://{folder}/views.db")
        return [_on_sqlite(folder, count, seconds, runs, progress), _on_mongodb(place, folder, count, runs, progress)]


def _on_sqlite(folder: Path, count: int, seconds: float, runs: int, progress: Progress) -> Table:
    url = f"sqlite://{folder}/views.db"
    with portal(folder, url) as one, bare(folder, "--pages", str(recorded(one, folder))) as other:
        contestants: dict[str, Run] = {
            "fleetbus": partial(asked, one, seconds),
            GOALS[0].peer: partial(asked, other, seconds),
        }
        title = f"Lists of {count:,} nodes and jobs, {RATE:.0f} requests/s, documents on SQLite"
        return compare(title, contestants, UNITS, GOALS, runs, progress)


def _on_mongodb(place: Place, folder: Path, count: int, runs: int, progress: Progress) -> Table:
    with mongodb_database(place.mongodb_url) as url:
        progress("copying views to MongoDB's protocol")
        copy_views(f"sqlite://{folder}/views.db", url)
        with portal(folder, url) as one, closing(open_documents(url)) as documents:
            contestants: dict[str, Run] = {
                "fleetbus": partial(one_by_one, Client(one).page),
                MONGO_GOALS[0].peer: partial(one_by_one, Bare(documents, url).page),
            }
            title = f"Lists of {count:,} nodes and jobs, one by one, documents on MongoDB's protocol"
            return compare(title, contestants, MONGO_UNITS, MONGO_GOALS, min(runs, 3), progress)


def copy_views(from_url: str, to_url: str) -> None:
    """What lists read, with the indexes, as a rebuild would leave it."""
    with closing(open_documents(from_url)) as source, closing(open_documents(to_url)) as target:
        name = source.pointed(LIVE) or ""
        with pymongo.MongoClient[dict[str, Any]](to_url) as client:
            database = client.get_default_database()
            for collection in ("meta", "nodes", "jobs", "scripts"):
                documents = list(source.namespace(name).iterate(collection))
                for n in range(0, len(documents), 1_000):
                    database[f"{name}.{collection}"].insert_many(documents[n : n + 1_000], ordered=False)
        for projection in PROJECTIONS:
            target.namespace(name).declare(projection.name, indexes=projection.indexes)
        target.point(LIVE, name)


class Bare:
    """Asks for a page and its count, and nothing else, without a web server."""

    def __init__(self, documents: Documents, url: str) -> None:
        self._name = documents.pointed(LIVE)
        self._database = pymongo.MongoClient[dict[str, Any]](url).get_default_database()

    def page(self, path: str) -> None:
        where, sort, collection = meant(path)
        there, query = self._database[f"{self._name}.{collection}"], condition(where)
        there.find(query).sort(order_by(parse_sort(sort))).limit(51).to_list()
        there.count_documents(query)


def meant(path: str) -> tuple[Filter, list[str], str]:
    """The filter, the sort and the collection that a list's path means."""
    at, now = urlsplit(path), datetime.now(UTC)
    given = dict(parse_qsl(at.query))
    if at.path.endswith("nodes"):
        asked_for = msgspec.convert(given, NodeQuery, strict=False)
        roles = [role for role in ROLES if holds((role,), asked_for.role)]
        return queries.nodes(asked_for, roles), queries.sort_of(asked_for), "nodes"
    jobs = msgspec.convert(given, JobQuery, strict=False)
    return queries.jobs(jobs, now), queries.sort_of(jobs), "jobs"


def one_by_one(ask: Callable[[str], None]) -> Mapping[str, float]:
    """Asks for some of the paths, each when the one before is there."""
    latencies = []
    for path in MONGO_PATHS:
        began = time.perf_counter()
        ask(path)
        latencies.append((time.perf_counter() - began) * 1000)
    return {"p50": percentile(latencies, 0.5), "p99": max(latencies)}


def write_fleet(folder: Path, count: int) -> None:
    """A log of so many nodes and so many jobs: a twentieth of the nodes are offline, a fortieth in maintenance; of the
    jobs 30 are queued and 20 run, the others have ended in all ways.
    """
    story = Story(begin=datetime.now(UTC) - STEP * count * 6, name=f"lists-{count}")
    for script in SCRIPTS:
        story.script(script)
    for n in range(count):
        node = f"node-{n:05}"
        story.node(node, roles=(ROLES[n % len(ROLES)], ROLES[n // 7 % len(ROLES)]))
        if n % 20 == 3:
            story.offline(node)
        if n % 40 == 7:
            story.maintenance(node, reason="a disk is changed")
        _flush(story, folder)
    for n in range(count):
        job = story.job(SCRIPTS[n % len(SCRIPTS)], node=f"node-{n * 7 % count:05}", params={"n": n})
        if count - n > 30:
            story.started(job)
        if count - n > 50:
            outcome = OUTCOMES[n % len(OUTCOMES)]
            story.finished(job, outcome, result={"n": n}, error="" if outcome == "succeeded" else "it went wrong")
        _flush(story, folder)
    story.flush(folder)


def _flush(story: Story, folder: Path) -> None:
    if len(story.said) >= PIECE:
        story.flush(folder)


def recorded(server: Running, folder: Path) -> Path:
    """A file of what the server answers to each path, for the peer."""
    pages = {}
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60, trust_env=False) as http:
        for path in PATHS:
            answer = http.get(path).raise_for_status()
            pages[path] = (answer.headers["content-type"], answer.text)
    file = folder / "pages.json"
    file.write_bytes(msgspec.json.encode(pages))
    return file


def asked(server: Running, seconds: float) -> Mapping[str, float]:
    """Asks for all paths in turn, by the clock."""
    count = int(seconds * RATE)
    before = server.processor
    client = Client(server)
    with ThreadPoolExecutor(CLIENTS) as pool:
        latencies = [one.result() for one in [pool.submit(client.ask, path, at) for path, at in _planned(count)]]
    used = server.processor - before
    milliseconds = [one * 1000 for one in latencies]
    return {
        "p50": percentile(milliseconds, 0.5),
        "p99": percentile(milliseconds, 0.99),
        "slowest": max(milliseconds),
        "processor time": used * 1000 / count,
    }


def _planned(count: int) -> Iterator[tuple[str, float]]:
    """Paths, each given out when it is to be asked for, with that moment."""
    began = time.perf_counter() + 0.1
    for n in range(count):
        at = began + n / RATE
        time.sleep(max(0.0, at - time.perf_counter()))
        yield PATHS[n % len(PATHS)], at


class Client:
    """Keeps a connection for each thread that uses it."""

    def __init__(self, server: Running) -> None:
        self._host = urlsplit(server.url).netloc
        self._headers = dict(server.headers)
        self._own = threading.local()

    def page(self, path: str) -> None:
        """Asks now. Raises `OSError` for anything but 200."""
        self.ask(path, 0.0)

    def ask(self, path: str, at: float) -> float:
        """Seconds from `at` until the whole answer is there. Raises `OSError` for anything but 200."""
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection(self._host, timeout=60)
        connection.request("GET", path, headers=self._headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise OSError(f"{path}: {answer.status}")
        return time.perf_counter() - at
