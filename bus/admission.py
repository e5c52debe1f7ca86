"""Admission: which records of the log count. The log is its own referee.

RabbitMQ gives at-least-once and no conditional append, so every reader applies `admit` to every record, in log order,
and all of them come to the same answer. Three rules:

1. Parse. What does not parse, does not fit its schema or key, or claims an actor that its user may not be, is bad.
2. Once. An agent's fact counts once per (user, producer, seq); everything else once per (user, id) within ten
   minutes of log time. The user is part of both keys so that nobody can use up another's ids.
3. Seat. A type that only a decider may say is void without the holder's token.

The state belongs to one reader; `admit` changes it and nothing else. The constants are part of the rule: all readers
must forget at the same record. Whoever changes one, or a rule, raises `VERSION`.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice

from msgspec import Struct

from bus.ports import Record
from events import codec
from events.actors import ARCHIVER, HANDLERS, may_be
from events.envelope import Event
from events.registry import NODE_TYPES, SEAT_TYPES, TYPES, Voice, service_of
from events.routing import key_for
from events.seat import SeatTaken

#: Of the rules and constants below. A checkpoint made by another version is rebuilt.
VERSION = 1

#: An id seen within this much log time is a duplicate. Senders re-send for at most 60 seconds.
ID_WINDOW = timedelta(minutes=10)
#: Open intervals that are remembered per producer; beyond it the lowest is given up (its seqs count as seen).
MAX_INTERVALS = 1_000
#: A producer that was not seen for this many offsets is forgotten.
FORGET_PRODUCER_AFTER = 10_000_000


class Admitted(Struct, frozen=True):
    """The record counts."""

    event: Event


class Duplicate(Struct, frozen=True):
    """Said before; changes nothing."""

    event: Event


class Void(Struct, frozen=True):
    """Only the holder of the seat may say this, and its token is not there."""

    event: Event
    reason: str


class Bad(Struct, frozen=True):
    """Not an event of ours, or not from whom it says."""

    reason: str


Verdict = Admitted | Duplicate | Void | Bad


class Producer(Struct):
    """What was heard of one agent start: the highest seq, the intervals below it that were not, the last offset."""

    high: int = 0
    gaps: list[tuple[int, int]] = []
    offset: int = 0

    def use(self, seq: int) -> bool:
        """Marks `seq` as heard. False when it was heard before."""
        if seq > self.high:
            if seq > self.high + 1:
                self.gaps.append((self.high + 1, seq - 1))
                del self.gaps[:-MAX_INTERVALS]
            self.high = seq
            return True
        for at, (low, top) in enumerate(self.gaps):
            if low <= seq <= top:
                rest = [(low, seq - 1), (seq + 1, top)]
                self.gaps[at : at + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                del self.gaps[:-MAX_INTERVALS]
                return True
        return False

    def copy(self) -> "Producer":
        return Producer(self.high, list(self.gaps), self.offset)


class Seen(Struct, frozen=True, array_like=True, gc=False):
    """One id in the window, and the log time at which it came."""

    key: str
    at: datetime | None


class Head(Struct, frozen=True, kw_only=True):
    """What an `AdmissionState` knows apart from producers and ids: small, and saved whole."""

    next_offset: int = 0
    token: str | None = None
    holder: str = ""
    log_time: datetime | None = None
    began: datetime | None = None


class Changes(Struct, frozen=True, kw_only=True):
    """What `admit` changed of producers and ids between two calls of `take_changes`."""

    #: None: the producer was forgotten.
    producers: dict[str, Producer | None]
    seen: list[Seen]


class AdmissionState:
    """What a reader knows of the log so far. `admit` is the only one that changes it.

    A reader that saves its state writes `head()` and what `take_changes()` gives, each time after some records, and
    later has it back from `restore`.
    """

    def __init__(self) -> None:
        self.producers: OrderedDict[str, Producer] = OrderedDict()
        self.window: deque[Seen] = deque()
        self.ids: set[str] = set()
        #: The id of the last valid `event.seat.taken`, and who holds the seat by it.
        self.token: str | None = None
        self.holder: str = ""
        #: The highest time of any fact with a valid token.
        self.log_time: datetime | None = None
        #: The first log time: what came before it is as old as it.
        self.began: datetime | None = None
        self.next_offset = 0
        #: Since the last `take_changes`: producers that were heard or forgotten, and how many ids were remembered.
        self.touched: set[str] = set()
        self.remembered = 0

    @classmethod
    def restore(cls, head: Head, producers: Mapping[str, Producer], seen: Iterable[Seen]) -> "AdmissionState":
        """The state that was saved. What is given may be in any order, twice, or forgotten by the time of `head`. It is
        copied: whoever saved it may save it again, as it was.
        """
        state = cls()
        state.next_offset, state.token, state.holder = head.next_offset, head.token, head.holder
        state.log_time, state.began = head.log_time, head.began
        in_order = sorted(producers.items(), key=lambda item: item[1].offset)
        state.producers.update((key, producer.copy()) for key, producer in in_order)
        if state.producers:
            state._forget_producers(next(reversed(state.producers.values())).offset - FORGET_PRODUCER_AFTER)
        forgotten = None if state.log_time is None else state.log_time - ID_WINDOW
        for one in sorted(seen, key=state._since):
            if one.key not in state.ids and (forgotten is None or state._since(one) >= forgotten):
                state.remember(one)
        state.take_changes()
        return state

    def head(self) -> Head:
        return Head(
            next_offset=self.next_offset,
            token=self.token,
            holder=self.holder,
            log_time=self.log_time,
            began=self.began,
        )

    def take_changes(self) -> Changes:
        """What changed since the last call. Ids that were forgotten meanwhile are left out."""
        new = min(self.remembered, len(self.window))
        seen = list(islice(reversed(self.window), new))[::-1]
        producers = {key: self._copy(key) for key in self.touched}
        self.touched, self.remembered = set(), 0
        return Changes(producers=producers, seen=seen)

    def _copy(self, key: str) -> Producer | None:
        producer = self.producers.get(key)
        return None if producer is None else producer.copy()

    def remember(self, seen: Seen) -> None:
        self.window.append(seen)
        self.ids.add(seen.key)
        self.remembered += 1

    def advance(self, time: datetime) -> None:
        if self.log_time is None:
            self.began = time
        if self.log_time is None or time > self.log_time:
            self.log_time = time
            self._forget_ids(time - ID_WINDOW)

    def _forget_ids(self, before: datetime) -> None:
        while self.window and self._since(self.window[0]) < before:
            self.ids.discard(self.window.popleft().key)

    def _since(self, seen: Seen) -> datetime:
        """When an id came; what came before the first log time is as old as it."""
        return seen.at or self.began or datetime.min.replace(tzinfo=UTC)

    def use(self, user: str, producer: str, seq: int, offset: int) -> bool:
        """Marks a producer's seq as heard at `offset`. False when it was heard before."""
        key = f"{user}/{producer}"
        entry = self.producers.get(key)
        if entry is None:
            entry = self.producers[key] = Producer(gaps=[])
        else:
            self.producers.move_to_end(key)
        entry.offset = offset
        self.touched.add(key)
        if offset > FORGET_PRODUCER_AFTER:
            self._forget_producers(offset - FORGET_PRODUCER_AFTER)
        return entry.use(seq)

    def _forget_producers(self, before: int) -> None:
        while self.producers:
            oldest = next(iter(self.producers))
            if self.producers[oldest].offset >= before:
                return
            del self.producers[oldest]
            self.touched.add(oldest)

    def gaps(self) -> Iterable[tuple[str, int, int]]:
        """Every open interval: (user/producer, first seq, last seq). A retry fills it, or the audit reports it."""
        for key, producer in self.producers.items():
            for low, top in producer.gaps:
                yield key, low, top


def admit(state: AdmissionState, record: Record) -> Verdict:
    """The verdict on the next record of the log. Records come in log order, each once."""
    state.next_offset = record.next_offset
    try:
        event = check(record)
    except codec.BadEvent as error:
        _use_up(state, record)
        return Bad(str(error))
    if record.user is not None and record.user.startswith("node."):
        return _admit_from_agent(state, record, record.user, event)
    key = f"{record.user}/{event.id}"
    if key in state.ids:
        return Duplicate(event)
    if event.type in SEAT_TYPES:
        void = _void(state, record, event)
        if void is not None:
            return void
        state.advance(event.time)
    state.remember(Seen(key, state.log_time))
    return Admitted(event)


def check(record: Record) -> Event:
    """Rule 1: the event in a record, said by whom it says. Telemetry is read by it, too. Raises `BadEvent`."""
    event = codec.decode(record.body, record.key)
    if record.user is None:
        raise codec.BadEvent("the broker does not say who published it (no user_id)")
    complaint = _complaint(event.type, event.actor, record.key, record.user)
    if complaint is None and event.type in NODE_TYPES and event.actor != f"node:{event.data.node}":
        complaint = f"{event.type} about node {event.data.node} is for its agent to say, not for {event.actor}"
    if complaint is not None:
        raise codec.BadEvent(complaint)
    return event


@lru_cache(maxsize=50_000)
def _complaint(  # noqa: PLR0911 - one rule after the other
    event_type: str, actor: str, routing_key: str, user: str
) -> str | None:
    """Why `user` may not say an event of this type as `actor` under this key, whatever is in it; None if it may."""
    key = key_for(event_type, actor)
    if routing_key not in (key, f"{event_type}.{user}"):
        return f"the routing key is {routing_key!r}; for this type and actor it is {key!r}"
    if not may_be(user, actor, routing_key):
        return f"the user {user!r} may not speak as {actor!r}"
    if event_type.startswith("command.") and user.startswith("node."):
        return "agents do not give commands; people and services do"
    definition = TYPES.get(event_type)
    if definition is None:
        service = service_of(event_type)
        if actor.startswith("service:") and actor != f"service:{service}":
            return f"{event_type} belongs to service:{service}, not to {actor}"
        if actor.startswith("node:"):
            return f"{event_type} belongs to service:{service}, not to an agent"
    elif definition.voice is Voice.ARCHIVER and user != ARCHIVER:
        return f"{event_type} is for the archiver to say, not for {user}"
    elif event_type == "event.log.created" and user != HANDLERS:
        return "only handlers begin a log"
    return None


def _admit_from_agent(state: AdmissionState, record: Record, user: str, event: Event) -> Verdict:
    if event.producer is None or event.seq is None:
        return Bad("what comes from an agent carries producer and seq")
    if not state.use(user, event.producer, event.seq, record.offset):
        return Duplicate(event)
    return (event.type in SEAT_TYPES and _void(state, record, event)) or Admitted(event)


def _use_up(state: AdmissionState, record: Record) -> None:
    """A bad record of an agent still has its place in the agent's count, else it would look like a loss."""
    if record.user is None or not record.user.startswith("node."):
        return
    origin = codec.origin(record.body)
    if origin is not None:
        state.use(record.user, origin.producer, origin.seq, record.offset)


def _void(state: AdmissionState, record: Record, event: Event) -> Void | None:
    """Rule 3, of a type that only the holder of the seat may say.

    Taking the seat is a compare-and-set by the log: `previous` must name the token of that moment.
    """
    if record.user != HANDLERS:
        return Void(event, f"{event.type} is for the holder of the seat to say, not for {record.user}")
    if isinstance(event.data, SeatTaken):
        if event.data.previous != state.token:
            return Void(event, f"it follows seat token {event.data.previous}, but the token was {state.token}")
        state.token, state.holder = event.id, event.data.holder
        return None
    if event.seattoken is None or event.seattoken != state.token:
        return Void(event, f"its seat token {event.seattoken} is not the holder's {state.token}")
    return None
