"""How the whole is: what the portal itself can see, and nothing that it only hopes."""

from datetime import datetime
from typing import Any

from portal import VERSION
from portal.api.shapes import Check, Health
from portal.hub import LogState
from portal.parts import Parts
from portal.views import Position
from projections.osis.errors import OsisError

#: Records that the views may be behind, and seconds that log time may be old, before it is called degraded.
#: The holder of the seat writes a tick when 30 seconds pass without another fact.
LAG_RECORDS = 1_000
LOG_TIME_SECONDS = 90.0

_ORDER = {"ok": 0, "degraded": 1, "failing": 2}


def look(parts: Parts) -> Health:
    """Asks everything; blocking."""
    state, now = parts.hub.state, parts.now()
    checks = [_bus(parts), _log(state), _seat(state, now)]
    position: Position | None = None
    try:
        position = parts.views.read_position()
        checks += [_documents(), _views(position, state), _set_aside(position)]
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
        views=_describe(position, state) if position else {},
        seat={"holder": state.holder, "token": state.token, "log_time_age": _age(state, now)},
    )


def _describe(position: Position, state: LogState) -> dict[str, Any]:
    return {
        "namespace": position.namespace,
        "log": position.log,
        "next_offset": position.next_offset,
        "lag": max(0, state.next_offset - position.next_offset),
        "time": position.time,
        "diverged": diverged(position, state),
        "set_aside": position.set_aside,
    }


def diverged(position: Position, state: LogState) -> str:
    """Why the views do not belong to the log that the portal reads; "" when they do, or while it is not read yet."""
    if position.log and state.log and position.log != state.log:
        return f"the views are of log {position.log}, this is log {state.log}"
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


def _seat(state: LogState, now: datetime) -> Check:
    age = _age(state, now)
    if not state.holder or age is None:
        return Check(name="seat", status="degraded", detail="nobody has taken the seat yet; start `fleetbus handlers`")
    if age > LOG_TIME_SECONDS:
        detail = f"{state.holder} took it, but nothing was decided for {age:.0f} s; is `fleetbus handlers` running?"
        return Check(name="seat", status="degraded", detail=detail)
    return Check(name="seat", status="ok", detail=f"held by {state.holder}")


def _documents() -> Check:
    return Check(name="documents", status="ok", detail="answer")


def _views(position: Position, state: LogState) -> Check:
    if why := diverged(position, state):
        return Check(name="views", status="failing", detail=f"log diverged: {why}")
    if not position.log:
        return Check(name="views", status="degraded", detail="there are none yet; start `fleetbus projections`")
    lag = state.next_offset - position.next_offset
    if lag > LAG_RECORDS:
        return Check(name="views", status="degraded", detail=f"{lag:,} records behind the log")
    return Check(name="views", status="ok", detail=f"at offset {position.next_offset:,}, {max(0, lag):,} behind")


def _set_aside(position: Position) -> Check:
    if position.set_aside:
        detail = f"{position.set_aside:,} events could not be folded and were passed over"
        return Check(name="folds", status="degraded", detail=detail)
    return Check(name="folds", status="ok", detail="no event was set aside")


def _ping(name: str, storage: Any) -> Check:
    try:
        storage.ping()
    except OsisError as error:
        return Check(name=name, status="degraded", detail=str(error))
    return Check(name=name, status="ok", detail="answers")
