"""What goes into the worker pool, and what comes out of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from nodeagent.outcome import Outcome
from nodeagent.output import Output


class QueueSpec(Struct, frozen=True):
    """A queue has `size` workers, and a job in it ends after `limit` seconds unless its script says otherwise."""

    size: int
    limit: float


DEFAULT_QUEUES: Mapping[str, QueueSpec] = MappingProxyType(
    {
        "default": QueueSpec(size=2, limit=300),
        "io": QueueSpec(size=1, limit=3600),
        "hypervisor": QueueSpec(size=1, limit=300),
        "process": QueueSpec(size=5, limit=300),
    }
)
#: A queue that nobody configured comes into being when a job names it: one worker, so its jobs run one after another.
UNKNOWN_QUEUE = QueueSpec(size=1, limit=3600)


class Work(Struct, frozen=True, kw_only=True):
    """One job for a worker.

    `params` are as they were given: secrets are still references, which the job's own process looks up. The job sees
    `job_id`, `node_id` and `actor` as FLEETBUS_JOB_ID, FLEETBUS_NODE_ID and FLEETBUS_ACTOR, and `env` beside them.
    `timeout` in seconds; None means the limit of the queue.
    """

    job_id: str
    script: str
    source: str
    queue: str
    node_id: str
    actor: str
    params: dict[str, Any] = {}
    timeout: float | None = None
    env: dict[str, str] = {}


class Started(Struct, frozen=True, kw_only=True):
    """A process for the job is there, but runs nothing of the script yet.

    `pgid` and `stamp` are for `processes.kill_group`, also after the agent itself has died.
    """

    job_id: str
    pgid: int
    stamp: str


class Finished(Struct, frozen=True, kw_only=True):
    """The end of a job: nothing of it runs any more. `duration` in seconds, 0 when it never began.

    `since`: seconds since its script was let go, if it was.
    """

    job_id: str
    outcome: Outcome
    duration: float = 0.0
    output: Output = Output()
    since: float | None = None
