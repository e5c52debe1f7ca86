"""Old and new processes side by side, as they are during an upgrade: from this checkout, and from the sources that are
kept with the recorded log of the last release.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from bus.ports import Message
from events.actors import PORTAL, PROJECTIONS
from events.codec import encode
from events.envelope import Event
from events.job import SubmitJob, Target
from events.routing import routing_key
from events.script import PublishScript
from fleetbus.settings import embedded
from projections import generation
from projections.check import check
from projections.osis.documents import Documents
from projections.osis.sqlite_documents import SqliteDocuments
from projections.registry import versions
from tests import recorded
from tests.projecting import caught_up, live, running
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

NEW = Path(__file__).parents[2]
#: Seconds that anything may take on a busy machine.
SOON = 60.0
SCRIPT = 'descr = "says what it was told"\n\ndef action(n: int):\n    print("told", n)\n    return n\n'


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the last recorded release."""
    folder = tmp_path_factory.mktemp("old")
    recorded.source(recorded.folders()[-1], folder)
    where = [sys.executable, "-c", "import fleetbus, bus; print(fleetbus.__file__, bus.__file__)"]
    said = subprocess.run(
        where, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == [str(folder / "fleetbus" / "__init__.py"), str(folder / "bus" / "__init__.py")]
    return folder


class Site:
    """A fleet on the embedded side, of processes from two checkouts."""

    def __init__(self, folder: Path, documents: Documents, bus: EmbeddedBus) -> None:
        self.folder = folder
        self.documents = documents
        self.bus = bus

    @contextmanager
    def process(self, checkout: Path, *args: str) -> Iterator[None]:
        """One service from the sources of `checkout`, until the end of the block."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FLEETBUS_")}
        environ = {**ours, **embedded(self.folder), "PYTHONPATH": str(checkout), "HOME": str(self.folder)}
        said = self.folder / f"{'-'.join(args[:3])}-{checkout.name}.log".replace("/", "_")
        with said.open("ab") as out:
            started = subprocess.Popen(
                [sys.executable, "-m", "fleetbus", *args], cwd=checkout, env=environ, stdout=out, stderr=out
            )
        try:
            yield
            assert started.poll() is None, said.read_text()
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(SOON)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()

    def agent(self, checkout: Path, node: str) -> list[str]:
        return ["agent", "--node", node, "--data", str(self.folder / node), "--grace", "1"]

    def ask(self, type: str, subject: str, data: object) -> str:
        id = str(uuid4())
        event = Event(
            id=id,
            source="test",
            type=type,
            subject=subject,
            time=SystemClock().now(),
            actor="user:alice",
            correlationid=id,
            data=data,
        )
        self.bus.publish(Message(key=routing_key(event), body=encode(event), id=id)).result(SOON)
        return id

    def run_on(self, *nodes: str) -> list[str]:
        """A job on each node, to its end; their ids."""
        jobs = [
            self.ask("command.job.submit", "say", SubmitJob(script="say", target=Target(node=node), params={"n": n}))
            for n, node in enumerate(nodes)
        ]
        wait_until(lambda: all(self.state(job) for job in jobs), deadline=SOON, what=f"the end of jobs on {nodes}")
        return jobs

    def state(self, job: str) -> str:
        """How the job ended; "" while it has not."""
        name = generation.live(self.documents)
        found = None if name is None else self.documents.namespace(name).get("jobs", job)
        return str(found["state"]) if found and found.get("ended_at") else ""

    def knows(self, node: str) -> bool:
        name = generation.live(self.documents)
        found = None if name is None else self.documents.namespace(name).get("nodes", node)
        return found is not None and found["state"] == "online"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with (
        closing(SqliteDocuments(tmp_path / "views.db")) as documents,
        closing(EmbeddedBus(tmp_path / "bus", PORTAL)) as bus,
    ):
        yield Site(tmp_path, documents, bus)


def test_old_and_new_processes_run_one_fleet_and_make_the_same_views(site: Site, old: Path) -> None:
    with ExitStack() as stack:
        for checkout, node in ((old, "n1"), (NEW, "n2")):
            stack.enter_context(site.process(checkout, *site.agent(checkout, node)))
        with site.process(old, "handlers"), site.process(NEW, "projections"):
            wait_until(lambda: site.knows("n1") and site.knows("n2"), deadline=SOON, what="both agents")
            site.ask("command.script.publish", "say", PublishScript(name="say", source=SCRIPT))
            before = site.run_on("n1", "n2", "n1")
        with site.process(NEW, "handlers"), site.process(old, "projections"):
            after = site.run_on("n1", "n2", "n2")
            states = [site.state(job) for job in before + after]

    assert states == ["succeeded"] * 6
    with running(site.folder / "bus", site.documents):
        caught_up(site.documents, site.folder / "bus")
    with closing(EmbeddedBus(site.folder / "bus", PROJECTIONS)) as bus:
        report = check(bus, site.documents)
    assert [(view.view, view.first) for view in report.views if not view.equal] == []
    assert {view.view for view in report.views} == set(versions())
    assert live(site.documents).count("jobs") >= len(states)
