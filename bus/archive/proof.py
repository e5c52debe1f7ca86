"""Proofs that one record is in the archive: small files that anybody can check who has the public key."""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from bus.archive.folder import Archive
from bus.archive.keys import PublicKey
from bus.archive.line import BadLine, decode_line, line_hash
from bus.archive.merkle import inclusion_path, root_from_path
from bus.archive.seal import BadSeal, check_signature
from bus.ports import Record
from events.archive import ArchiveSealed
from events.names import Sha256


class BadProof(ValueError):
    """It proves nothing; the message says why."""


class Proof(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`line` is entry `index` (from 0) of the segment that `seal` names; `path` leads from it to the root."""

    format: Literal["fleetbus archive proof 1"] = "fleetbus archive proof 1"
    seal: ArchiveSealed
    index: Annotated[int, Meta(ge=0, le=2**53)]
    line: str
    path: tuple[Sha256, ...]


class _Id(Struct):
    id: str = ""


_decoder = msgspec.json.Decoder(Proof)
_ids = msgspec.json.Decoder(_Id)


def prove(
    archive: Archive, event_id: str, tell: Callable[[int, int], None] = lambda _done, _total: None
) -> Proof | None:
    """A proof for the first record with this event; None when the archive has none.

    `tell` hears of offsets read, and of all there are. Raises `BadArchive`.
    """
    end = archive.end()
    for number in archive.numbers():
        found = _find(archive, number, event_id.encode())
        if found is not None:
            return _prove(archive, number, found)
        tell(archive.seal(number).next_offset, end)
    return None


def _find(archive: Archive, number: int, event_id: bytes) -> int | None:
    """The place of the event's line in a segment, from 0."""
    for index, line in enumerate(archive.lines(number)):
        # the body lies in the line as text: only what has the id's letters is worth a closer look
        if event_id in line and _event_id(decode_line(line).record()) == event_id.decode():
            return index
    return None


def _event_id(record: Record) -> str:
    try:
        return _ids.decode(record.body).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _prove(archive: Archive, number: int, index: int) -> Proof:
    lines = list(archive.lines(number))
    path = inclusion_path([line_hash(line) for line in lines], index)
    return Proof(
        seal=archive.seal(number),
        index=index,
        line=lines[index].decode(),
        path=tuple(one.hex() for one in path),
    )


def encode_proof(proof: Proof) -> bytes:
    return msgspec.json.format(msgspec.json.encode(proof)) + b"\n"


def check_proof(content: bytes, key: PublicKey) -> tuple[Record, ArchiveSealed]:
    """The record that is proved to be in the archive, and the seal it lies under. Raises `BadProof`."""
    try:
        proof = _decoder.decode(content)
        check_signature(proof.seal, key)
        line = proof.line.encode()
        record = decode_line(line).record()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadProof(f"it is no proof: {error}") from None
    except BadSeal as error:
        raise BadProof(f"its seal is not good: {error}") from None
    except BadLine as error:
        raise BadProof(f"its line is not good: {error}") from None
    path = [bytes.fromhex(one) for one in proof.path]
    root = root_from_path(line_hash(line), proof.index, proof.seal.count, path)
    if root is None or root.hex() != proof.seal.root:
        raise BadProof("the path does not lead from the record to the sealed root")
    return record, proof.seal
