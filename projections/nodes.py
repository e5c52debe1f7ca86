"""The view of nodes: one document for each machine, also for those that were removed.

    joined → online ⇄ offline → removed → joined → …

A machine may connect without having joined (the first one does). One that was removed is not listened to until it
joins again, and then begins anew.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct

from events.envelope import Event
from events.node import (
    MaintenanceSet,
    NodeConnected,
    NodeDisconnected,
    NodeJoined,
    NodeOffline,
    NodeOnline,
    NodeRemoved,
    RolesSet,
)
from projections.osis.documents import Document
from projections.projection import Projection, moment

_NEW: Document = {
    "state": "joined",
    "roles": [],
    "maintenance": False,
    "maintenance_reason": "",
    "hostname": "",
    "version": "",
    "allows": [],
    "boot": None,
    "journal": None,
    "joined_at": None,
    "connected_at": None,
    "offline_since": None,
    "changed_at": None,
}


def keys(event: Event) -> Iterable[str]:
    return (event.data.node,)


def fold(node: Document | None, event: Event, offset: int) -> Document | None:
    changes = _STEPS[type(event.data)](node, event)
    if changes is None:
        return node
    return {**(node or _NEW), **changes, "changed_at": moment(event.time)}


def _on_joined(node: Document | None, event: Event) -> Document | None:
    return {**_NEW, "roles": list(event.data.roles), "joined_at": moment(event.time)}


def _on_connected(node: Document | None, event: Event) -> Document | None:
    """`roles` count only the first time that a node is seen; afterwards the fleet says what it holds."""
    data: NodeConnected = event.data
    if node is not None and node["state"] == "removed":
        return None
    return {
        "state": "online",
        "roles": list(data.roles) if node is None else node["roles"],
        "hostname": data.hostname,
        "version": data.version,
        "allows": list(data.allows),
        "boot": data.boot,
        "journal": data.journal,
        "connected_at": moment(event.time),
        "offline_since": None,
    }


def _on_disconnected(node: Document | None, event: Event) -> Document | None:
    """The word of an earlier start of the agent does not count."""
    data: NodeDisconnected = event.data
    return _gone(node, event) if node is not None and node["boot"] == data.boot else None


def _on_offline(node: Document | None, event: Event) -> Document | None:
    return _gone(node, event)


def _gone(node: Document | None, event: Event) -> Document | None:
    if node is None or node["state"] != "online":
        return None
    return {"state": "offline", "offline_since": moment(event.time)}


def _on_online(node: Document | None, event: Event) -> Document | None:
    if node is None or node["state"] == "removed":
        return None
    return {"state": "online", "offline_since": None}


def _on_maintenance_set(node: Document | None, event: Event) -> Document | None:
    data: MaintenanceSet = event.data
    return None if node is None else {"maintenance": data.on, "maintenance_reason": data.reason if data.on else ""}


def _on_roles_set(node: Document | None, event: Event) -> Document | None:
    return None if node is None else {"roles": list(event.data.roles)}


def _on_removed(node: Document | None, event: Event) -> Document | None:
    if node is None:
        return None
    return {"state": "removed", "offline_since": node["offline_since"] or moment(event.time)}


#: Each step gives the fields that change, or None when nothing does.
_STEPS: dict[type[Struct], Callable[[Document | None, Event], Document | None]] = {
    NodeJoined: _on_joined,
    NodeConnected: _on_connected,
    NodeDisconnected: _on_disconnected,
    NodeOffline: _on_offline,
    NodeOnline: _on_online,
    MaintenanceSet: _on_maintenance_set,
    RolesSet: _on_roles_set,
    NodeRemoved: _on_removed,
}

NODES = Projection(
    name="nodes",
    version=1,
    handles=frozenset(
        {
            "event.node.joined",
            "event.node.connected",
            "event.node.disconnected",
            "event.node.offline",
            "event.node.online",
            "event.node.maintenance_set",
            "event.node.roles_set",
            "event.node.removed",
        }
    ),
    keys=keys,
    fold=fold,
    indexes=(("state",),),
    # first what has few different values and is looked for within lists
    scan=("roles", "state", "maintenance", "connected_at", "changed_at"),
)
