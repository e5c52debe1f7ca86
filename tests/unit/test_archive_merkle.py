"""Merkle trees: against RFC 6962 as written down anew, naively, and against its known roots."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.archive.merkle import Tree, inclusion_path, leaf_hash, root_from_path

#: The entries of the test vectors of Certificate Transparency, and the roots of the first n of them.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(entries: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: MTH(D[n])."""
    if not entries:
        return sha256().digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    return sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_path(m: int, entries: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1, word for word: PATH(m, D[n])."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def tree_root(entries: list[bytes]) -> bytes:
    tree = Tree()
    for entry in entries:
        tree.add(leaf_hash(entry))
    assert tree.size == len(entries)
    return tree.root()


some_entries = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


@pytest.mark.parametrize("n", range(1, 9))
def test_the_known_roots_come_out(n: int) -> None:
    assert tree_root(ENTRIES[:n]).hex() == naive_root(ENTRIES[:n]).hex() == ROOTS[n - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert Tree().root() == sha256(b"").digest()


@given(some_entries)
def test_roots_are_those_of_the_rfc(entries: list[bytes]) -> None:
    assert tree_root(entries) == naive_root(entries)


@given(some_entries, st.data())
def test_paths_are_those_of_the_rfc_and_lead_to_the_root(entries: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    path = inclusion_path([leaf_hash(entry) for entry in entries], index)
    assert path == naive_path(index, entries)
    assert root_from_path(leaf_hash(entries[index]), index, len(entries), path) == naive_root(entries)


@given(some_entries, st.data())
def test_a_changed_path_place_or_entry_leads_elsewhere(entries: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    leaves, root = [leaf_hash(entry) for entry in entries], naive_root(entries)
    path = inclusion_path(leaves, index)
    assert root_from_path(leaf_hash(entries[index] + b"!"), index, len(entries), path) != root
    assert root_from_path(leaves[index], index, len(entries), [*path, leaves[0]]) is None
    assert root_from_path(leaves[index], len(entries), len(entries), path) is None
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        wrong = [*path[:at], bytes(32), *path[at + 1 :]]
        assert root_from_path(leaves[index], index, len(entries), wrong) != root
        assert root_from_path(leaves[index], index, len(entries), path[:-1]) != root
    other = data.draw(st.integers(0, len(entries) - 1).filter(lambda one: entries[one] != entries[index]) | st.none())
    if other is not None:
        assert root_from_path(leaves[index], other, len(entries), path) != root


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_path_for_an_entry_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError):
        inclusion_path([leaf_hash(b"")] * 3, index)
