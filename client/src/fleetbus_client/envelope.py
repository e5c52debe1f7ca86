"""The envelope: CloudEvents 1.0 with fleetbus' extension attributes, checked before anything is sent.

Readers of the log take an event or call it bad; they do not answer. What can be checked here is therefore checked here.
"""

from __future__ import annotations

import json
import math
import os
import re
import time as clock
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Optional, Union

from fleetbus_client.errors import Misuse

CONTENT_TYPE = "application/cloudevents+json"
#: The largest body that a reader takes, in bytes.
MAX_BODY_BYTES = 1_000_000
#: Characters of a type, of a subject and of a schema's name.
MAX_TYPE, MAX_SUBJECT, MAX_SCHEMA = 200, 200, 300
#: Levels of objects and lists in the data; JSON readers end somewhere.
MAX_DEPTH = 100
#: Integers that every reader of JSON takes exactly.
SMALLEST_INT, LARGEST_INT = -(2**63), 2**64 - 1
#: After this long nobody acts on a command, unless its sender says otherwise.
EXPIRES_AFTER = timedelta(minutes=10)

UUID_PATTERN = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
SERVICE_PATTERN = r"[a-z0-9-]{1,63}"
TYPE_PATTERN = r"(command|event|telemetry)(\.[a-z0-9_-]+)+"

Data = Mapping[str, Any]
Expiry = Optional[Union[datetime, timedelta]]


def new_id() -> str:
    """A UUIDv7: ids in the order of their making, from different processes, too."""
    number = (clock.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=number))


@dataclass(frozen=True)
class Envelope:
    """One event, ready to be sent: as often as need be, always the same bytes."""

    id: str
    type: str
    time: datetime
    body: bytes


def fact(
    service: str,
    type: str,
    subject: str,
    data: Data,
    *,
    id: str | None = None,
    time: datetime | None = None,
    dataschema: str = "",
    correlation: str | None = None,
    causation: str | None = None,
) -> Envelope:
    """A fact of a service. Raises `Misuse`."""
    check_fact_type(type, service)
    if len(dataschema) > MAX_SCHEMA:
        raise Misuse(f"dataschema has {len(dataschema)} characters; at most {MAX_SCHEMA} are taken")
    more = {"dataschema": _whole("dataschema", dataschema) or f"urn:fleetbus:service:{type}"}
    return _envelope(
        service, type, subject, data, id=id, time=time, correlation=correlation, causation=causation, more=more
    )


def command(
    service: str,
    type: str,
    subject: str,
    data: Data,
    *,
    id: str | None = None,
    version: int = 1,
    expires: Expiry = EXPIRES_AFTER,
    correlation: str | None = None,
    causation: str | None = None,
) -> Envelope:
    """A command of a service; `version` is that of the schema (`schemas/<type>.v<version>.json`) that the data fits.

    `expires`: a moment, or a time from now; None for never. Raises `Misuse`.
    """
    check_command_type(type)
    if version < 1:
        raise Misuse(f"version is {version}; the first version of a schema is 1")
    now = datetime.now(timezone.utc)
    more = {"dataschema": f"urn:fleetbus:{type}:{version}"}
    if expires is not None:
        until = now + expires if isinstance(expires, timedelta) else _in_utc("expires", expires)
        if until <= now:
            raise Misuse(f"expires is {_text(until)}, which has passed: nobody would act on the command")
        more["expires"] = _text(until)
    id = id or new_id()
    return _envelope(
        service, type, subject, data, id=id, time=now, correlation=correlation or id, causation=causation, more=more
    )


def _envelope(
    service: str,
    type: str,
    subject: str,
    data: Data,
    *,
    id: str | None,
    time: datetime | None,
    correlation: str | None,
    causation: str | None,
    more: Mapping[str, str],
) -> Envelope:
    id = check_id("id", id or new_id())
    at = datetime.now(timezone.utc) if time is None else _in_utc("time", time)
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": f"service/{service}",
        "type": type,
        "subject": check_subject(subject),
        "time": _text(at),
        "datacontenttype": "application/json",
        "actor": f"service:{service}",
        **more,
    }
    if correlation is not None:
        attributes["correlationid"] = check_id("correlation", correlation)
    if causation is not None:
        attributes["causationid"] = check_id("causation", causation)
    attributes["data"] = check_data(data)
    return Envelope(id=id, type=type, time=at, body=encode(type, attributes))


# ---------------------------------------------------------------- what fits


def check_service(service: str) -> str:
    """The name of a service. Raises `Misuse`."""
    if not re.fullmatch(SERVICE_PATTERN, service):
        raise Misuse(f"{service!r} is no name of a service; 1 to 63 of a-z, 0-9 and - are")
    return service


def check_fact_type(type: str, service: str | None = None) -> str:
    """The type of a fact: `event.<service>.<what happened>`, of this service if it is named. Raises `Misuse`."""
    name = service or "<service>"
    words = _words(type, f"event.{name}.<what happened>")
    if words[0] != "event" or len(words) < 3 or not re.fullmatch(SERVICE_PATTERN, words[1]):
        raise Misuse(f"{type!r} is no fact of a service; right would be event.{name}.<what happened>")
    if service is not None and words[1] != service:
        raise Misuse(f"{type!r} is for service:{words[1]} to say, and this is service:{service}")
    return type


def check_command_type(type: str) -> str:
    """The type of a command, such as `command.job.submit`. Raises `Misuse`."""
    words = _words(type, "command.<what>.<do>")
    if words[0] != "command" or len(words) < 3:
        raise Misuse(f"{type!r} is no command; right would be command.<what>.<do>, as in command.job.submit")
    return type


def _words(type: object, right: str) -> list[str]:
    if not isinstance(type, str) or not re.fullmatch(TYPE_PATTERN, type):
        raise Misuse(f"{type!r} is no type of an event: words of a-z, 0-9, _ and - with dots between, as in {right}")
    if len(type) > MAX_TYPE:
        raise Misuse(f"the type {type[:60]}… has {len(type)} characters; at most {MAX_TYPE} are taken")
    return type.split(".")


def check_subject(subject: object) -> str:
    """What the event is about. Raises `Misuse`."""
    if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT:
        raise Misuse(f"the subject says what the event is about in 1 to {MAX_SUBJECT} characters, not {subject!r:.80}")
    return _whole("the subject", subject)


def check_id(what: str, id: object) -> str:
    """Raises `Misuse` for anything but a UUID in its canonical lower-case form."""
    if not isinstance(id, str) or not re.fullmatch(UUID_PATTERN, id):
        raise Misuse(f"{what} is {id!r:.80}; right would be a UUID in lower case, as fleetbus_client.new_id() makes")
    return id


def check_data(data: object) -> Data:
    """A JSON object, exactly as it will be read again. Raises `Misuse` that names the place."""
    if not isinstance(data, Mapping):
        raise Misuse(f"data is of type {_kind(data)}; right would be a dict, which becomes a JSON object")
    _check_value(data, "data", 1)
    return data


def _check_value(value: Any, at: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Misuse(f"{at[:80]}… is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise Misuse(f"{at} has the key {key!r}; JSON objects have keys that are str")
            _check_value(key, f"{at}: a key", depth)
            _check_value(inner, f"{at}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for n, inner in enumerate(value):
            _check_value(inner, f"{at}[{n}]", depth + 1)
    else:
        _check_scalar(value, at)


def _check_scalar(value: Any, at: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Misuse(f"{at} is {value!r}, which JSON cannot say")
    elif isinstance(value, int):
        if not isinstance(value, bool) and not SMALLEST_INT <= value <= LARGEST_INT:
            raise Misuse(f"{at} does not fit into 64 bits; a str holds any number")
    elif isinstance(value, str):
        _whole(at, value)
    elif value is not None:
        raise Misuse(f"{at} is of type {_kind(value)}, which JSON does not have; a str says it")


def _whole(at: str, text: str) -> str:
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise Misuse(f"{at} has half of a surrogate pair, which no reader of JSON takes")
    return text


def encode(type: str, attributes: Mapping[str, Any]) -> bytes:
    """The body. Raises `Misuse` when it is too large."""
    text = json.dumps(attributes, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=dict)
    body = text.encode()
    if len(body) > MAX_BODY_BYTES:
        raise Misuse(f"{type} is {len(body):,} bytes; at most {MAX_BODY_BYTES:,} fit into one event")
    return body


def _in_utc(what: str, at: object) -> datetime:
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise Misuse(f"{what} is {at!r}; right would be a datetime with a time zone")
    return at.astimezone(timezone.utc)


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _kind(value: object) -> str:
    return value.__class__.__name__
