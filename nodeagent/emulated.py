"""A node that is only played: it says what an agent says, and its jobs end as soon as they begin. Pure."""

from collections import OrderedDict
from datetime import datetime

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bus.ports import Message
from events.codec import encode
from events.delivery import RunJob, StopJob, decode_delivery
from events.envelope import Event
from events.node import NodeConnected
from events.routing import routing_key
from events.telemetry import Heartbeat
from nodeagent.facts import Fact, Speaker
from nodeagent.outcome import Succeeded
from nodeagent.run import ordered
from nodeagent.work import Finished

#: What each job brings.
RESULT = Succeeded(msgspec.json.encode({"emulated": True}))
#: Jobs that are remembered, so that a delivery that comes again runs nothing.
REMEMBERED = 1_000


class EmulatedNode:
    """One agent start: its numbered facts, and the jobs it has had.

    `boot` and `journal` are ids as an agent makes them; whoever plays the agent keeps what is not confirmed.
    """

    def __init__(self, node: str, roles: tuple[str, ...], boot: str, journal: str) -> None:
        self.node = node
        self.roles = roles
        self.ended = 0
        self._boot, self._journal = boot, journal
        self._speaker = Speaker(node)
        self._seq = 0
        self._had: OrderedDict[str, None] = OrderedDict()

    def connected(self, now: datetime, id: str) -> Message:
        data = NodeConnected(
            node=self.node,
            boot=self._boot,
            journal=self._journal,
            roles=self.roles,
            hostname=f"{self.node}.emulated",
            version="emulated",
        )
        return self._numbered(self._speaker.connected(data, now, id))

    def disconnected(self, now: datetime, id: str) -> Message:
        return self._numbered(self._speaker.disconnected(self._boot, now, id))

    def heartbeat(self, now: datetime, id: str) -> Message:
        beat = Heartbeat(node=self.node, boot=self._boot)
        return _message(self._speaker.event("telemetry.heartbeat", self.node, beat, now, id=id))

    def answer(self, body: bytes, now: datetime) -> list[Message]:
        """What the agent says to a delivery; nothing to one it had before, or that came too late.

        Raises `msgspec.DecodeError` for what is no delivery.
        """
        match decode_delivery(body):
            case RunJob(job=job) as delivery if self._is_new(job) and now < delivery.start_by:
                return self._run(delivery, now)
            case StopJob(job=job, fact=fact, correlation=story) if self._is_new(job):
                return [self._numbered(self._speaker.cancelled_unseen(job, fact, story, now))]
            case _:
                return []

    def _is_new(self, job: str) -> bool:
        if job in self._had:
            return False
        self._had[job] = None
        if len(self._had) > REMEMBERED:
            self._had.popitem(last=False)
        return True

    def _run(self, delivery: RunJob, now: datetime) -> list[Message]:
        self.ended += 1
        run = ordered(delivery, "default", None)
        end = Finished(job_id=run.job, outcome=RESULT)
        return [self._numbered(self._speaker.started(run, now)), self._numbered(self._speaker.finished(run, end, now))]

    def _numbered(self, fact: Fact) -> Message:
        self._seq += 1
        return _message(replace(fact.event, producer=self._boot, seq=self._seq))


class Counts(Struct):
    """What a set of emulated agents did: those that are connected now, and the rest since the start."""

    agents: int = 0
    connected: int = 0
    jobs: int = 0
    lost: int = 0
    trouble: str = ""


def total(all_counts: list[Counts]) -> Counts:
    trouble = next((counts.trouble for counts in all_counts if counts.trouble), "")
    return Counts(
        agents=sum(counts.agents for counts in all_counts),
        connected=sum(counts.connected for counts in all_counts),
        jobs=sum(counts.jobs for counts in all_counts),
        lost=sum(counts.lost for counts in all_counts),
        trouble=trouble,
    )


def _message(event: Event) -> Message:
    return Message(key=routing_key(event), body=encode(event), id=event.id, type=event.type)
