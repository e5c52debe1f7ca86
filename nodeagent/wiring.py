"""Puts an agent together, and runs it: the one place of this package that names real parts."""

import contextlib
import fcntl
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from uuid import uuid4

import structlog

from bus.clock import Clock, SystemClock
from bus.ports import Bus
from nodeagent.agent import Agent, Identity, Parts
from nodeagent.errors import AgentError, AlreadyRunning, NotAllowed
from nodeagent.facts import Speaker
from nodeagent.heartbeat import Heartbeat
from nodeagent.jobs import Jobs
from nodeagent.journal import Journal
from nodeagent.local import LocalDoor
from nodeagent.outbox import Outbox
from nodeagent.scripts import Scripts
from nodeagent.stats import Agent as AgentStats
from nodeagent.telemetry import Telemetry
from nodeagent.work import DEFAULT_QUEUES, QueueSpec
from nodeagent.workers import WorkerPool

#: Exit codes, as everywhere in fleetbus.
DONE, FAILED, NOT_ALLOWED = 0, 1, 3
#: Seconds that running jobs have when the agent is told to stop.
GRACE = 30.0

log = structlog.get_logger(__name__)


def run_agent(
    *,
    bus: Bus,
    node: str,
    roles: tuple[str, ...],
    data: Path,
    stop: threading.Event,
    allows: frozenset[str] = frozenset(),
    queues: Mapping[str, QueueSpec] | None = None,
    clock: Clock | None = None,
    grace: float = GRACE,
) -> int:
    """Runs the agent of `node` until `stop` is set, and returns its exit code.

    `bus` is open as `node.<id>` and stays open. `data` is the agent's own folder: journal, lock and socket. `allows`
    names the capabilities that the node's owner switched on (`shell`). `queues` go over the default worker queues.
    `grace`: seconds that running jobs have when `stop` is set; then they end as failed.

    0: stopped when told to. 1: the journal cannot be used, or the workers died. 3: not allowed to be this node (another
    agent is, the node was removed from the fleet, or the bus refuses): starting again changes nothing.
    """
    try:
        with _folder(data), Journal(data / "journal.db", producer=str(uuid4())) as journal:
            identity = Identity(node=node, roles=roles, allows=allows, version=_version())
            parts = _parts(identity, bus, journal, data, {**DEFAULT_QUEUES, **(queues or {})}, clock or SystemClock())
            Agent(identity, parts, stop, grace).run()
        return DONE
    except (NotAllowed, AlreadyRunning) as error:
        log.error(str(error), action="agent.not_allowed", node=node)
        return NOT_ALLOWED
    except AgentError as error:
        log.error(str(error), action="agent.failed", node=node)
        return FAILED
    except OSError as error:
        log.error("the agent cannot start", action="agent.failed", node=node, error=str(error))
        return FAILED


def _parts(
    identity: Identity, bus: Bus, journal: Journal, data: Path, queues: Mapping[str, QueueSpec], clock: Clock
) -> Parts:
    speaker, telemetry = Speaker(identity.node), Telemetry(bus)
    scripts = Scripts(journal, identity.allows)
    jobs = Jobs(journal, scripts, speaker, telemetry, clock)
    pool = WorkerPool(
        on_started=jobs.on_started, on_output=jobs.on_output, on_finished=jobs.on_finished, queues=queues, hold=True
    )
    jobs.attach(pool)

    def look() -> AgentStats:
        running, accepted = jobs.count()
        return AgentStats(
            jobs_running=running,
            jobs_accepted=accepted,
            outbox_facts=journal.unconfirmed,
            outbox_refused=journal.file.refused(),
            telemetry_dropped=telemetry.dropped,
            outbox_full=journal.full,
            journal_unwritable=bool(journal.trouble),
            runs_left_out=jobs.left_out,
        )

    return Parts(
        bus=bus,
        journal=journal,
        scripts=scripts,
        jobs=jobs,
        pool=pool,
        outbox=Outbox(bus, journal),
        heartbeat=Heartbeat(telemetry, speaker, journal.producer, look, clock),
        door=LocalDoor(data.resolve() / "agent.sock", journal, speaker, clock),
        speaker=speaker,
        clock=clock,
    )


@contextlib.contextmanager
def _folder(data: Path) -> Iterator[None]:
    """The agent's folder, for this process alone. The lock goes with the process, however it ends."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        # the journal holds parameters and results of jobs: they are nobody else's
        data.chmod(0o700)
        lock = (data / "agent.lock").open("w")
    except OSError as error:
        raise AgentError(f"cannot use the data folder {data}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(
                f"another agent uses the data folder {data}; give this one its own with --data"
            ) from None
        yield


def _version() -> str:
    try:
        return version_of("fleetbus")
    except PackageNotFoundError:
        return ""
