"""What is said about jobs and batches of jobs."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from events.names import Id, NodeId, Role, ScriptName, Seconds, Sha256, Span, Text

#: A result larger than this many bytes of JSON is kept as a blob, and the fact names it.
MAX_INLINE_RESULT = 64_000

Outcome = Literal["succeeded", "failed", "timed_out", "cancelled"]


class Target(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a job is to run.

    `node`: there. `nodes`: on each of them. `role`: on one node of it, with `all` on every one.
    `all` alone: on every node.
    """

    node: NodeId | None = None
    nodes: tuple[NodeId, ...] = ()
    role: Role | None = None
    all: bool = False


class Rollout(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a batch goes over its nodes: at most `size` jobs, or `percent` of them, unfinished at a time.

    When more than `max_failures` jobs have ended otherwise than well, those not begun are cancelled.
    """

    size: Annotated[int, Meta(ge=1)] | None = None
    percent: Annotated[float, Meta(gt=0, le=100)] | None = None
    max_failures: Annotated[int, Meta(ge=0)] | None = None


class SubmitJob(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for one run of a script, or for a batch of them. The command's id is the id of the job or batch.

    `timeout`: seconds a run may take (else the script's, else its queue's limit). `start_within`: seconds after which
    it must not start any more. `hash` pins a version of the script, else the current one is taken.
    """

    script: ScriptName
    target: Target
    params: dict[str, Any] = {}
    timeout: Span | None = None
    start_within: Span | None = None
    hash: Sha256 | None = None
    rollout: Rollout | None = None


class CancelJob(Struct, frozen=True, kw_only=True):
    """Asks that a job, or every unfinished job of a batch, end."""

    job: Id


class RetryJob(Struct, frozen=True, kw_only=True):
    """Asks for a new job like an earlier, ended one. The command's id is the id of the new job."""

    job: Id


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be run: everything about a job that does not depend on the node."""

    script: ScriptName
    hash: Sha256
    #: Who asked for it: the actor of the command, or the node that began it by itself.
    by: str
    params: dict[str, Any] = {}
    timeout: Seconds | None = None
    #: Runs that may still follow a failure by themselves (the header's `retries`).
    retries: int = 0
    retry_of: Id | None = None
    batch: Id | None = None


class JobWaiting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """No node can take the job yet. `place`: its place among those that wait for the same target, from 1."""

    job: Id
    order: Order
    target: Target
    start_by: datetime
    reason: Text
    place: int = 1


class JobQueued(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job is for `node`. `via` is the held role by which it is addressed (`cpu.kvm` for `cpu`), or `node`."""

    job: Id
    order: Order
    target: Target
    node: NodeId
    via: str
    start_by: datetime


class BatchJob(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job of a batch; without a `reason` to wait it is queued at once."""

    job: Id
    node: NodeId
    #: The role by which the node is addressed, or `node`.
    via: str
    reason: Text = ""


class BatchCreated(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fact that makes all jobs of a batch."""

    batch: Id
    order: Order
    target: Target
    start_by: datetime
    jobs: tuple[BatchJob, ...]
    #: Jobs that may be unfinished at a time; 0 means all of them.
    size: int = 0
    max_failures: int | None = None


class CancelRequested(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job is to end. One that no node has yet is cancelled by this fact; otherwise its agent answers."""

    job: Id
    jobs: tuple[Id, ...] = ()
    reason: Text = ""


class JobExpired(Struct, frozen=True, kw_only=True):
    """The job did not start in time, and will not any more."""

    job: Id
    reason: Text


class JobLost(Struct, frozen=True, kw_only=True):
    """The node of a started job is gone for too long, or lost its memory of it."""

    job: Id
    node: NodeId
    reason: Text


class OwnRun(Struct, frozen=True, kw_only=True):
    """Why an agent started a job itself: the script's period, cron line or `startatboot`, and the slot's name."""

    slot: str


class JobStarted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job's process is there. `order` and `own` are there when the agent began it by itself.

    `received`: when the agent took the order out of its inbox; `accepted`: when it was in the agent's journal. They are
    left out where nobody knows them (any more).
    """

    job: Id
    node: NodeId
    received: datetime | None = None
    accepted: datetime | None = None
    order: Order | None = None
    own: OwnRun | None = None


class JobFailure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job did not succeed: a sentence, and the script's own traceback if it got that far."""

    error: Annotated[str, Meta(max_length=20_000)]
    traceback: Annotated[str, Meta(max_length=200_000)] = ""


class JobOutput(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole output, as a blob of text.

    `lines` and `size` (bytes) count what was printed, `dropped` (bytes) what is not kept.
    """

    blob: Sha256 | None = None
    lines: int = 0
    size: int = 0
    dropped: int = 0
    #: The last lines, so that nobody has to fetch the blob for a glance; at most 2,000 characters.
    tail: str = ""


class JobFinished(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job's process ended. `duration` in seconds; `result` as JSON, or `result_blob` when it is large.

    `began`: when the script was let go, left out for one that never was. It ended `duration` later.
    """

    job: Id
    node: NodeId
    outcome: Outcome
    duration: Seconds
    began: datetime | None = None
    result: Any = None
    result_blob: Sha256 | None = None
    failure: JobFailure | None = None
    output: JobOutput = JobOutput()
    #: Said again for a run of the agent's own whose `started` was not logged (`log: false`, but it failed).
    order: Order | None = None
    own: OwnRun | None = None
