"""A fleet on real servers, every service a process of its own, started again when it dies, as a supervisor would."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from bus.admission import AdmissionState, Admitted, admit
from bus.clock import new_id
from bus.errors import NotConfirmed
from bus.ports import Message
from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user
from events.codec import encode
from events.envelope import Event
from events.job import BatchCreated, JobExpired, JobFinished, JobLost, JobQueued, JobStarted, SubmitJob, Target
from events.node import NodeConnected
from events.routing import routing_key
from events.script import PublishScript
from tests.contract.bus_contract import RabbitEngine
from tests.waiting import wait_until

#: Seconds. Generous: the machine may be busy with other tests.
PATIENCE = 180.0

#: Writes one line per run outside of fleetbus: the effect that must not happen twice.
MARK = """\
descr = "leaves a mark outside, and takes its time"

import os
import time


def action(folder: str, seconds: float = 0.0):
    path = os.path.join(folder, os.environ["FLEETBUS_JOB_ID"])
    with open(path, "a") as file:
        file.write("ran\\n")
    time.sleep(seconds)
    return os.getpid()
"""


class Service:
    """One process that is started again whenever it ends, until it is retired."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        prefix: Sequence[str] = (),
        module: Sequence[str] = ("fleetbus",),
    ) -> None:
        """`prefix` is a program that becomes the service, such as one that changes its surroundings first; `module`
        is run, with arguments of its own before those of the service."""
        self.name = name
        self._command = [*prefix, sys.executable, "-m", *module, *arguments]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._retired = threading.Event()
        self._lock = threading.Lock()
        self.starts = 0
        self._process = self._start()
        threading.Thread(target=self._look_after, daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def _look_after(self) -> None:
        while not self._retired.is_set():
            self._process.wait()
            if self._retired.wait(0.5):
                return
            with self._lock:
                self._process = self._start()

    def kill(self) -> None:
        """-9; somebody starts it again."""
        with self._lock:
            self._process.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def retire(self, grace: float = 20.0) -> None:
        """Ends it for good, within `grace` seconds."""
        self._retired.set()
        with self._lock:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()


class Fleet:
    """Handlers, projections and agents on one broker; commands go in and the log is read as the portal's user."""

    def __init__(self, engine: RabbitEngine, folder: Path, documents_url: str, series_url: str) -> None:
        self.engine = engine
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.views = {"FLEETBUS_DOCUMENTS_URL": documents_url, "FLEETBUS_SERIES_URL": series_url}
        self.services: dict[str, Service] = {}
        self.portal = engine.bus(PORTAL)
        self.reader = self.portal.stream("log").read_from("first")
        self.state = AdmissionState()
        self.events: list[Event] = []

    def start(self, name: str, arguments: list[str], user: str, **environment: str) -> Service:
        data = self.folder / name
        data.mkdir()
        known = {"FLEETBUS_BUS_URL": self.engine.url(user), "FLEETBUS_DATA": str(data), **environment}
        service = Service(name, arguments, known, self.folder / f"{name}.log")
        self.services[name] = service
        return service

    def begin(self, agents: Mapping[str, str]) -> None:
        """All services, and one agent for each (node, role)."""
        self.start("handlers", ["handlers"], HANDLERS)
        self.start("standby", ["handlers"], HANDLERS)
        self.start("projections", ["projections"], PROJECTIONS, **self.views)
        for node, role in agents.items():
            self.engine.invite(node)
            self.start(node, ["agent", "--node", node, "--role", role], agent_user(node))
        self.command("command.script.publish", PublishScript(name="mark", source=MARK))
        wait_until(
            lambda: {event.data.node for event in self.read() if isinstance(event.data, NodeConnected)} >= set(agents),
            deadline=PATIENCE,
            what="all agents",
        )

    def command(self, type: str, data: Struct) -> str:
        """Sent until it is confirmed, as every client does, under one id."""
        event = Event(
            id=new_id(), source="test", type=type, subject="s", time=datetime.now(UTC), actor="user:alice", data=data
        )
        message = Message(routing_key(event), encode(event), event.id, event.type)
        wait_until(lambda: self._confirmed(message), deadline=PATIENCE, what="the command confirmed")
        return event.id

    def _confirmed(self, message: Message) -> bool:
        try:
            self.portal.publish(message).result(PATIENCE)
        except NotConfirmed:
            return False
        return True

    def submit(self, target: Target, seconds: float = 0.0) -> str:
        params: dict[str, Any] = {"folder": str(self.marks), "seconds": seconds}
        return self.command("command.job.submit", SubmitJob(script="mark", target=target, params=params))

    def read(self) -> list[Event]:
        """Everything admitted so far."""
        for record in self.reader.read(timeout=0.2):
            verdict = admit(self.state, record)
            if isinstance(verdict, Admitted):
                self.events.append(verdict.event)
        return self.events

    def jobs_of(self, command: str) -> dict[str, str]:
        """Job -> node of a command, when it is decided."""

        def found() -> dict[str, str]:
            for event in self.read():
                if event.causationid == command and isinstance(event.data, JobQueued):
                    return {event.data.job: event.data.node}
                if event.causationid == command and isinstance(event.data, BatchCreated):
                    return {job.job: job.node for job in event.data.jobs}
            return {}

        return wait_until(found, deadline=PATIENCE, what=f"the outcome of {command}")

    def ends(self) -> dict[str, list[str]]:
        """Job -> its endings in log order."""
        found: dict[str, list[str]] = {}
        for event in self.read():
            match event.data:
                case JobFinished(job=job, outcome=outcome):
                    found.setdefault(job, []).append(outcome)
                case JobExpired(job=job):
                    found.setdefault(job, []).append("expired")
                case JobLost(job=job):
                    found.setdefault(job, []).append("lost")
        return found

    def wait_for_ends(self, jobs: Iterable[str]) -> dict[str, list[str]]:
        wanted = set(jobs)
        wait_until(lambda: wanted <= set(self.ends()), deadline=PATIENCE, what=f"the ends of {len(wanted)} jobs")
        return {job: ends for job, ends in self.ends().items() if job in wanted}

    def started(self) -> set[str]:
        return {event.data.job for event in self.read() if isinstance(event.data, JobStarted)}

    def ran(self) -> Counter[str]:
        """Job -> how often it left its mark."""
        return Counter({path.name: path.read_text().count("ran") for path in self.marks.iterdir()})

    def kill_a_worker(self, node: str) -> None:
        """-9 to one of the processes of this node's agent."""
        agent = self.services[node].pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        for child in children[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def close(self) -> None:
        for service in reversed(self.services.values()):
            service.retire()
        self.engine.close()
