"""What is said about the archive: a segment of the log was sealed."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from events.names import Id, Sha256


class ArchiveSealed(Struct, frozen=True, kw_only=True):
    """The seal of one segment of the archive. The same JSON lies beside the segment's file.

    `signature` is Ed25519 over all other fields (`bus.archive.seal`); hashes are SHA-256 in hexadecimal digits.
    """

    #: The id of the log that is archived.
    log: Id
    #: Counts from 1, without gaps.
    segment: Annotated[int, Meta(ge=1, le=2**53)]
    #: The offset of its first record, the one to be read behind its last, and how many there are.
    first_offset: Annotated[int, Meta(ge=0, le=2**53)]
    next_offset: Annotated[int, Meta(ge=1, le=2**53)]
    count: Annotated[int, Meta(ge=1, le=2**53)]
    #: The hash of the line before its first (zeros for the first of all), and that of its last line.
    head_before: Sha256
    head_after: Sha256
    #: The Merkle root of its lines, as RFC 6962 makes it.
    root: Sha256
    #: The hash of the compressed file.
    file: Sha256
    #: When it was sealed, by the archiver's clock.
    sealed_at: Annotated[datetime, Meta(tz=True)]
    #: The hash of the public key that the signature belongs to.
    key_id: Sha256
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")]
