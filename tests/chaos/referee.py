"""Which records of the log count: the design's section 4, written a second time and in the plainest way.

It remembers everything for ever, where fleetbus forgets after a window. So it also tells when forgetting was wrong.
"""

from typing import Any, Literal

from msgspec import Struct

from tests.chaos.history import Raw, body_of

Verdict = Literal["counts", "again", "void", "bad"]

#: What only the holder of the seat may say.
SEAT = frozenset(
    {
        *("event.seat.taken", "event.seat.tick", "event.command.rejected"),
        *("event.script.published", "event.script.retired"),
        *("event.node.offline", "event.node.online", "event.node.maintenance_set", "event.node.roles_set"),
        *("event.node.invited", "event.node.joined", "event.node.removed"),
        *("event.job.waiting", "event.job.queued", "event.batch.created", "event.job.cancel_requested"),
        *("event.job.expired", "event.job.lost"),
    }
)
HOLDERS_USER = "handlers"


class Fact(Struct, frozen=True, kw_only=True):
    """One record, judged. What the envelope does not have is ""; `seq` is 0 then."""

    offset: int
    verdict: Verdict
    id: str = ""
    type: str = ""
    user: str = ""
    cause: str = ""
    producer: str = ""
    seq: int = 0
    data: dict[str, Any] = {}

    @property
    def job(self) -> str:
        return str(self.data.get("job", ""))


class Referee:
    """Judges records in log order, each once."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.holder = ""
        self._ids: set[tuple[str, str]] = set()
        self._counts: set[tuple[str, str, int]] = set()

    def judge(self, raw: Raw) -> Fact:
        body = body_of(raw)
        if body is None or not isinstance(body.get("id"), str) or not isinstance(body.get("type"), str):
            return Fact(offset=raw.offset, verdict="bad", user=raw.user)
        return Fact(
            offset=raw.offset,
            verdict=self._verdict(raw.user, body),
            id=body["id"],
            type=body["type"],
            user=raw.user,
            cause=body.get("causationid") or "",
            producer=body.get("producer") or "",
            seq=body.get("seq") or 0,
            data=body.get("data") or {},
        )

    def _verdict(self, user: str, body: dict[str, Any]) -> Verdict:
        if user.startswith("node."):
            return self._of_agent(user, body)
        if (user, body["id"]) in self._ids:
            return "again"
        if body["type"] in SEAT and not self._may(user, body):
            return "void"
        self._ids.add((user, body["id"]))
        return "counts"

    def _of_agent(self, user: str, body: dict[str, Any]) -> Verdict:
        producer, seq = body.get("producer"), body.get("seq")
        if not producer or not seq or body["type"] in SEAT:
            return "bad"
        if (user, producer, seq) in self._counts:
            return "again"
        self._counts.add((user, producer, seq))
        return "counts"

    def _may(self, user: str, body: dict[str, Any]) -> bool:
        if user != HOLDERS_USER:
            return False
        if body["type"] == "event.seat.taken":
            if body["data"].get("previous") != self.token:
                return False
            self.token, self.holder = body["id"], body["data"]["holder"]
            return True
        return body.get("seattoken") is not None and body["seattoken"] == self.token


def judge(records: list[Raw]) -> list[Fact]:
    referee = Referee()
    return [referee.judge(raw) for raw in records]
