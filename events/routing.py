"""Routing keys on the exchange `fleetbus`: the type, then `.node.<node>` where one node speaks."""

from events.envelope import Event


def routing_key(event: Event) -> str:
    return key_for(event.type, event.actor)


def key_for(event_type: str, actor: str) -> str:
    """The key of a type said by an actor (`node:n1` adds `.node.n1`)."""
    kind, _, name = actor.partition(":")
    return f"{event_type}.node.{name}" if kind == "node" else event_type


def blob_key(sha256: str, n: int) -> str:
    """The key of chunk `n` (from 0) of a blob."""
    return f"blob.{sha256}.{n}"
