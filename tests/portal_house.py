"""For tests of the portal: real handlers, real views and a real portal in one process, each on a bus of its own.

with House(tmp_path) as house:
    house.agent("n1")                    an agent in a few lines, which does what the test says
    house.api.get("/nodes").json()
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
import pytest
from msgspec import Struct

from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.errors import Closed
from bus.ports import Bus, Message
from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user
from events.codec import encode
from events.delivery import RunJob, StopJob, decode_delivery
from events.envelope import Event
from events.job import JobFailure, JobFinished, JobOutput, JobStarted, Outcome
from events.node import NodeConnected
from events.routing import blob_key, routing_key
from events.telemetry import Heartbeat, Line, Output
from handlers.loop import run_handlers
from portal.accounts import Accounts
from portal.server import run_portal
from projections.osis.documents import Documents
from projections.osis.live import Live
from projections.osis.memory_live import MemoryLive
from projections.osis.series import Series
from projections.osis.sqlite_documents import SqliteDocuments
from projections.osis.sqlite_series import SqliteSeries
from projections.service import run_projections
from projections.telemetry import MEASUREMENTS
from tests.waiting import wait_until

#: Seconds that anything here may take on a busy machine.
SOON = 60.0
BEAT_SECONDS = 3.0
#: Seconds that leases on seat and inboxes last: nobody in a house is killed, and whoever loses one has to end.
LEASE_SECONDS = 120.0
ECHO = """descr = "gives back what it was given"

def action(text: str = "hello", times: int = 1):
    return text * times
"""


class House:
    """Handlers, views and portal over one engine: the embedded one, unless `open_bus` gives a bus by its user.

    `decides=False`: nobody decides. `views=False`: nobody writes views. `portal`: more for `run_portal`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        decides: bool = True,
        views: bool = True,
        open_bus: Callable[[str], Bus] | None = None,
        documents: Documents | None = None,
        series: Series | None = None,
        live: Live | None = None,
        **portal: Any,
    ) -> None:
        self.folder = folder
        self.documents = documents or SqliteDocuments(folder / "views.db")
        self.series = series or SqliteSeries(folder / "series.db", MEASUREMENTS)
        self.live = live or MemoryLive()
        self.open_bus = open_bus or (lambda user: EmbeddedBus(folder / "bus", user))
        self.bus = self.open_bus(PORTAL)
        self.token = ""
        self.password = ""
        self.url = ""
        self._decides, self._has_views = decides, views
        self._portal = portal
        self._stops: list[Callable[[], None]] = []
        self._patch = pytest.MonkeyPatch()
        self.agents: dict[str, Agent] = {}

    def __enter__(self) -> Self:
        self._patch.setattr("bus.embedded.LEASE", LEASE_SECONDS)
        accounts = Accounts(self.documents)
        self.password = accounts.first_start() or ""
        self.token = accounts.make_token("admin", "tests")
        if self._decides:
            self._thread("handlers", self._handlers)
        if self._has_views:
            self.stop_views = self.start_views()
        self.start_portal()
        if self._decides:
            self.wait(lambda: self.api.get("/health").json()["seat"].get("holder"), "the seat")
        if self._has_views:
            self.wait(lambda: self.api.get("/nodes").json()["as_of"]["log"], "views")
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents.values():
            agent.stop()
        for stop in reversed(self._stops):
            stop()
        self.bus.close()
        self.live.close()
        self.series.close()
        self.documents.close()
        self._patch.undo()

    # the services

    def start_portal(self) -> Callable[[], None]:
        """Starts the portal; returns what stops it."""
        ready, stop = threading.Event(), threading.Event()

        def answers(port: int) -> None:
            self.url = f"http://127.0.0.1:{port}"
            ready.set()

        def run() -> None:
            run_portal(
                self.bus,
                self.documents,
                self.series,
                self.live,
                host="127.0.0.1",
                port=0,
                stop=stop,
                credentials_for=lambda node: f"sqlite://{self.folder}/bus?for={node}",
                ready=answers,
                **self._portal,
            )

        thread = threading.Thread(target=run, name="portal")
        thread.start()
        assert ready.wait(SOON), "the portal does not start"
        self.api = self.client(self.token)

        def end() -> None:
            self.api.close()
            stop.set()
            thread.join(SOON)
            assert not thread.is_alive(), "the portal does not stop"

        self._stops.append(end)
        return end

    def restart_portal(self) -> None:
        self._stops.pop()()
        self.start_portal()

    def _thread(self, name: str, run: Callable[[threading.Event], None]) -> Callable[[], None]:
        stop = threading.Event()
        thread = threading.Thread(target=run, args=(stop,), name=name)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join(SOON)
            assert not thread.is_alive(), f"{name} does not stop"

        self._stops.append(end)
        return end

    def _handlers(self, stop: threading.Event) -> None:
        with contextlib.closing(self.open_bus(HANDLERS)) as bus:
            run_handlers(bus, SystemClock(), None, stop)

    def _views(self, stop: threading.Event) -> None:
        with contextlib.closing(self.open_bus(PROJECTIONS)) as bus:
            run_projections(bus, self.documents, self.series, SystemClock(), stop)

    def start_views(self) -> Callable[[], None]:
        """Starts what writes the views; returns what stops it."""
        return self._thread("views", self._views)

    # clients

    def client(self, token: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=SOON, trust_env=False)

    def browser(self, *, log_in: bool = True) -> "Browser":
        browser = Browser(self.url)
        if log_in:
            assert browser.log_in("admin", self.password).status_code == 303
        return browser

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, deadline=SOON, what=what)

    def settle(self) -> str:
        """Waits until portal and views have all that is in the log now; a position there. Both are behind it by
        nature, also behind what somebody was just answered.
        """
        end = self.bus.stream("log").next_offset()
        self.wait(lambda: self.api.get("/health").json()["log"]["next_offset"] >= end, "the portal to read the log")
        as_of = self.wait(
            lambda: (found := self.api.get("/nodes").json()["as_of"])["next_offset"] >= end and found, "the views"
        )
        return f"{as_of['log']}:{as_of['next_offset']}"

    # what tests do again and again

    def agent(self, node: str, *roles: str, **more: Any) -> "Agent":
        """An agent that is connected, as the views say, too."""
        agent = self.agents[node] = Agent(self.open_bus(agent_user(node)), node, roles, **more)
        self.wait(lambda: self.api.get(f"/nodes/{node}").status_code == 200, f"node {node}")
        return agent

    def publish(self, name: str, source: str = ECHO) -> str:
        """Publishes a script; returns the position at which views show it."""
        answer = self.api.put(f"/scripts/{name}", json={"source": source}, params={"wait": SOON / 2})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["position"])

    def job(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/jobs/{id}").json()
        return found

    def command(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/commands/{id}").json()
        return found

    def ended(self, id: str) -> dict[str, Any]:
        """The job's document once it has ended."""
        self.wait(lambda: self.job(id).get("ended_at"), f"the end of job {id}")
        return self.job(id)


class Doing(Struct, kw_only=True):
    """What an agent of a test makes of a job."""

    outcome: Outcome = "succeeded"
    result: Any = None
    error: str = ""
    traceback: str = ""
    lines: tuple[str, ...] = ()
    duration: float = 0.01
    #: The output is sent as a blob.
    blob: bool = False


class Agent:
    """Takes jobs out of its inbox and says what became of them, as `does` wants it: None means, nothing yet."""

    def __init__(
        self,
        bus: Bus,
        node: str,
        roles: tuple[str, ...] = (),
        does: Callable[[RunJob], Doing | None] | None = None,
        allows: tuple[str, ...] = (),
    ) -> None:
        self.node = node
        self.bus = bus
        self.jobs: list[RunJob] = []
        self._does = does or (lambda job: Doing(result={"node": node, "params": job.order.params}))
        self._boot, self._seq = str(uuid4()), 0
        self._lock = threading.Lock()
        self._beaten = 0.0
        self._stop = threading.Event()
        inbox = self.bus.inbox(node)
        inbox.open([f"{node}.node", *(f"{node}.{role}.#" for role in roles)])
        self._inbox = inbox
        connected = NodeConnected(
            node=node,
            boot=self._boot,
            journal=str(uuid4()),
            roles=roles,
            hostname=f"{node}.example",
            version="1.0",
            allows=allows,
        )
        self.say("event.node.connected", connected, node)
        self._thread = threading.Thread(target=self._run, name=f"agent-{node}")
        self._thread.start()

    def say(self, type: str, data: Struct, subject: str, **more: Any) -> None:
        with self._lock:
            self._seq += 1
            event = Event(
                id=str(uuid4()),
                source=f"agent/{self.node}",
                type=type,
                subject=subject,
                time=datetime.now(UTC),
                actor=f"node:{self.node}",
                data=data,
                producer=self._boot,
                seq=self._seq,
                **more,
            )
            self.bus.publish(Message(key=routing_key(event), body=encode(event), id=event.id)).result(SOON)

    def _run(self) -> None:
        with contextlib.suppress(Closed):
            while not self._stop.is_set():
                self._beat()
                for one in self._inbox.read(100, 0.1):
                    self._take(decode_delivery(one.body))
                    self._inbox.ack([one.tag])

    def _beat(self) -> None:
        """Without it the node would be offline after 20 seconds."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.say("telemetry.heartbeat", Heartbeat(node=self.node, boot=self._boot), self.node)

    def _take(self, delivery: object) -> None:
        if isinstance(delivery, RunJob) and delivery.job not in [job.job for job in self.jobs]:
            self.jobs.append(delivery)
            self.start(delivery)
            done = self._does(delivery)
            if done is not None:
                self.finish(delivery, done)
        elif isinstance(delivery, StopJob):
            job = next((job for job in self.jobs if job.job == delivery.job), None)
            if job is not None:
                self.finish(job, Doing(outcome="cancelled", error="cancelled"))

    def start(self, job: RunJob) -> None:
        started = JobStarted(job=job.job, node=self.node)
        self.say("event.job.started", started, job.job, causationid=job.fact, correlationid=job.correlation)

    def blob(self, data: bytes) -> str:
        """Sends a blob in one chunk, as is confirmed before the fact that names it; its SHA-256."""
        name = hashlib.sha256(data).hexdigest()
        self.bus.publish(Message(key=blob_key(name, 0, 1), body=data)).result(SOON)
        return name

    def prints(self, job: RunJob, first: int, *texts: str) -> None:
        """Telemetry of lines that the job printed."""
        lines = tuple(Line(n=n, stream="o", text=text) for n, text in enumerate(texts, first))
        self.say("telemetry.output", Output(job=job.job, node=self.node, lines=lines), job.job)

    def finish(self, job: RunJob, done: Doing) -> None:
        text = "".join(f"{line}\n" for line in done.lines)
        failure = JobFailure(error=done.error, traceback=done.traceback) if done.error else None
        finished = JobFinished(
            job=job.job,
            node=self.node,
            outcome=done.outcome,
            duration=done.duration,
            result=done.result,
            failure=failure,
            output=JobOutput(
                blob=self.blob(text.encode()) if done.blob else None,
                lines=len(done.lines),
                size=len(text.encode()),
                tail=text[-2000:],
            ),
        )
        self.say("event.job.finished", finished, job.job, causationid=job.fact, correlationid=job.correlation)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(SOON)
        self.bus.close()


class Browser:
    """A browser without JavaScript: it keeps cookies and sends the forms that it was given."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=SOON, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def log_in(self, account: str, password: str) -> httpx.Response:
        csrf = csrf_in(self.http.get("/login").text)
        return self.http.post("/login", data={"csrf": csrf, "account": account, "password": password})

    def send(self, path: str, data: dict[str, str], form_at: str = "") -> httpx.Response:
        """Sends a form of the page at `form_at` (or at `path`) with its CSRF token."""
        csrf = csrf_in(self.get(form_at or path).text)
        return self.http.post(path, data={"csrf": csrf, **data})


def csrf_in(page: str) -> str:
    """The CSRF token in a page's first form."""
    return page.partition('name="csrf" value="')[2].partition('"')[0]
