"""Which documents a rebuild may have written: nobody needs to ask the storage for the others.

A filter after Bloom of fixed size, so memory does not grow with the log. It errs on one side only: of a document that
was written it always says so; of others it says so now and then, which costs one needless question to the storage.
"""

from collections.abc import Iterable

#: Places, a power of two. They take 4 MB, and after ten million documents one question in four is needless.
PLACES = 2**25


class Written:
    """The ids that were added, of all views of one generation."""

    def __init__(self) -> None:
        self._bits = bytearray(PLACES // 8)

    def add(self, view: str, ids: Iterable[str]) -> None:
        bits, salt, mask = self._bits, hash(view), PLACES - 1
        for id in ids:
            place = (hash(id) ^ salt) & mask
            bits[place >> 3] |= 1 << (place & 7)

    def among(self, view: str, ids: Iterable[str]) -> list[str]:
        """Those of the ids that may have been added."""
        bits, salt, mask = self._bits, hash(view), PLACES - 1
        found = []
        for id in ids:
            place = (hash(id) ^ salt) & mask
            if bits[place >> 3] >> (place & 7) & 1:
                found.append(id)
        return found
