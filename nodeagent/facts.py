"""What the agent says, as values. Pure: time and ids come in."""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from events.actors import agent_user
from events.envelope import Event, derived_id
from events.job import MAX_INLINE_RESULT, JobFailure, JobFinished, JobOutput, JobStarted
from events.job import Outcome as Word
from events.node import NodeConnected, NodeDisconnected
from events.routing import key_for
from events.telemetry import QuietRun
from nodeagent.blobs import JSON, TEXT, Blob, make_blob
from nodeagent.outcome import MAX_ERROR, MAX_TRACEBACK, Cancelled, Failed, Outcome, Succeeded, TimedOut, shortened
from nodeagent.output import Output
from nodeagent.run import Run
from nodeagent.work import Finished

#: The longest tail of an output in a fact, in characters.
MAX_TAIL = 2_000
#: Bytes of JSON that a traceback may take, so that the fact stays below the bus' 1 MB whatever has to be escaped.
MAX_TRACEBACK_BYTES = 400_000


class Fact(Struct, frozen=True):
    """An event without producer and seq, the key it goes under, and the blobs that go before it."""

    event: Event
    key: str
    blobs: tuple[Blob, ...] = ()


class Speaker(Struct, frozen=True):
    """The voice of one node."""

    node: str

    def event(self, type: str, subject: str, data: Struct, now: datetime, **more: Any) -> Event:
        return Event(
            source=f"fleetbus/node/{self.node}",
            type=type,
            subject=subject,
            time=now,
            actor=f"node:{self.node}",
            data=data,
            **more,
        )

    def connected(self, data: NodeConnected, now: datetime, id: str) -> Fact:
        return self._fact(self.event("event.node.connected", self.node, data, now, id=id))

    def disconnected(self, boot: str, now: datetime, id: str) -> Fact:
        said = NodeDisconnected(node=self.node, boot=boot)
        return self._fact(self.event("event.node.disconnected", self.node, said, now, id=id))

    def started(
        self, run: Run, now: datetime, received: datetime | None = None, accepted: datetime | None = None
    ) -> Fact:
        """`received`, `accepted`: when the order came, and when it was in the journal."""
        order = run.order if run.own else None
        said = JobStarted(job=run.job, node=self.node, received=received, accepted=accepted, order=order, own=run.own)
        return self._about(run, "event.job.started", said, now, cause=run.cause)

    def finished(
        self, run: Run, end: Finished, now: datetime, cause: str | None = None, began: datetime | None = None
    ) -> Fact:
        """The end of a run, with its result and output; what is large is a blob.

        `cause`: the fact that ended it. `began`: when its script was let go, if it was.
        """
        said, blobs = _finished(self.node, run, end, began)
        cause = cause or run.cause or (None if run.quiet else _id(run.job, "event.job.started"))
        return self._about(run, "event.job.finished", said, now, cause=cause, blobs=blobs)

    def cancelled_unseen(self, job: str, cause: str, story: str | None, now: datetime) -> Fact:
        """The end of a job that was cancelled before its order came."""
        said = JobFinished(job=job, node=self.node, outcome="cancelled", duration=0.0)
        event = self.event(
            "event.job.finished",
            job,
            said,
            now,
            id=_id(job, "event.job.finished"),
            correlationid=story,
            causationid=cause,
        )
        return self._fact(event)

    def quiet_run(self, run: Run, end: Finished, now: datetime, id: str) -> Event:
        """Telemetry in the place of facts, for a run of the agent's own that is not logged."""
        result = None
        if isinstance(end.outcome, Succeeded) and end.outcome.size <= MAX_INLINE_RESULT:
            result = Raw(end.outcome.result)
        said = QuietRun(job=run.job, node=self.node, script=run.order.script, duration=end.duration, result=result)
        return self.event("telemetry.run", run.job, said, now, id=id, correlationid=run.job)

    def handed(self, event: Event) -> Fact:
        """The event of a local service, under a key that ends in this node."""
        return Fact(event, f"{event.type}.{agent_user(self.node)}")

    def _about(
        self, run: Run, type: str, data: Struct, now: datetime, *, cause: str | None, blobs: tuple[Blob, ...] = ()
    ) -> Fact:
        id, story = _id(run.job, type), run.story or (run.job if run.own else None)
        event = self.event(type, run.job, data, now, id=id, correlationid=story, causationid=cause)
        return self._fact(event, blobs)

    def _fact(self, event: Event, blobs: tuple[Blob, ...] = ()) -> Fact:
        return Fact(event, key_for(event.type, event.actor), blobs)


def _id(job: str, type: str) -> str:
    return derived_id(job, type)


def _finished(node: str, run: Run, end: Finished, began: datetime | None) -> tuple[JobFinished, tuple[Blob, ...]]:
    inline, large = _result(end.outcome)
    output, text = _output(end.output)
    unsaid = run.own is not None and run.quiet
    said = JobFinished(
        job=run.job,
        node=node,
        outcome=_word(end.outcome),
        duration=max(0.0, end.duration),
        began=began,
        result=inline,
        result_blob=large.sha256 if large else None,
        failure=_failure(end.outcome),
        output=output,
        order=run.order if unsaid else None,
        own=run.own if unsaid else None,
    )
    return said, tuple({blob.sha256: blob for blob in (large, text) if blob}.values())


def _word(outcome: Outcome) -> Word:
    match outcome:
        case Succeeded():
            return "succeeded"
        case Failed():
            return "failed"
        case TimedOut():
            return "timed_out"
        case Cancelled():
            return "cancelled"


def _result(outcome: Outcome) -> tuple[Any, Blob | None]:
    if not isinstance(outcome, Succeeded):
        return None, None
    if outcome.size > MAX_INLINE_RESULT:
        return None, make_blob(outcome.result, JSON)
    return Raw(outcome.result), None


def _output(output: Output) -> tuple[JobOutput, Blob | None]:
    if not output.lines:
        return JobOutput(), None
    text = output.text()
    blob = make_blob(text.encode(errors="replace"), TEXT)
    said = JobOutput(
        blob=blob.sha256,
        lines=output.lines,
        size=output.size,
        dropped=output.dropped_bytes,
        tail=_clean(text[-MAX_TAIL:]),
    )
    return said, blob


def _failure(outcome: Outcome) -> JobFailure | None:
    if isinstance(outcome, Succeeded):
        return None
    error = shortened(_clean(outcome.error), MAX_ERROR)
    return JobFailure(error=error, traceback=_fitting(shortened(_clean(outcome.traceback), MAX_TRACEBACK)))


def _fitting(text: str) -> str:
    """Text whose JSON is not too long: control characters take six bytes each."""
    while len(msgspec.json.encode(text)) > MAX_TRACEBACK_BYTES:
        text = shortened(text, len(text) // 2)
    return text


def _clean(text: str) -> str:
    """Text that UTF-8 can say: a lone surrogate, as in the name of an odd file, becomes a question mark."""
    return text.encode(errors="replace").decode()
