"""Merkle trees of RFC 6962, section 2.1: the hash of a list of entries, and proofs that one entry is in it.

Entries and inner nodes are hashed with different first bytes, so that neither can be taken for the other.
"""

from collections.abc import Sequence
from hashlib import sha256


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """The root of entries that come one by one. It keeps one hash for each bit of their number."""

    def __init__(self) -> None:
        self.size = 0
        #: Roots of whole subtrees, from the largest to the smallest.
        self._roots: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """The next entry, by its `leaf_hash`."""
        roots = self._roots
        full = self.size
        while full & 1:
            leaf = node_hash(roots.pop(), leaf)
            full >>= 1
        roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Of all entries so far; of none, the hash of nothing."""
        if not self._roots:
            return sha256(b"").digest()
        found = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            found = node_hash(left, found)
        return found


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes by which `root_from_path` comes from entry `index` (from 0) to the root, the nearest first.

    `leaves` are the `leaf_hash`es of all entries. Raises `IndexError` when there is no such entry.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"there are {len(leaves)} entries, not {index + 1}")
    path = []
    level = list(leaves)
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        level = _next_level(level)
        index >>= 1
    return path


def _next_level(level: list[bytes]) -> list[bytes]:
    """Pairs become nodes; one that is left over goes up as it is."""
    nodes = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return nodes + level[len(nodes) * 2 :]


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of `size` entries that follows from the one at `index`; None when the path is too long or too short.

    RFC 9162, section 2.1.3.2, which says how to verify the paths of RFC 6962.
    """
    if not 0 <= index < size:
        return None
    at, last, found = index, size - 1, leaf
    for other in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            found = node_hash(other, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, other)
        at, last = at >> 1, last >> 1
    return found if last == 0 else None
