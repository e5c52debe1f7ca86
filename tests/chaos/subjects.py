"""The loops that are killed at every point: projections, handlers, agent."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from msgspec import Struct

from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.ports import Message, Record
from events.actors import HANDLERS, PORTAL, agent_user
from events.actors import PROJECTIONS as PROJECTIONS_USER
from events.codec import encode
from events.delivery import RunJob, StopJob, decode_delivery, encode_delivery
from events.envelope import Event
from events.header import script_hash
from events.job import CancelJob, Order, RetryJob, SubmitJob, Target
from events.node import NodeConnected, SetMaintenance
from events.routing import routing_key
from events.script import PublishScript
from handlers.loop import run_handlers
from nodeagent import wiring
from nodeagent.journal import Journal
from nodeagent.work import QueueSpec
from projections import catchup, runner
from projections.admission_store import LIVE
from projections.osis.sqlite_documents import SqliteDocuments
from projections.runner import Runner
from tests.chaos import model
from tests.chaos.crashpoints import PointedBus, PointedDocuments, Points, Subject
from tests.chaos.history import Raw
from tests.chaos.referee import Fact, judge
from tests.folding import fold_log
from tests.jobscripts import MARK, MARK_BESIDE_AGENT
from tests.projecting import busy_story, live, seen

#: Seconds without anything to do after which a loop has done all.
QUIET = 0.35


def fixed(name: str) -> str:
    """The same id in every process."""
    return str(uuid5(NAMESPACE_URL, name))


def log_of(folder: Path) -> list[Raw]:
    """The log as it lies in the file."""
    with closing(sqlite3.connect(folder / "bus" / "bus.db")) as db:
        rows = db.execute("SELECT offset, user, key, body FROM log ORDER BY offset").fetchall()
    return [Raw(offset, user, key, bytes(body)) for offset, user, key, body in rows]


def say(bus: EmbeddedBus, type: str, actor: str, data: Struct, id: str, **more: Any) -> None:
    event = Event(id=id, source="crash", type=type, subject="s", time=datetime.now(UTC), actor=actor, data=data, **more)
    bus.publish(Message(routing_key(event), encode(event), event.id, event.type)).result(30)


class Projections:
    """publish → confirm → fold → save → checkpoint: the runner, over a log that has everything in it."""

    name = "projections"

    def prepare(self, folder: Path) -> None:
        busy_story(seed=3, jobs=10).write(folder / "bus")

    def work(self, folder: Path, points: Points) -> None:
        # of a rebuild several, so that one is written while the next is folded
        vars(runner)["BATCH"] = vars(catchup)["BATCH"] = 25
        stop = threading.Event()
        bus = PointedBus(folder / "bus", PROJECTIONS_USER, points)
        documents = PointedDocuments(folder / "views.db", points)

        def at_end() -> None:
            if documents.pointed(LIVE):
                stop.set()

        bus.on_end = at_end
        Runner(bus, documents, SystemClock()).run(stop)

    def outcome(self, folder: Path) -> Any:
        """The views; and whether they are those of the plainest fold there is."""
        with closing(SqliteDocuments(folder / "views.db")) as documents:
            views = seen(live(documents))
        records = [Record(raw.offset, raw.body, raw.key, raw.user) for raw in log_of(folder)]
        return {**views, "as folded in memory": views == fold_log(records)}


class Handlers:
    """decide → publish → read back → deliver: one holder, with commands of all kinds that wait for it."""

    name = "handlers"
    nodes = ("n1", "n2")

    def prepare(self, folder: Path) -> None:
        for node in self.nodes:
            bus = EmbeddedBus(folder / "bus", agent_user(node))
            inbox = bus.inbox(node)
            inbox.open([f"{node}.node", f"{node}.cpu.#"])
            boot = fixed(f"boot {node}")
            data = NodeConnected(node=node, boot=boot, journal=fixed(f"journal {node}"), roles=("cpu",))
            say(bus, "event.node.connected", f"node:{node}", data, fixed(node), producer=boot, seq=1)
            bus.close()
        self._command(folder)

    def _command(self, folder: Path) -> None:
        job = SubmitJob(script="mark", target=Target(role="cpu"), params={"path": "/tmp/x", "text": "x"})
        asked: list[tuple[str, Struct]] = [
            ("command.script.publish", PublishScript(name="mark", source=MARK)),
            ("command.job.submit", job),
            ("command.job.submit", SubmitJob(script="mark", target=Target(role="cpu", all=True), params=job.params)),
            ("command.job.submit", SubmitJob(script="nowhere", target=Target(role="cpu"))),
            ("command.job.cancel", CancelJob(job=fixed("command 1"))),
            ("command.job.retry", RetryJob(job=fixed("command 1"))),
            ("command.node.maintenance", SetMaintenance(node="n2", on=True)),
        ]
        bus = EmbeddedBus(folder / "bus", PORTAL)
        for n, (type, data) in enumerate(asked):
            say(bus, type, "user:alice", data, fixed(f"command {n}"))
        # sent again, as a client does that was not told
        say(bus, asked[1][0], "user:alice", asked[1][1], fixed("command 1"))
        bus.close()

    def work(self, folder: Path, points: Points) -> None:
        stop = threading.Event()
        bus = PointedBus(folder / "bus", HANDLERS, points)
        quiet = _Quiet(points)

        def at_end() -> None:
            # nothing is over before this process has led
            if any(name == "done: publish event.seat.taken" for name in points.passed) and quiet.lasts():
                stop.set()

        bus.on_end = at_end
        run_handlers(bus, SystemClock(), folder / "snapshot", stop)

    def outcome(self, folder: Path) -> Any:
        facts = [fact for fact in judge(log_of(folder)) if fact.verdict == "counts" and fact.user == HANDLERS]
        decided = [fact for fact in facts if not fact.type.startswith(("event.seat.", "event.log."))]
        return {"decided": sorted(map(_decision, decided)), "delivered": sorted(self._delivered(folder))}

    def _delivered(self, folder: Path) -> set[str]:
        """What lies in inboxes. A delivery may come twice, and says the same then."""
        with closing(sqlite3.connect(folder / "bus" / "bus.db")) as db:
            rows = db.execute("SELECT node, body FROM delivery").fetchall()
        said = [(node, decode_delivery(body)) for node, body in rows]
        stopped = {one.job for _, one in said if isinstance(one, StopJob)}
        # who comes later says of a job that is to be stopped only this: an agent begins no job that was stopped
        return {
            f"{node} {type(one).__name__} {getattr(one, 'job', '')}"
            for node, one in said
            if not (isinstance(one, RunJob) and one.job in stopped)
        }


def _decision(fact: Fact) -> str:
    data = fact.data
    jobs = [(job["job"], job["node"]) for job in data["jobs"]] if fact.type == "event.batch.created" else ""
    return f"{fact.type} {fact.id} for {fact.cause}: {fact.job} {data.get('node', '')} {data.get('reason', '')} {jobs}"


class Agent:
    """accept → run → finish → confirm: an agent with a job in its inbox that leaves a mark."""

    name = "agent"
    jobs: tuple[str, ...] = ("one",)
    source = MARK_BESIDE_AGENT

    def prepare(self, folder: Path) -> None:
        bus = EmbeddedBus(folder / "bus", agent_user("n1"))
        bus.inbox("n1").open(["n1.node"])
        bus.close()
        bus = EmbeddedBus(folder / "bus", HANDLERS)
        for name in self.jobs:
            # relative to the folder in which the agent is started, which is another for each killed copy
            params = {"path": f"marks/{name}", "text": "ran"}
            delivery = RunJob(
                job=fixed(name),
                fact=fixed(f"fact {name}"),
                correlation=None,
                node="n1",
                order=Order(script="mark", hash=script_hash(self.source), by="user:alice", params=params),
                start_by=datetime.now(UTC) + timedelta(hours=1),
                source=self.source,
            )
            assert bus.deliver("n1.node", encode_delivery(delivery)).result(30)
        bus.close()

    def work(self, folder: Path, points: Points) -> None:
        stop = threading.Event()
        self._use_marks_of(folder)
        vars(wiring)["Journal"] = _journal_with(points)
        vars(wiring)["DEFAULT_QUEUES"] = {"default": QueueSpec(size=1, limit=60)}
        threading.Thread(target=self._stop_when_done, args=(folder, stop), daemon=True).start()
        bus = PointedBus(folder / "bus", agent_user("n1"), points)
        code = wiring.run_agent(bus=bus, node="n1", roles=(), data=folder / "data", stop=stop, grace=5.0)
        assert code == 0, f"the agent ended with {code}"

    def _use_marks_of(self, folder: Path) -> None:
        """The jobs' own folder for marks: what was prepared is the same for all."""
        marks = folder / "marks"
        marks.mkdir(exist_ok=True)
        os.chdir(folder)

    def _stop_when_done(self, folder: Path, stop: threading.Event) -> None:
        while len({fact.job for fact in judge(log_of(folder)) if fact.type == "event.job.finished"}) < len(self.jobs):
            time.sleep(0.05)
        stop.set()

    def outcome(self, folder: Path) -> Any:
        """Ends and effects, as far as they must be the same: a job that ran when it was killed fails, and once."""
        facts = judge(log_of(folder))
        queued = [
            Fact(offset=-1, verdict="counts", type="event.job.queued", data={"job": fixed(name), "node": "n1"})
            for name in self.jobs
        ]
        jobs = model.follow([*queued, *facts]).jobs
        counts = [(fact.producer, fact.seq) for fact in facts if fact.producer and fact.verdict == "counts"]
        return {
            "ends": {name: len(jobs[fixed(name)].ends) for name in self.jobs},
            "states": all(jobs[fixed(name)].state in ("succeeded", "failed") for name in self.jobs),
            "effects": {name: self._effect(folder, name, jobs[fixed(name)].state) for name in self.jobs},
            "gaps": _gaps(counts),
            "bad": [fact.offset for fact in facts if fact.verdict == "bad"],
        }

    def _effect(self, folder: Path, name: str, state: str) -> str:
        path = folder / "marks" / name
        times = path.read_text().count("ran") if path.exists() else 0
        well = times == 1 if state == "succeeded" else times <= 1
        return "as the log says" if well else f"{state}, and ran {times} times"


class Keeper(Agent):
    """The second job runs in the process of the first: its mark `running` comes before its worker hears of it."""

    name = "keeper"
    jobs = ("one", "two")
    source = f"keep_process = True\n{MARK_BESIDE_AGENT}"


def _gaps(counts: list[tuple[str, int]]) -> list[str]:
    starts = {start for start, _ in counts}
    seqs = {start: sorted(seq for other, seq in counts if other == start) for start in starts}
    return [start for start, found in seqs.items() if found != list(range(1, len(found) + 1))]


class _Quiet:
    """Whether nothing has happened for a while."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._count, self._since = -1, 0.0

    def lasts(self) -> bool:
        if len(self._points.passed) != self._count:
            self._count, self._since = len(self._points.passed), time.monotonic()
        return time.monotonic() - self._since > QUIET


def _journal_with(points: Points) -> Callable[..., Journal]:
    class PointedJournal(Journal):
        def _submit(self, write: Any) -> Any:
            points.reach("journal")
            future = super()._submit(write)
            points.around("journal", future)
            return future

    return PointedJournal


class Careless:
    """Does its work and notes it down afterwards, as none of ours may: killed in between, it does it twice."""

    name = "careless"

    def prepare(self, folder: Path) -> None:
        (folder / "marks").touch()

    def work(self, folder: Path, points: Points) -> None:
        if not (folder / "noted").exists():
            with (folder / "marks").open("a") as marks:
                marks.write("ran\n")
            points.reach("between")
            (folder / "noted").touch()

    def outcome(self, folder: Path) -> Any:
        return (folder / "marks").read_text()


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "projections": Projections,
    "handlers": Handlers,
    "agent": Agent,
    "keeper": Keeper,
}
#: What the enumeration must find something in.
PLANTED: dict[str, Callable[[], Subject]] = {"careless": Careless}
