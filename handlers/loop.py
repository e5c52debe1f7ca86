"""The handlers: one process at a time holds the seat, decides what commands come to, and delivers what was admitted.

Boot (snapshot, or the whole log) → stand by (follow the log, wait for the seat) → take it (`event.seat.taken`, valid
when read back) → lead (decide, deliver, look after time) → stop, or `SeatLost`.

The order inside one turn matters: what was read back is folded first, then delivered, then new commands are decided
on top of it and of what this process said but has not read back yet. A fact is delivered only when it was read back
and admitted, so that a process that lost the seat without knowing can only repeat what is true. On any doubt (a
publish that is not confirmed, another's valid token, a lost connection) the process exits; nothing is sent again from
memory, the next holder decides the same from the log.
"""

import contextlib
import heapq
import os
import socket
import threading
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from bus.admission import AdmissionState, Admitted, admit, check
from bus.checkpoint import Checkpoint, after, log_id, resume
from bus.clock import Clock, new_id
from bus.errors import BusError, Closed, LogDiverged, SeatLost, Unreachable
from bus.genesis import first_record
from bus.ports import Bus, Message, Reader, Record
from bus.progress import Progress
from events.codec import BadEvent, encode
from events.delivery import encode_delivery
from events.envelope import Event
from events.node import NodeDisconnected
from events.routing import routing_key
from events.seat import SeatTaken, SeatTick
from events.telemetry import Canary, Heartbeat
from handlers import nodes, snapshot
from handlers.decider import decide, due, evolve, fact_id, overdue, rejected
from handlers.deliveries import Parcel, parcels, resend
from handlers.fleet import Fact, Fleet, Rejection
from handlers.presence import CANARY_EVERY, Presence

log = structlog.get_logger()

SEAT = "fleet"
SOURCE = "fleetbus/handlers"
#: Log time moves on at least this often.
TICK_AFTER = timedelta(seconds=30)
#: Seconds between two looks at deadlines and presence.
LOOK_EVERY = 1.0
#: Seconds that a turn waits for records.
TURN = 0.25
#: Facts said and not read back yet; beyond it nothing new is decided until the log has caught up. They are folded anew
#: in every turn, so this must stay below the records of a turn.
MAX_AHEAD = 500
#: Records read in one turn.
TURN_RECORDS = 1_000
#: Records, or seconds with at least one record, after which a snapshot is written.
SNAPSHOT_RECORDS = 20_000
SNAPSHOT_SECONDS = 60.0
#: Seconds within which the own `event.seat.taken` must be read back.
TAKE_WITHIN = 30.0


class Said(Struct):
    """A fact of ours that was not read back yet."""

    event: Event
    #: Monotonic seconds.
    at: float


class Handlers:
    """One process of the handlers. `run` returns when `stop` is set, and raises when this process must end."""

    def __init__(self, bus: Bus, clock: Clock, snapshots: Path | None = None, progress: Progress | None = None) -> None:
        self._bus = bus
        self._clock = clock
        self._progress = progress or Progress("handlers", clock)
        self._path = snapshots
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._presence = Presence()
        self._state = AdmissionState()
        self._fleet = Fleet()
        self._checkpoint: Checkpoint | None = None
        self._token: str | None = None
        self._said: dict[str, Said] = {}
        self._ahead = Fleet()
        #: What was read back since `_ahead` was folded.
        self._behind = False
        #: Why this process must end: something that it said was not confirmed.
        self._doubt = ""
        self._looked = 0.0
        self._last_fact: datetime | None = None
        self._since_snapshot = 0
        self._snapshot_at = clock.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Raises `SeatLost` when the right to decide is gone, `bus.errors.Unreachable` when there is no engine."""
        seat = self._bus.seat(SEAT)
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(self._boot())
            self._progress.at(self._state.next_offset)
            log.info("standing by", action="handlers.standby", offset=self._state.next_offset)
            while not stop.is_set() and not seat.acquire(timeout=TURN):
                self._follow(reader)
            stack.callback(seat.release)
            if stop.is_set():
                return
            self._take(reader, stop)
            ears = threading.Thread(target=self._listen, args=(stop,), name="presence", daemon=True)
            ears.start()
            while not stop.is_set():
                if not seat.held:
                    raise SeatLost("the seat's connection or lease is gone")
                self._turn(reader)
            self._write_snapshot()

    # boot

    def _boot(self) -> Reader:
        """A reader behind the state: the snapshot's when it belongs to this log, else everything from the start."""
        saved = snapshot.load(self._path) if self._path else None
        if saved is not None:
            try:
                reader = resume(self._bus.stream("log"), saved.checkpoint)
            except LogDiverged as error:
                log.error("log diverged", action="handlers.diverged", error=str(error), remedy="folding it anew")
            else:
                self._state, self._fleet = snapshot.restore(saved.admission), saved.fleet
                self._checkpoint = saved.checkpoint
                return reader
        return self._bus.stream("log").read_from("first")

    def _follow(self, reader: Reader) -> None:
        """Reads on without deciding, as far as there is something to read."""
        while records := reader.read(timeout=0):
            for record in records:
                self._fold(record)
            self._note(records)

    def _fold(self, record: Record) -> Event | None:
        """The event, if it counts; then the state reflects it."""
        verdict = admit(self._state, record)
        if not isinstance(verdict, Admitted):
            return None
        try:
            self._fleet = evolve(self._fleet, verdict.event, record.offset)
        except Exception:
            # Every reader fails on it in the same way, so passing over it keeps them equal; stopping would stop all.
            log.exception("an event could not be folded", action="handlers.unfolded", offset=record.offset)
        return verdict.event

    def _note(self, records: list[Record]) -> None:
        if self._checkpoint is None:
            first = self._bus.stream("log").first()
            if first is None:
                raise LogDiverged("the log was emptied while it was read")
            self._checkpoint = Checkpoint(log=log_id(first))
        self._checkpoint = after(self._checkpoint.log, records[-1])
        self._progress.at(self._state.next_offset)
        self._since_snapshot += len(records)
        due_by_time = self._clock.monotonic() - self._snapshot_at > SNAPSHOT_SECONDS
        if self._since_snapshot >= SNAPSHOT_RECORDS or due_by_time:
            self._write_snapshot()

    def _write_snapshot(self) -> None:
        if self._path is None or self._checkpoint is None or not self._since_snapshot:
            return
        try:
            snapshot.save(self._path, snapshot.capture(self._checkpoint, self._state, self._fleet))
        except OSError as error:
            log.warning("snapshot not written", action="handlers.snapshot", error=str(error))
        self._since_snapshot = 0
        self._snapshot_at = self._clock.monotonic()

    # taking the seat

    def _take(self, reader: Reader, stop: threading.Event) -> None:
        """Says `event.seat.taken` until one of ours is valid: until then another may have been faster."""
        self._begin_log()
        deadline = self._clock.monotonic() + TAKE_WITHIN
        while not stop.is_set():
            self._follow(reader)
            taken = self._seat_taken()
            self._publish(taken).result(TAKE_WITHIN)
            if self._reads_back(reader, taken.id, deadline):
                break
        self._token = self._state.token
        self._ahead = self._fleet
        self._last_fact = self._clock.now()
        self._deliver(list(resend(self._fleet, self._state.next_offset)))
        log.info("seat taken", action="handlers.taken", token=self._token, open_commands=len(self._fleet.open_commands))

    def _begin_log(self) -> None:
        if self._bus.stream("log").first() is None:
            self._bus.publish(first_record(self._holder, self._clock.now(), new_id())).result(TAKE_WITHIN)

    def _seat_taken(self) -> Event:
        id = new_id()
        data = SeatTaken(seat=SEAT, previous=self._state.token, holder=self._holder)
        return self._event("event.seat.taken", SEAT, data, id=id, causation=None, story=None)

    def _reads_back(self, reader: Reader, token: str, deadline: float) -> bool:
        """True when our taking was valid, False when it was void because somebody else's came first."""
        while self._clock.monotonic() < deadline:
            for record in reader.read(limit=1, timeout=1.0):
                mine = record.body.find(token.encode()) >= 0
                self._fold(record)
                self._note([record])
                if self._state.token == token:
                    return True
                if mine:
                    return False
        raise Unreachable(f"the own event.seat.taken was not read back within {TAKE_WITHIN:.0f} seconds")

    # leading

    def _turn(self, reader: Reader) -> None:
        """Read back → fold → deliver → decide → look after time."""
        parcels_ = self._read_back(reader.read(limit=TURN_RECORDS, timeout=TURN if not self._said else 0.02))
        self._deliver(parcels_)
        self._check_confirmed()
        if len(self._said) < MAX_AHEAD and self._may_decide():
            self._decide()
        self._look()

    def _read_back(self, records: list[Record]) -> list[Parcel]:
        found: list[Parcel] = []
        for record in records:
            event = self._fold(record)
            if self._state.token != self._token:
                raise SeatLost(f"{self._state.holder} took the seat at offset {record.offset}")
            if event is not None:
                if said := self._said.pop(event.id, None):
                    self._progress.came_round(self._clock.monotonic() - said.at)
                if isinstance(event.data, NodeDisconnected):
                    self._presence.leave(event.data.node, event.data.boot)
                found += parcels(self._fleet, event, record.offset)
        if records:
            self._behind = True
            self._note(records)
        return found

    def _deliver(self, found: list[Parcel]) -> None:
        """Sends without waiting. What no inbox takes is sent again when its agent connects."""
        for key, delivery in found:
            self._watch("a delivery", self._bus.deliver(key, encode_delivery(delivery)))

    def _watch(self, what: str, confirmed: Future[Any]) -> None:
        """Remembers, whichever thread learns of it, that `what` was not confirmed."""

        def hear(future: Future[Any]) -> None:
            if (error := future.exception()) is not None:
                self._doubt = self._doubt or f"{what} was not confirmed: {error}"

        confirmed.add_done_callback(hear)

    def _check_confirmed(self) -> None:
        """Any doubt about what was said ends this process."""
        if self._doubt:
            raise SeatLost(self._doubt)

    def _may_decide(self) -> bool:
        """Whether there can be anything to decide: only then is it worth it to fold what was said once more."""
        fleet = self._fleet
        if fleet.waiting or fleet.to_retry or fleet.batches:
            return True
        answered = {said.event.causationid for said in self._said.values()}
        return any(id not in answered for id in fleet.open_commands)

    def _refold(self) -> None:
        """For deciding: what was read back, and on top what was said since."""
        if not self._behind:
            return
        self._behind, self._ahead = False, self._fleet
        for said in self._said.values():
            self._ahead = evolve(self._ahead, said.event)

    def _decide(self) -> None:
        self._refold()
        room = MAX_AHEAD - len(self._said)
        waiting = heapq.nsmallest(room, self._ahead.open_commands.values(), key=lambda command: command.offset)
        for command in waiting:
            self._answer(command.event)
        news = True
        while news:
            news = False
            for fact in due(self._ahead, self._clock.now()):
                news |= self._say(fact)

    def _answer(self, command: Event) -> None:
        """One outcome for one command, whatever happens: a command that cannot be decided must not stop the others."""
        now = self._clock.now()
        try:
            self._say(decide(self._ahead, command, now))
        except BadEvent as error:
            self._say(rejected(command, Rejection(reason="too_large", message=f"its outcome would not fit: {error}")))
        except Exception:
            log.exception("a command could not be decided", action="handlers.failed", command=command.id)
            why = Rejection(reason="internal_error", message="the decider failed on it; the handlers' log says why")
            self._say(rejected(command, why))

    def _look(self) -> None:
        """Once a second: deadlines, presence, log time."""
        monotonic = self._clock.monotonic()
        if monotonic - self._looked < LOOK_EVERY:
            return
        self._looked = monotonic
        self._refold()
        now = self._clock.now()
        for fact in [*self._presence_facts(monotonic), *overdue(self._ahead, now, self._presence.known(monotonic))]:
            self._say(fact)
        if self._last_fact is None or now - self._last_fact >= TICK_AFTER:
            token = self._token or ""
            self._say(Fact(type="event.seat.tick", subject=SEAT, data=SeatTick(), cause=token, part=now.isoformat()))

    def _presence_facts(self, monotonic: float) -> list[Fact]:
        online = [node.id for node in self._ahead.nodes.values() if node.online]
        offline = [node.id for node in self._ahead.nodes.values() if not node.online and not node.removed]
        silent = self._presence.silent(online, monotonic)
        return nodes.presence(self._ahead, silent, self._presence.heard(offline, monotonic))

    def _say(self, fact: Fact) -> bool:
        """Publishes a fact and decides on with it. False when it was said already. Raises `BadEvent` if too large."""
        event = self._event(
            fact.type, fact.subject, fact.data, id=fact_id(fact), causation=fact.cause, story=fact.story
        )
        if event.id in self._said:
            return False
        confirmed = self._publish(event)
        self._watch(event.type, confirmed)
        self._said[event.id] = Said(event, self._clock.monotonic())
        self._ahead = evolve(self._ahead, event)
        self._last_fact = event.time
        return True

    def _event(
        self, type: str, subject: str, data: Struct, *, id: str, causation: str | None, story: str | None
    ) -> Event:
        return Event(
            id=id,
            source=SOURCE,
            type=type,
            subject=subject,
            time=self._clock.now(),
            actor="system:fleet",
            data=data,
            correlationid=story,
            causationid=causation,
            seattoken=self._token,
        )

    def _publish(self, event: Event) -> Future[None]:
        return self._bus.publish(Message(key=routing_key(event), body=encode(event), id=event.id, type=event.type))

    # the telemetry thread: who is there

    def _listen(self, stop: threading.Event) -> None:
        """Hears heartbeats and the own canary. When it fails, nobody is known to be there, and nobody is given up."""
        with self._bus.stream("telemetry").read_from("next") as reader, contextlib.suppress(Closed):
            beat, sung = 0, 0.0
            while not stop.is_set():
                if self._clock.monotonic() - sung >= CANARY_EVERY:
                    beat, sung = beat + 1, self._clock.monotonic()
                    self._sing(beat)
                for record in reader.read(limit=1000, timeout=0.5):
                    self._hear(record)

    def _sing(self, beat: int) -> None:
        data = Canary(holder=self._holder, beat=beat)
        with contextlib.suppress(BusError):
            self._publish(self._event("telemetry.canary", "canary", data, id=new_id(), causation=None, story=None))

    def _hear(self, record: Record) -> None:
        try:
            data = check(record).data
        except BadEvent:
            return
        if isinstance(data, Heartbeat):
            self._presence.hear(data.node, data.boot, self._clock.monotonic())
        elif isinstance(data, Canary) and data.holder == self._holder:
            self._presence.hear_canary(self._clock.monotonic())


def run_handlers(
    bus: Bus, clock: Clock, snapshots: Path | None, stop: threading.Event, progress: Progress | None = None
) -> None:
    """Runs until `stop` is set. Raises `SeatLost` or another `bus.errors.BusError` when this process must end."""
    try:
        Handlers(bus, clock, snapshots, progress).run(stop)
    except msgspec.ValidationError as error:
        raise SeatLost(f"a fact of ours does not fit its type: {error}") from error
