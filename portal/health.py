"""How the whole is: what the portal itself can see, and nothing that it only hopes."""

from datetime import datetime
from typing import Any

from msgspec import to_builtins

from bus.broker import BrokerState
from bus.errors import BusError
from bus.rabbitmq.names import STREAMS
from portal import VERSION
from portal.api.shapes import Check, Health
from portal.hub import LogState
from portal.parts import Parts
from projections.freshness import ViewStatus
from projections.osis.errors import OsisError

#: Records that the views may be behind, and seconds that log time may be old, before it is called degraded.
#: The holder of the seat writes a tick when 30 seconds pass without another fact.
LAG_RECORDS = 1_000
LOG_TIME_SECONDS = 90.0
#: Who writes the views says something every few seconds.
RUNNER_SECONDS = 30.0

#: Seconds that a consumer may be behind its stream.
LAG_SECONDS = 30.0
#: Messages that may wait for the archive.
WAITING = 1_000_000

_ORDER = {"ok": 0, "degraded": 1, "failing": 2}


def look(parts: Parts) -> Health:
    """Asks everything; blocking."""
    state, now = parts.hub.state, parts.now()
    consumers = parts.consumers.rows()
    archived = any(one["name"] == "archiver" and not one["silent"] for one in consumers)
    broker, looked = _look_at_broker(parts, archived=archived)
    checks = [_bus(parts), _log(state), _beginning(parts), *looked, _seat(state, now), _progress(consumers)]
    checks.append(_gaps(state))
    status: ViewStatus | None = None
    try:
        status = parts.views.status()
        checks += [Check(name="documents", status="ok", detail="answer"), _views(status, state, now), _folds(status)]
    except OsisError as error:
        checks.append(Check(name="documents", status="failing", detail=str(error)))
    checks += [_ping("series", parts.series), _ping("live", parts.live)]
    return Health(
        status=max((check.status for check in checks), key=_ORDER.__getitem__),
        version=VERSION,
        checks=checks,
        bus={"connected": parts.bus.connected},
        log={
            "id": state.log,
            "next_offset": state.next_offset,
            "time": state.log_time,
            "not_admitted": {"bad": state.bad, "void": state.void, "duplicate": state.duplicate},
        },
        views=_describe(status, state) if status else {},
        seat={"holder": state.holder, "token": state.token, "log_time_age": _age(state, now)},
        consumers=consumers,
        broker={} if broker is None else to_builtins(broker),
        gaps=[_gap(*gap) for gap in state.gaps],
    )


def _describe(status: ViewStatus, state: LogState) -> dict[str, Any]:
    return {
        "generation": status.generation,
        "log": status.log,
        "next_offset": status.next_offset,
        "lag": max(0, state.next_offset - status.next_offset),
        "time": status.log_time,
        "written_at": status.at,
        "diverged": diverged(status, state),
        "set_aside": status.set_aside,
        "versions": status.views,
        "doing": status.doing,
        "why": status.why,
        "heard_at": status.heard_at,
    }


def diverged(status: ViewStatus, state: LogState) -> str:
    """Why the views do not belong to the log that the portal reads; "" when they do, or while it is not read yet."""
    if status.diverged:
        return status.diverged
    if status.log and state.log and status.log != state.log:
        return f"the views are of log {status.log}, this is log {state.log}"
    return ""


def _age(state: LogState, now: datetime) -> float | None:
    return None if state.log_time is None else round(max(0.0, (now - state.log_time).total_seconds()), 1)


def _bus(parts: Parts) -> Check:
    if parts.bus.connected:
        return Check(name="bus", status="ok", detail="connected")
    return Check(name="bus", status="failing", detail="not connected; commands cannot be sent")


def _log(state: LogState) -> Check:
    if not state.log:
        return Check(name="log", status="failing", detail="the log was not read yet")
    return Check(name="log", status="ok", detail=f"read to offset {state.next_offset:,}")


def _beginning(parts: Parts) -> Check:
    """Whether the log still begins where it began: what cut it may be gone, or hidden, by the time anybody asks."""
    try:
        first = parts.bus.stream("log").first() if parts.bus.connected else None
    except BusError as error:
        return Check(name="beginning", status="degraded", detail=f"cannot be read: {error}")
    if first is not None and first.offset > 0:
        detail = f"the log begins at offset {first.offset:,}: what came before was dropped, or is in an archive that "
        detail += "this portal does not know (FLEETBUS_ARCHIVE)"
        return Check(name="beginning", status="failing", detail=detail)
    return Check(name="beginning", status="ok", detail="the log is there from its first record on")


def _look_at_broker(parts: Parts, *, archived: bool) -> tuple[BrokerState | None, list[Check]]:
    if parts.broker is None:
        return None, []
    try:
        state = parts.broker.look()
    except BusError as error:
        return None, [Check(name="broker", status="degraded", detail=str(error))]
    return state, [_retention(state, archived=archived), _durability(state)]


def _retention(state: BrokerState, *, archived: bool) -> Check:
    """The log may be cut where an archiver is at work; blobs never."""
    found = "; ".join(f"{queue}: {why}" for queue, why in sorted(state.retention.items()))
    if archived and set(state.retention) == {STREAMS["log"]}:
        return Check(name="retention", status="ok", detail=f"{found}; the archiver keeps what is cut")
    if found:
        detail = f"{found}. Remove it, or what is cut is lost; for the log, an archiver would keep it"
        return Check(name="retention", status="degraded", detail=detail)
    return Check(name="retention", status="ok", detail="no policy and no argument cuts the log or the blobs")


def _durability(state: BrokerState) -> Check:
    if state.durability == "stream":
        detail = (
            "stream: a confirm means written by the stream; a power cut of its only broker can lose the last moments"
        )
        return Check(name="durability", status="ok", detail=detail)
    detail = f"fsync: a confirm means that the archive's queue has it on its disk, too ({state.waiting:,} wait there)"
    if state.waiting > WAITING:
        return Check(name="durability", status="degraded", detail=f"{detail}; nobody empties it, and it fills the disk")
    return Check(name="durability", status="ok", detail=detail)


def _progress(consumers: list[dict[str, Any]]) -> Check:
    """Lag and silence, as the consumers' canaries tell; that one stands still for good, its own process notices."""
    silent = [
        f"{one['name']} ({one['holder']}) was not heard for {one['heard']:.0f} s" for one in consumers if one["silent"]
    ]
    late = [
        f"{one['name']} ({one['holder']}) is {one['lag_seconds']:.0f} s and {one['lag_records']:,} records behind"
        for one in consumers
        if not one["silent"] and one["lag_seconds"] > LAG_SECONDS
    ]
    if silent or late:
        return Check(name="progress", status="degraded", detail="; ".join([*late, *silent]))
    return Check(name="progress", status="ok", detail=f"{len(consumers)} consumers are heard, none is late")


def _gaps(state: LogState) -> Check:
    if state.gaps:
        key, first, last = state.gaps[0]
        detail = f"agents counted what never came: {len(state.gaps)} gaps; {key} did not say {first} to {last}"
        return Check(name="gaps", status="degraded", detail=detail)
    return Check(name="gaps", status="ok", detail="nothing that agents counted is missing")


def _gap(key: str, first: int, last: int) -> dict[str, Any]:
    user, _, producer = key.partition("/")
    return {"user": user, "producer": producer, "first": first, "last": last}


def _seat(state: LogState, now: datetime) -> Check:
    age = _age(state, now)
    if not state.holder or age is None:
        return Check(name="seat", status="degraded", detail="nobody has taken the seat yet; start `fleetbus handlers`")
    if age > LOG_TIME_SECONDS:
        detail = f"{state.holder} took it, but nothing was decided for {age:.0f} s; is `fleetbus handlers` running?"
        return Check(name="seat", status="degraded", detail=detail)
    return Check(name="seat", status="ok", detail=f"held by {state.holder}")


def _views(status: ViewStatus, state: LogState, now: datetime) -> Check:
    if why := diverged(status, state):
        return Check(name="views", status="failing", detail=f"log diverged: {why}")
    silent = None if status.heard_at is None else (now - status.heard_at).total_seconds()
    if silent is None or silent > RUNNER_SECONDS:
        heard = (
            "nobody writes them yet" if silent is None else f"nothing was heard of who writes them for {silent:.0f} s"
        )
        return Check(name="views", status="degraded", detail=f"{heard}; start `fleetbus projections`")
    if not status.log:
        return Check(name="views", status="degraded", detail=status.why or "there are none yet; they are being made")
    lag = max(0, state.next_offset - status.next_offset)
    if lag > LAG_RECORDS:
        return Check(name="views", status="degraded", detail=f"{lag:,} records behind the log. {status.why}".strip())
    return Check(name="views", status="ok", detail=f"at offset {status.next_offset:,}, {lag:,} behind")


def _folds(status: ViewStatus) -> Check:
    if status.set_aside:
        detail = f"{status.set_aside:,} set aside, because a projection failed on an event; the health page names them"
        return Check(name="folds", status="degraded", detail=detail)
    return Check(name="folds", status="ok", detail="no document is set aside")


def _ping(name: str, storage: Any) -> Check:
    try:
        storage.ping()
    except OsisError as error:
        return Check(name=name, status="degraded", detail=str(error))
    return Check(name=name, status="ok", detail="answers")
