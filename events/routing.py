"""Routing keys on the exchange `fleetbus`: the type, then `.node.<node>` where one node speaks."""

import re

from events.envelope import Event
from events.names import SHA256_PATTERN


def routing_key(event: Event) -> str:
    return key_for(event.type, event.actor)


def key_for(event_type: str, actor: str) -> str:
    """The key of a type said by an actor (`node:n1` adds `.node.n1`)."""
    kind, _, name = actor.partition(":")
    return f"{event_type}.node.{name}" if kind == "node" else event_type


def blob_key(sha256: str, n: int, total: int) -> str:
    """The key of chunk `n` (from 0) of the `total` chunks of a blob."""
    return f"blob.{sha256}.{n}.{total}"


def blob_chunk(key: str) -> tuple[str, int, int] | None:
    """(sha256, n, total) of a chunk's key, or None when it is none."""
    words = key.split(".")
    if len(words) != 4 or words[0] != "blob" or not re.match(SHA256_PATTERN, words[1]):
        return None
    if not (words[2].isdigit() and words[3].isdigit()) or int(words[2]) >= int(words[3]):
        return None
    return words[1], int(words[2]), int(words[3])
