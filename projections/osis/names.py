"""The form of names: each check returns the name or raises `BadName` saying what would be right."""

from __future__ import annotations

import re

from projections.osis.errors import BadName

#: Namespace that the storage layer keeps for itself.
RESERVED = "osis"

_NAMESPACE = re.compile(r"[a-z0-9-]{1,48}")
_COLLECTION = re.compile(r"[a-z0-9_]{1,48}")
_SERIES = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,48}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_namespace(name: str) -> str:
    """Return the name of a namespace that others may use."""
    if name == RESERVED:
        raise BadName(f"the namespace {RESERVED!r} is reserved for the storage layer itself")
    return _check(_NAMESPACE, "namespace", name, "1 to 48 of a-z, 0-9 and -")


def check_collection(name: str) -> str:
    """Return the name of a collection."""
    return _check(_COLLECTION, "collection", name, "1 to 48 of a-z, 0-9 and _")


def check_series(kind: str, name: str) -> str:
    """Return the name of a measurement, tag or field."""
    return _check(_SERIES, kind, name, "a letter or _, then at most 63 letters, digits or _")


def check_sha256(name: str) -> str:
    """Return the name of a blob."""
    return _check(_SHA256, "blob", name, "64 lower-case hex digits")


def check_prefix(name: str) -> str:
    """Return what begins all keys in a shared server."""
    return _check(_PREFIX, "prefix", name, "1 to 48 of A-Z, a-z, 0-9, ., _ and -")


def check_text(kind: str, name: str) -> str:
    """Return the name of a tail, channel or key."""
    if not 1 <= len(name) <= 256:
        raise BadName(f"{kind} names have 1 to 256 characters, this one has {len(name)}")
    return name


def check_tail_number(n: int) -> int:
    """Return the number of a line in a tail."""
    if not 0 <= n < 2**53:
        raise BadName(f"line number {n} is out of bounds: 0 to 2**53 - 1")
    return n


def _check(form: re.Pattern[str], kind: str, name: str, right: str) -> str:
    if not form.fullmatch(name):
        raise BadName(f"{name[:80]!r} is no name for a {kind}: {right}")
    return name
