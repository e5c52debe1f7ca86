"""Documents as canonical values: what is accepted, tamed and refused, the same for every adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from projections.osis.errors import BadDocument

_encoder = msgspec.json.Encoder()
_sorted_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(dict[str, Any])

#: Levels of lists and objects that are kept as such; MongoDB refuses more than 100.
DEPTH = 90
#: Bytes of JSON; MongoDB refuses documents over 16 MiB, and a view that large is no view.
MAX_BYTES = 12_000_000

#: Digits as zeros, so that a run of 19 (a number that may not fit 64 bits) is found by a plain search.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_INT64 = range(-(2**63), 2**63)


class Encoded(Struct, frozen=True, gc=False):
    """A document ready to be written: its JSON, and its `_at`, if it has one."""

    id: str
    at: int | None
    raw: bytes


class _Head(Struct, gc=False):
    """What is looked at in a document that is JSON already."""

    id: str = field(name="_id")
    at: int | None = field(name="_at", default=None)


_read_head = msgspec.json.Decoder(_Head).decode


def encode(document: Mapping[str, Any]) -> Encoded:
    """Return the document as JSON, tamed as the port says; raises `BadDocument`."""
    key, at = document.get("_id"), document.get("_at")
    if not isinstance(key, str):
        raise BadDocument(f"a document needs a string `_id`, not {key!r:.80}")
    if at is not None and (type(at) is not int or at not in _INT64):
        raise BadDocument(f"document {key!r:.80}: `_at` is a 64-bit integer, not {at!r:.80}")
    try:
        raw = _as_json(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadDocument(f"document {key!r:.80} is not JSON: {error}") from None
    # the search spares nearly all documents the look at each name
    if "_expires" in document or (b"$" in raw and any(name.startswith("$") for name in document)):
        raise BadDocument(f"document {key!r:.80}: a top-level field is not named `_expires` or `$…`")
    if len(raw) > MAX_BYTES:
        raise BadDocument(f"document {key!r:.80} has {len(raw):,} bytes of {MAX_BYTES:,}; keep bulk as a blob")
    return Encoded(tame_text(key), at, raw)


def encode_raw(raw: bytes, *, clean: bool = False) -> Encoded:
    """Return the same of a document that is JSON already. Raises `BadDocument` and msgspec's errors.

    `clean`: it was part of something that is not suspect.
    """
    if len(raw) > MAX_BYTES or b"$" in raw or b"_expires" in raw or (not clean and is_suspect(raw)):
        return encode(_decoder.decode(raw))
    head = _read_head(raw)
    return Encoded(tame_text(head.id), head.at, raw)


def encode_many(documents: Iterable[Mapping[str, Any]]) -> tuple[list[Encoded], int]:
    """Return the documents to write, one for each id, and how many of the call lost to another of it."""
    return choose(encode(document) for document in documents)


def choose(documents: Iterable[Encoded]) -> tuple[list[Encoded], int]:
    """Return the same of documents that are ready."""
    winners: dict[str, Encoded] = {}
    lost = 0
    for new in documents:
        old = winners.setdefault(new.id, new)
        if old is new:
            continue
        if is_stale(new.at, old.at):
            lost += 1
        else:
            winners[new.id] = new
    return list(winners.values()), lost


def is_stale(at: int | None, stored: int | None) -> bool:
    """Say whether a write of `at` comes too late over a document of `stored`."""
    return at is not None and stored is not None and at < stored


def decode(raw: bytes | str) -> dict[str, Any]:
    """Return the document of stored JSON."""
    return _decoder.decode(raw)


def digest(documents: Iterable[Mapping[str, Any]], without: Collection[str]) -> str:
    """Return the SHA-256 in hex of documents in order of `_id`."""
    hashed = hashlib.sha256()
    for line in _canonical(documents, frozenset(without)):
        hashed.update(line)
    return hashed.hexdigest()


def tame(value: Any, depth: int = DEPTH) -> Any:
    """Return the value without what some adapter cannot keep."""
    match value:
        case str():
            return tame_text(value)
        case int() if not isinstance(value, bool):
            return value if value in _INT64 else _as_float(value)
        case Mapping() | list() | tuple() if depth == 0:
            return tame_text(_encoder.encode(value).decode())
        case Mapping():
            return {tame(key): tame(item, depth - 1) for key, item in value.items()}
        case list() | tuple():
            return [tame(item, depth - 1) for item in value]
        case _:
            return value


def tame_text(text: str) -> str:
    """Return the text with U+0000 as U+2400 and lone surrogates as U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\u2400").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _as_json(document: Mapping[str, Any]) -> bytes:
    try:
        raw = _encoder.encode(document)
    except UnicodeEncodeError:
        raw = _encoder.encode(tame(document))
    return _encoder.encode(tame(_decoder.decode(raw))) if is_suspect(raw) else raw


def is_suspect(raw: bytes) -> bool:
    """Say whether something in this JSON may need taming: U+0000, a number beyond 64 bits, deep nesting. No regular
    expression: this runs for each document that is written.
    """
    return (
        (b"\\" in raw and b"\\u0000" in raw)
        or _LONG_NUMBER in raw.translate(_DIGITS)
        or (raw.count(b"{") + raw.count(b"[") > DEPTH and _may_be_deep(raw))
    )


def _may_be_deep(raw: bytes) -> bool:
    """Peel pairs of brackets, the innermost first; what is left after as many rounds as levels are kept is too deep,
    or is in a text.
    """
    brackets = raw.translate(None, _NO_BRACKETS)
    for _ in range(DEPTH):
        peeled = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if peeled == brackets:
            break
        brackets = peeled
    return brackets != b""


def _as_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _canonical(documents: Iterable[Mapping[str, Any]], without: frozenset[str]) -> Iterator[bytes]:
    for document in documents:
        yield _sorted_encoder.encode({k: v for k, v in document.items() if k not in without})
        yield b"\n"
