"""Blobs: bytes kept by their SHA-256, in numbered chunks; a part of the Documents port."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from projections.osis.errors import CorruptBlob, Misuse
from projections.osis.names import check_sha256


@dataclass(frozen=True, slots=True)
class Chunks:
    """A complete set: the bytes of each chunk, in order."""

    sha256: str
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many chunks there are."""
        return len(self.sizes)


class Blobs(ABC):
    """Bytes by the SHA-256 of all of them (64 hex digits, lower case, else `BadName`).

    Blobs belong to no namespace: their content never changes, so a rebuild has nothing to redo.
    Adapters keep chunks by (sha256, total, n), so that the same bytes cut in two ways do not mix.
    """

    def put_chunk(self, sha256: str, n: int, total: int, data: bytes) -> None:
        """Keep chunk `n` of `total`, counted from 0; keeping it again changes nothing.

        The blob exists when all chunks are there, in whatever order they came. Nothing is hashed
        here: what is wrong shows when it is read.
        """
        if not 0 <= n < total:
            raise Misuse(f"chunk {n} of {total}: chunks are counted from 0 to total - 1")
        self._put(check_sha256(sha256), n, total, data)

    def has(self, sha256: str) -> bool:
        """Say whether all chunks are there (without hashing them)."""
        return self._find(check_sha256(sha256)) is not None

    def size(self, sha256: str) -> int | None:
        """Return the length in bytes, or None while chunks are missing."""
        chunks = self._find(check_sha256(sha256))
        return None if chunks is None else sum(chunks.sizes)

    def get(self, sha256: str) -> bytes | None:
        """Return the whole blob, or None while chunks are missing.

        Raises `CorruptBlob` if the bytes do not hash to the name; the chunks are then deleted, so
        that writing them again repairs it.
        """
        parts = self.read(sha256)
        return None if parts is None else b"".join(parts)

    def read(self, sha256: str, start: int = 0, end: int | None = None) -> Iterator[bytes] | None:
        """Return the bytes from `start` up to but not including `end`, in parts, or None like `get`.

        At most one chunk is in memory at a time. The hash is checked when all of the blob is read:
        `CorruptBlob` then comes after the last byte.
        """
        chunks = self._find(check_sha256(sha256))
        if chunks is None:
            return None
        size = sum(chunks.sizes)
        end = size if end is None else min(end, size)
        return self._whole(chunks) if (start, end) == (0, size) else self._range(chunks, start, end)

    @abstractmethod
    def sweep(self, older_than: float) -> int:
        """Delete chunks that were last written more than `older_than` seconds ago; return how many."""

    @abstractmethod
    def _put(self, sha256: str, n: int, total: int, data: bytes) -> None: ...

    @abstractmethod
    def _find(self, sha256: str) -> Chunks | None: ...

    @abstractmethod
    def _chunk(self, chunks: Chunks, n: int) -> bytes: ...

    @abstractmethod
    def _delete(self, chunks: Chunks) -> None: ...

    def _whole(self, chunks: Chunks) -> Iterator[bytes]:
        hashed = hashlib.sha256()
        for n in range(chunks.total):
            data = self._chunk(chunks, n)
            hashed.update(data)
            yield data
        if hashed.hexdigest() != chunks.sha256:
            self._delete(chunks)
            raise CorruptBlob(f"blob {chunks.sha256}: its {chunks.total} chunks hash to {hashed.hexdigest()}")

    def _range(self, chunks: Chunks, start: int, end: int) -> Iterator[bytes]:
        begin = 0
        for n, size in enumerate(chunks.sizes):
            if begin < end and begin + size > start:
                yield self._chunk(chunks, n)[max(start - begin, 0) : end - begin]
            begin += size
