"""Where a reader is, in a form that shows when the log under it is no longer the same.

A reader starts one record back: that record must be the one the checkpoint was made at. Otherwise the log was cut,
or it is another log, and the reader says `log diverged` and rebuilds.
"""

from hashlib import sha256
from uuid import UUID, uuid5

from msgspec import Struct

from bus import admission
from bus.errors import LogDiverged
from bus.ports import Reader, Record, Stream

#: Namespace of log ids; a log's id is the UUIDv5 of its first record's body in it.
LOG_NAMESPACE = UUID("b3c1a7de-5f0e-5c60-9d0e-6a2f6f1e2c55")


class Checkpoint(Struct, frozen=True, kw_only=True):
    """Everything before `next_offset` is done. `last_*` name the record before it, if there is one."""

    log: str
    next_offset: int = 0
    last_offset: int | None = None
    last_digest: str = ""
    admission: int = admission.VERSION


def log_id(first: Record) -> str:
    """The id of the log that begins with this record."""
    return str(uuid5(LOG_NAMESPACE, sha256(first.body).hexdigest()))


def digest(record: Record) -> str:
    return sha256(record.body).hexdigest()


def after(log: str, record: Record) -> Checkpoint:
    """The checkpoint of a reader that is done with `record`."""
    return Checkpoint(log=log, next_offset=record.next_offset, last_offset=record.offset, last_digest=digest(record))


def resume(stream: Stream, checkpoint: Checkpoint, timeout: float = 30.0) -> Reader:
    """A reader whose next record is the first after the checkpoint.

    Raises `LogDiverged` when the log is not the checkpoint's, `bus.errors.Unreachable` when it cannot be read now.
    """
    if checkpoint.admission != admission.VERSION:
        raise LogDiverged(
            f"the checkpoint was made by admission rules {checkpoint.admission}, these are {admission.VERSION}"
        )
    first = stream.first()
    if first is None or log_id(first) != checkpoint.log:
        found = "an empty log" if first is None else f"log {log_id(first)}"
        raise LogDiverged(f"the checkpoint belongs to log {checkpoint.log}, this is {found}")
    if checkpoint.last_offset is None:
        return stream.read_from(checkpoint.next_offset)
    return _resume_after(stream, checkpoint, checkpoint.last_offset, timeout)


def _resume_after(stream: Stream, checkpoint: Checkpoint, last_offset: int, timeout: float) -> Reader:
    end = stream.next_offset()
    if end <= last_offset:
        raise LogDiverged(f"the checkpoint is at offset {checkpoint.next_offset}, but the log ends at {end}")
    reader = stream.read_from(last_offset)
    try:
        records = reader.read(limit=1, timeout=timeout)
        _compare(records, checkpoint, last_offset)
    except BaseException:
        reader.close()
        raise
    return reader


def _compare(records: list[Record], checkpoint: Checkpoint, last_offset: int) -> None:
    if not records or records[0].offset != last_offset:
        found = f"offset {records[0].offset}" if records else "nothing"
        raise LogDiverged(f"the checkpoint asks for offset {last_offset}, the log gave {found}")
    if digest(records[0]) != checkpoint.last_digest:
        raise LogDiverged(f"the record at offset {last_offset} is not the one of the checkpoint")
