"""From events to bytes and back. The one place where JSON is read.

`decode` checks everything that can be checked on one event alone: JSON, envelope, type, payload. Who may say it, and
whether it was said before, is `bus.admission`'s.

Every reader decodes every record, so events as we write them ourselves, which are nearly all, are read in one go with
their data, and names that were found to fit are not looked at again. What that way does not take, for whatever reason,
is read step by step, and only there anything is called bad.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from events.envelope import MAX_BODY_BYTES, Event
from events.names import ACTOR_PATTERN, UUID_PATTERN, Actor, EventType, Id
from events.registry import TYPES, Definition, schema_id, service_of
from events.upcast import lift


class BadEvent(Exception):
    """Bytes that are no event of ours; the message says what was wrong and where."""


class _Wire(Struct, frozen=True, kw_only=True):
    """`Event` as it is read: `data` stays raw until its type is known."""

    id: Id
    source: Annotated[str, Meta(min_length=1, max_length=200)]
    type: EventType
    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    time: Annotated[datetime, Meta(tz=True)]
    actor: Actor
    data: Raw
    specversion: Literal["1.0"]
    dataschema: Annotated[str, Meta(max_length=300)] = ""
    correlationid: Id | None = None
    causationid: Id | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    seattoken: Id | None = None
    producer: Id | None = None
    seq: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    datacontenttype: Literal["application/json"] = "application/json"


Kind = TypeVar("Kind")
Schema = TypeVar("Schema")
Data = TypeVar("Data")


class _Known(Struct, Generic[Kind, Schema, Data], frozen=True, kw_only=True):
    """`Event` as it is read when its type and schema are known beforehand. `_fits` checks ids and actor."""

    id: str
    source: Annotated[str, Meta(min_length=1, max_length=200)]
    type: Kind
    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    time: Annotated[datetime, Meta(tz=True)]
    actor: str
    data: Data
    specversion: Literal["1.0"]
    dataschema: Schema
    correlationid: str | None = None
    causationid: str | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    seattoken: str | None = None
    producer: str | None = None
    seq: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    datacontenttype: Literal["application/json"] = "application/json"


class Origin(Struct, frozen=True):
    """What can be read of a bad record, so that its place in the producer's count is used up."""

    producer: Id
    seq: Annotated[int, Meta(ge=1, le=2**53)]


class _Head(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`Event` as it is written: the attributes that every event has come even at their default."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str
    dataschema: str
    actor: str
    data: Any
    correlationid: str | None = None
    causationid: str | None = None
    expires: datetime | None = None
    seattoken: str | None = None
    producer: str | None = None
    seq: int | None = None


_encoder = msgspec.json.Encoder()
_wire = msgspec.json.Decoder(_Wire)
_origin = msgspec.json.Decoder(Origin)
_any_object = msgspec.json.Decoder(dict[str, Any])
_payloads = {name: msgspec.json.Decoder(definition.payload) for name, definition in TYPES.items()}
_Read = Callable[[bytes], _Known[str, str, Any]]


def _reader(name: str, definition: Definition) -> _Read:
    """What reads an event of this type, of today's schema, in one go; it refuses every other."""
    schema = schema_id(name, definition.version)
    return msgspec.json.Decoder(
        _Known[Literal[name], Literal[schema], definition.payload]  # type: ignore[valid-type,name-defined]
    ).decode


#: By today's `dataschema` of a type, and by routing keys that were met, which begin with the type.
_known: dict[bytes, _Read] = {
    schema_id(name, definition.version).encode(): _reader(name, definition) for name, definition in TYPES.items()
}
_met: dict[str, _Read] = {}
_SCHEMA = b'"dataschema":"'
_is_id = re.compile(UUID_PATTERN).search
_is_actor = re.compile(ACTOR_PATTERN).search
#: Ids of others than the event itself, and actors, that were found to fit; forgotten when there are too many.
_REMEMBERED = 50_000
_ids: set[str] = set()
_actors: set[str] = set()


def encode(event: Event) -> bytes:
    """One event as structured JSON, with its `dataschema` filled in. Raises `BadEvent` when it is too large."""
    definition = TYPES.get(event.type)
    schema = event.dataschema or (schema_id(event.type, definition.version) if definition else "")
    head = _Head(
        specversion=event.specversion,
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        datacontenttype=event.datacontenttype,
        dataschema=schema or f"urn:fleetbus:service:{event.type}",
        actor=event.actor,
        data=event.data,
        correlationid=event.correlationid,
        causationid=event.causationid,
        expires=event.expires,
        seattoken=event.seattoken,
        producer=event.producer,
        seq=event.seq,
    )
    body = _encoder.encode(head)
    if len(body) > MAX_BODY_BYTES:
        raise BadEvent(f"{event.type} is {len(body):,} bytes; at most {MAX_BODY_BYTES:,} fit into one event")
    return body


def decode(body: bytes, key: str = "") -> Event:
    """The event in `body`, its data typed and in today's shape. Raises `BadEvent`.

    `key` is the routing key, if it is known: it says of which type the event will be, but has no say in the result.
    """
    if len(body) > MAX_BODY_BYTES:
        raise BadEvent(f"the body is {len(body):,} bytes; at most {MAX_BODY_BYTES:,} are read")
    wire = _read_known(body, key)
    return decode_any(body) if wire is None else _event(wire, wire.data)


def _read_known(body: bytes, key: str) -> _Known[str, str, Any] | None:
    """The event in one go; None when it is not as we write it."""
    read = _met.get(key) or _find_reader(body, key)
    if read is None:
        return None
    try:
        wire = read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return wire if _fits(wire) else None


def _find_reader(body: bytes, key: str) -> _Read | None:
    """By the first `dataschema` in the body, which may be anybody's word."""
    begin = body.find(_SCHEMA) + len(_SCHEMA)
    schema = body[begin : body.find(b'"', begin)]
    read = _known.get(schema)
    if read is not None and key.startswith(schema.decode().split(":")[2]):
        if len(_met) >= _REMEMBERED:
            _met.clear()
        _met[key] = read
    return read


def _fits(wire: _Known[str, str, Any]) -> bool:
    """Whether its ids are ids, and its actor an actor."""
    if _is_id(wire.id) is None or not (wire.actor in _actors or _is_new_actor(wire.actor)):
        return False
    story, cause, token, producer = wire.correlationid, wire.causationid, wire.seattoken, wire.producer
    return (
        (story is None or story in _ids or _is_new_id(story))
        and (cause is None or cause in _ids or _is_new_id(cause))
        and (token is None or token in _ids or _is_new_id(token))
        and (producer is None or producer in _ids or _is_new_id(producer))
    )


def _is_new_id(id: str) -> bool:
    """Whether it is an id; it is remembered."""
    return _is_id(id) is not None and _remember(_ids, id)


def _is_new_actor(actor: str) -> bool:
    return _is_actor(actor) is not None and _remember(_actors, actor)


def _remember(fitting: set[str], text: str) -> bool:
    if len(fitting) >= _REMEMBERED:
        fitting.clear()
    fitting.add(text)
    return True


def decode_any(body: bytes) -> Event:
    """As `decode`, step by step. Raises `BadEvent`."""
    try:
        wire = _wire.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvent(f"not a CloudEvents 1.0 record of fleetbus: {error}") from None
    return _event(wire, decode_data(wire.type, wire.dataschema, wire.data))


def _event(wire: _Wire | _Known[str, str, Any], data: Any) -> Event:
    return Event(
        id=wire.id,
        source=wire.source,
        type=wire.type,
        subject=wire.subject,
        time=wire.time,
        actor=wire.actor,
        data=data,
        dataschema=wire.dataschema,
        correlationid=wire.correlationid,
        causationid=wire.causationid,
        expires=wire.expires,
        seattoken=wire.seattoken,
        producer=wire.producer,
        seq=wire.seq,
    )


def decode_data(event_type: str, dataschema: str, data: bytes | Raw) -> Any:
    """The payload of a type, lifted to today's version. Raises `BadEvent`."""
    definition = TYPES.get(event_type)
    try:
        if definition is None:
            if service_of(event_type) is None:
                raise BadEvent(f"{event_type!r} is not a type of fleetbus")
            return _any_object.decode(data)
        version = _version_of(event_type, dataschema, definition)
        if version < definition.version:
            lifted = lift(event_type, version, definition.version, _any_object.decode(data))
            return _payloads[event_type].decode(_encoder.encode(lifted))
        return _payloads[event_type].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BadEvent(f"the data does not fit {event_type}: {error}") from None


def _version_of(event_type: str, dataschema: str, definition: Definition) -> int:
    """The version that `dataschema` names; without one it is today's. A later version is read as today's."""
    if not dataschema:
        return definition.version
    prefix, _, version = dataschema.rpartition(":")
    if prefix != f"urn:fleetbus:{event_type}" or not version.isdigit() or int(version) < 1:
        wanted = schema_id(event_type, definition.version)
        raise BadEvent(f"dataschema {dataschema!r} does not belong to {event_type}; it would be {wanted!r}")
    return int(version)


def origin(body: bytes) -> Origin | None:
    """The producer and seq of a record that is bad otherwise, if they can be read."""
    if len(body) > 16 * MAX_BODY_BYTES:
        return None
    try:
        return _origin.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
