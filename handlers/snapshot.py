"""A file that spares the handlers the reading of the whole log.

It is a cache: when it is missing, broken, of other versions or of another log, the state is folded from the start.
"""

import os
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import structlog
from immutables import Map
from msgspec import Struct
from msgspec.structs import replace

from bus.admission import AdmissionState, Head, Producer, Seen
from bus.checkpoint import Checkpoint
from events.codec import BadEvent, decode, encode
from handlers.fleet import VERSION, Fleet

log = structlog.get_logger()


class Admission(Struct, frozen=True, kw_only=True):
    """`bus.admission.AdmissionState`, whole."""

    head: Head
    producers: dict[str, Producer]
    seen: list[Seen]


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything that the handlers know after the record of the checkpoint."""

    fold: int
    checkpoint: Checkpoint
    admission: Admission
    fleet: Fleet


class Versions(Struct, frozen=True):
    """What is read first: whether the rest can be understood."""

    fold: int


def _plain(value: object) -> object:
    if isinstance(value, Map):
        return dict(value)
    raise TypeError(f"a snapshot cannot hold {type(value)}")


def _typed(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Map:
        key, item = get_args(kind)
        return Map(msgspec.convert(value, dict[key, item], dec_hook=_typed, strict=False))  # type: ignore[valid-type]
    raise TypeError(f"a snapshot cannot hold {kind}")


def capture(checkpoint: Checkpoint, state: AdmissionState, fleet: Fleet) -> Snapshot:
    admission = Admission(head=state.head(), producers=dict(state.producers), seen=list(state.window))
    return Snapshot(fold=VERSION, checkpoint=checkpoint, admission=admission, fleet=fleet)


def restore(saved: Admission) -> AdmissionState:
    return AdmissionState.restore(saved.head, saved.producers, saved.seen)


def save(path: Path, snapshot: Snapshot) -> None:
    """Whole or not at all: written beside, flushed, then renamed over. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.msgpack.encode(snapshot, enc_hook=_plain))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path) -> Snapshot | None:
    """The snapshot, or None when there is none that this version understands."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        if msgspec.msgpack.decode(body, type=Versions).fold != VERSION:
            log.info("snapshot of another version is left alone", action="snapshot.skipped", path=str(path))
            return None
        snapshot = msgspec.msgpack.decode(body, type=Snapshot, dec_hook=_typed, strict=False)
        return replace(snapshot, fleet=_with_typed_commands(snapshot.fleet))
    except (msgspec.DecodeError, TypeError, ValueError, BadEvent) as error:
        log.warning("snapshot cannot be read", action="snapshot.broken", path=str(path), error=str(error))
        return None


def _with_typed_commands(fleet: Fleet) -> Fleet:
    """An event's data is plain JSON in the file; reading it as an event gives it back its type."""
    commands = {id: replace(one, event=decode(encode(one.event))) for id, one in fleet.open_commands.items()}
    return replace(fleet, open_commands=Map(commands))
