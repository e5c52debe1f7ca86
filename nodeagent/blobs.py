"""Blobs: what is too large for a fact goes before it, in chunks on a stream of its own."""

from collections.abc import Iterator
from hashlib import sha256

from msgspec import Struct

from bus.ports import Message
from events.routing import blob_key

#: Bytes in one chunk.
CHUNK = 256_000

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Blob(Struct, frozen=True):
    """Bytes that are known by their SHA-256."""

    sha256: str
    content_type: str
    body: bytes


class Chunk(Struct, frozen=True):
    """Chunk `n` (from 0) of the `total` chunks of a blob."""

    sha256: str
    n: int
    total: int
    content_type: str
    body: bytes

    @property
    def message(self) -> Message:
        key = blob_key(self.sha256, self.n, self.total)
        return Message(key=key, body=self.body, id=key, type="blob", content_type=self.content_type)


def make_blob(body: bytes, content_type: str) -> Blob:
    return Blob(sha256(body).hexdigest(), content_type, body)


def chunks(blob: Blob) -> Iterator[Chunk]:
    """The blob in pieces of at most 256 kB; an empty blob is one empty chunk."""
    total = max(1, -(-len(blob.body) // CHUNK))
    for n in range(total):
        body = blob.body[n * CHUNK : (n + 1) * CHUNK]
        yield Chunk(blob.sha256, n, total, blob.content_type, body)
