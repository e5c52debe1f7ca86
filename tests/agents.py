"""For tests of the agent: somebody who plays the handlers, and agents that run in a thread or as a process.

python -m tests.agents BUS DATA NODE ROLE...      an agent as a process, to be killed
"""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from bus import embedded
from bus.admission import AdmissionState, Admitted, Bad, Verdict, admit, check
from bus.clock import Clock, SystemClock
from bus.embedded import EmbeddedBus
from bus.ports import Bus, Record
from events.codec import BadEvent
from events.delivery import PeriodicScript, RunJob, Standing, StopJob, encode_delivery
from events.envelope import Event
from events.header import script_hash
from events.job import Order
from fleetbus.logs import set_up
from nodeagent import wiring
from nodeagent.work import DEFAULT_QUEUES, QueueSpec
from tests import leases
from tests.waiting import wait_until

#: Seconds that anything here may take on a busy machine.
SOON = 60.0
#: The queues that an agent here starts workers for. The product's others would cost most of a test's processor time,
#: and come into being, with one worker each, when a job names them.
QUEUES = {"default": DEFAULT_QUEUES["default"]}


class Player:
    """Plays the handlers: delivers what a test wants, and reads the log as everybody does."""

    def __init__(self, folder: Path, node: str = "n1", bus: Bus | None = None) -> None:
        self.folder, self.node = folder, node
        self.bus = bus or EmbeddedBus(folder, "handlers")
        self._log = self.bus.stream("log").read_from("first")
        self._telemetry = self.bus.stream("telemetry").read_from("first")
        self._state = AdmissionState()
        self._verdicts: list[Verdict] = []
        self._records: list[Record] = []
        self._heard: list[Event] = []
        #: Until when each job may begin.
        self.start_by: dict[str, datetime] = {}

    def close(self) -> None:
        self._log.close()
        self._telemetry.close()
        self.bus.close()

    # what it sends

    def run(
        self,
        source: str,
        params: dict[str, Any] | None = None,
        *,
        job: str | None = None,
        name: str = "script",
        with_source: bool = True,
        start_within: float = 60.0,
        via: str = "node",
    ) -> str:
        """Delivers a job to the node and returns its id."""
        delivery = self.run_job(source, params, job=job, name=name, with_source=with_source, start_within=start_within)
        self.deliver(delivery, via)
        return delivery.job

    def run_job(
        self,
        source: str,
        params: dict[str, Any] | None = None,
        *,
        job: str | None = None,
        name: str = "script",
        with_source: bool = True,
        start_within: float = 60.0,
    ) -> RunJob:
        delivery = RunJob(
            job=job or str(uuid4()),
            fact=str(uuid4()),
            correlation=str(uuid4()),
            node=self.node,
            order=Order(script=name, hash=script_hash(source), by="user:alice", params=params or {}),
            start_by=datetime.now(UTC) + timedelta(seconds=start_within),
            source=source if with_source else None,
        )
        self.start_by[delivery.job] = delivery.start_by
        return delivery

    def stop(self, job: str) -> StopJob:
        delivery = StopJob(job=job, fact=str(uuid4()), correlation=str(uuid4()))
        self.deliver(delivery)
        return delivery

    def stand(self, offset: int, *scripts: tuple[str, str], **more: Any) -> None:
        """Tells the node what it starts by itself: (name, source) of each script."""
        periodic = tuple(PeriodicScript(name=name, hash=script_hash(text), source=text) for name, text in scripts)
        roles = more.pop("roles", ("cpu",))
        self.deliver(Standing(node=self.node, offset=offset, roles=roles, periodic=periodic, **more))

    def stand_without_sources(self, offset: int, *scripts: tuple[str, str]) -> None:
        """As `stand` for a node that is believed to have the sources."""
        periodic = tuple(PeriodicScript(name=name, hash=script_hash(text)) for name, text in scripts)
        self.deliver(Standing(node=self.node, offset=offset, roles=("cpu",), periodic=periodic))

    def deliver(self, delivery: RunJob | StopJob | Standing, via: str = "node") -> None:
        assert self.try_deliver(delivery, via), f"the node {self.node} has no inbox for {via}"

    def deliver_when_there(self, delivery: RunJob) -> None:
        """Delivers as soon as there is an inbox."""
        wait_until(lambda: self.try_deliver(delivery), deadline=SOON, what="an inbox")

    def try_deliver(self, delivery: RunJob | StopJob | Standing, via: str = "node") -> bool:
        return self.bus.deliver(f"{self.node}.{via}", encode_delivery(delivery)).result(SOON)

    # what it reads

    def verdicts(self) -> list[Verdict]:
        """What every reader makes of the log so far."""
        while records := self._log.read(1000, 0):
            self._records += records
            self._verdicts += [admit(self._state, record) for record in records]
        return self._verdicts

    def facts(self, type: str = "", job: str = "") -> list[Event]:
        """The admitted facts of agents and services, in log order."""
        events = [verdict.event for verdict in self.verdicts() if isinstance(verdict, Admitted)]
        return [
            event
            for event in events
            if event.type.startswith(f"event.{type}") and (not job or getattr(event.data, "job", "") == job)
        ]

    def bad(self) -> list[str]:
        return [verdict.reason for verdict in self.verdicts() if isinstance(verdict, Bad)]

    def gaps(self) -> list[tuple[str, int, int]]:
        self.verdicts()
        return list(self._state.gaps())

    def finished(self, job: str, deadline: float = SOON) -> Event:
        """The one end of a job."""
        ends = wait_until(lambda: self.facts("job.finished", job), deadline=deadline, what=f"the end of job {job}")
        assert len(ends) == 1
        return ends[0]

    def all_finished(self, jobs: Collection[str], deadline: float = SOON) -> dict[str, Event]:
        """The end of each job; exactly one each."""

        def ends() -> dict[str, list[Event]]:
            found: dict[str, list[Event]] = {}
            for event in self.facts("job.finished"):
                found.setdefault(event.data.job, []).append(event)
            return found if set(jobs) <= set(found) else {}

        found = wait_until(ends, deadline=deadline, what=f"the ends of {len(jobs)} jobs")
        assert {job: len(events) for job, events in found.items()} == dict.fromkeys(found, 1)
        return {job: events[0] for job, events in found.items()}

    def connected(self, count: int = 1, deadline: float = SOON) -> Event:
        """The `count`th time that the agent connected."""
        return wait_until(
            lambda: self.facts("node.connected")[count - 1 :],
            deadline=deadline,
            what=f"connection {count} of the agent",
        )[0]

    def telemetry(self, type: str, job: str = "") -> list[Event]:
        while records := self._telemetry.read(1000, 0):
            for record in records:
                try:
                    self._heard.append(check(record))
                except BadEvent as error:
                    raise AssertionError(f"bad telemetry: {error}") from error
        return [
            event
            for event in self._heard
            if event.type == f"telemetry.{type}" and (not job or getattr(event.data, "job", "") == job)
        ]

    # the engine's failures

    def break_log(self) -> None:
        """From now on nothing that is published is confirmed, nor is it in the log. Deliveries still arrive."""
        self._sql("ALTER TABLE log RENAME TO hidden")

    def mend_log(self) -> None:
        self._sql("ALTER TABLE hidden RENAME TO log")

    def _sql(self, sql: str) -> None:
        with closing(sqlite3.connect(self.folder / "bus.db", timeout=15)) as db:
            db.execute(sql)

    def inbox_size(self) -> int:
        """Deliveries that are not acknowledged."""
        with closing(sqlite3.connect(self.folder / "bus.db", timeout=15)) as db:
            return int(db.execute("SELECT count(*) FROM delivery WHERE node = ?", (self.node,)).fetchone()[0])


class FrozenClock:
    """A clock whose wall time stands still until it is told otherwise."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        raise AssertionError("not asked for")


class AgentThread:
    """An agent in this process, on a bus of its own."""

    def __init__(
        self,
        player: Player,
        data: Path,
        *,
        roles: tuple[str, ...] = ("cpu",),
        allows: frozenset[str] = frozenset(),
        queues: dict[str, QueueSpec] | None = None,
        clock: Clock | None = None,
        grace: float = 5.0,
        bus: Bus | None = None,
    ) -> None:
        self.data = data
        self.bus: Bus = bus or EmbeddedBus(player.folder, f"node.{player.node}")
        self.stop_event = threading.Event()
        self.code: int | None = None

        def run() -> None:
            self.code = wiring.run_agent(
                bus=self.bus,
                node=player.node,
                roles=roles,
                data=data,
                stop=self.stop_event,
                allows=allows,
                queues=queues,
                clock=clock or SystemClock(),
                grace=grace,
            )

        self.thread = threading.Thread(target=run, name="agent")
        self.thread.start()

    def marks(self) -> dict[str, str]:
        return marks_in(self.data)

    def stop(self) -> int | None:
        self.stop_event.set()
        return self.wait()

    def wait(self) -> int | None:
        """Waits for its end, and returns the exit code."""
        self.thread.join(60)
        assert not self.thread.is_alive(), "the agent does not stop"
        self.bus.close()
        return self.code


class AgentProcess:
    """An agent as a process of its own, to be killed. `said` is its log so far, one JSON text per line."""

    def __init__(
        self, player: Player, data: Path, *, roles: Iterable[str] = ("cpu",), lease: float = leases.LONG
    ) -> None:
        self.data = data
        self.said: list[str] = []
        self._bus = player.folder
        command = [sys.executable, "-m", "tests.agents", str(player.folder), str(data), player.node, str(lease), *roles]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            self.said += iter(log.readline, "")

    def has_said(self, action: str) -> bool:
        return any(f'"action": "{action}"' in line for line in self.said)

    def kill(self) -> None:
        """SIGKILL to the agent alone: its workers must notice by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SOON)
        self._listener.join(SOON)
        leases.let_leases_end(self._bus, self.process.pid)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._listener.join(SOON)
        return code

    def marks(self) -> dict[str, str]:
        return marks_in(self.data)


def marks_in(data: Path) -> dict[str, str]:
    """The mark of every job in a journal's file, seen from outside."""
    if not (data / "journal.db").exists():
        return {}
    with closing(sqlite3.connect(data / "journal.db", timeout=15)) as db:
        return dict(db.execute("SELECT id, mark FROM job"))


def main() -> None:
    folder, data, node, lease, *roles = sys.argv[1:]
    embedded.LEASE = float(lease)
    set_up("agent", "json")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    bus = EmbeddedBus(folder, f"node.{node}")
    vars(wiring)["DEFAULT_QUEUES"] = QUEUES
    code = wiring.run_agent(
        bus=bus, node=node, roles=tuple(roles), data=Path(data), stop=stop, allows=frozenset({"shell"}), grace=2.0
    )
    bus.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
