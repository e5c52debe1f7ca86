"""The contract of blobs: chunks in, verified bytes out."""

import hashlib
import os

import pytest

from projections.osis.documents import Documents
from projections.osis.errors import BadName, CorruptBlob, Misuse
from tests.contract.stores import Clock


def new_blob(sizes: list[int]) -> tuple[str, list[bytes]]:
    chunks = [os.urandom(size) for size in sizes]
    return hashlib.sha256(b"".join(chunks)).hexdigest(), chunks


def put(documents: Documents, sha256: str, chunks: list[bytes]) -> None:
    for n, chunk in enumerate(chunks):
        documents.blobs.put_chunk(sha256, n, len(chunks), chunk)


def test_a_blob_is_there_when_its_last_chunk_came_in_whatever_order(documents: Documents) -> None:
    sha256, chunks = new_blob([256_000, 256_000, 17])
    for n in (2, 0):
        documents.blobs.put_chunk(sha256, n, 3, chunks[n])
        assert not documents.blobs.has(sha256)
        assert documents.blobs.get(sha256) is None
        assert documents.blobs.size(sha256) is None
    documents.blobs.put_chunk(sha256, 1, 3, chunks[1])
    put(documents, sha256, chunks)
    assert documents.blobs.has(sha256)
    assert documents.blobs.size(sha256) == 512_017
    assert documents.blobs.get(sha256) == b"".join(chunks)


def test_an_empty_blob_is_one_empty_chunk(documents: Documents) -> None:
    sha256, chunks = new_blob([0])
    put(documents, sha256, chunks)
    assert documents.blobs.get(sha256) == b""


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 1), (5, 15), (10, 20), (9, 11), (29, 30), (25, 99), (30, 30), (7, 3)]
)
def test_a_range_is_read_from_the_chunks_that_hold_it(documents: Documents, start: int, end: int | None) -> None:
    sha256, chunks = new_blob([10, 10, 10])
    put(documents, sha256, chunks)
    parts = documents.blobs.read(sha256, start, end)
    assert parts is not None
    assert b"".join(parts) == b"".join(chunks)[start:end]


def test_a_blob_that_is_not_there_cannot_be_read(documents: Documents) -> None:
    sha256, _ = new_blob([9])
    assert documents.blobs.read(sha256) is None


def test_bytes_that_do_not_hash_to_the_name_are_found_out_and_can_be_written_anew(documents: Documents) -> None:
    sha256, chunks = new_blob([10, 10])
    put(documents, sha256, [chunks[0], b"forged"])
    with pytest.raises(CorruptBlob, match=sha256):
        documents.blobs.get(sha256)
    assert not documents.blobs.has(sha256)
    put(documents, sha256, chunks)
    assert documents.blobs.get(sha256) == b"".join(chunks)


def test_the_same_bytes_cut_in_two_ways_do_not_mix(documents: Documents) -> None:
    sha256, chunks = new_blob([10, 10])
    whole = b"".join(chunks)
    documents.blobs.put_chunk(sha256, 0, 2, chunks[0])
    put(documents, sha256, [whole[:5], whole[5:8], whole[8:]])
    documents.blobs.put_chunk(sha256, 0, 2, chunks[0])
    assert documents.blobs.get(sha256) == whole


@pytest.mark.parametrize("name", ["", "abc", "A" * 64, "../" + "a" * 61])
def test_a_name_that_is_no_hash_is_refused(documents: Documents, name: str) -> None:
    with pytest.raises(BadName):
        documents.blobs.get(name)
    with pytest.raises(BadName):
        documents.blobs.put_chunk(name, 0, 1, b"")


@pytest.mark.parametrize(("n", "total"), [(-1, 2), (2, 2), (0, 0)])
def test_a_chunk_that_cannot_be_is_refused(documents: Documents, n: int, total: int) -> None:
    with pytest.raises(Misuse):
        documents.blobs.put_chunk("0" * 64, n, total, b"")


def test_old_chunks_are_swept(documents: Documents, clock: Clock) -> None:
    old, chunks = new_blob([10])
    put(documents, old, chunks)
    clock.now += 100
    young, others = new_blob([10])
    put(documents, young, others)
    assert documents.blobs.sweep(older_than=50) >= 1
    assert not documents.blobs.has(old)
    assert documents.blobs.has(young)
