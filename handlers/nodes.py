"""Deciding about nodes: who belongs to the fleet, with which roles, and who is there."""

from collections.abc import Collection
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from events.envelope import Event
from events.names import holds
from events.node import (
    InviteNode,
    JoinNode,
    MaintenanceSet,
    NodeConnected,
    NodeDisconnected,
    NodeInvited,
    NodeJoined,
    NodeOffline,
    NodeOnline,
    NodeRemoved,
    RemoveNode,
    RolesSet,
    SetMaintenance,
    SetRoles,
)
from handlers.fleet import Fact, Fleet, Invitation, Node, Rejection, listing

#: First words of routing keys on `fleetbus`: a node of such a name could lead its deliveries back there.
RESERVED = frozenset({"command", "event", "telemetry", "blob"})


def maintenance(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: SetMaintenance = command.data
    if _known(fleet, data.node) is None:
        return unknown_node(fleet, data.node, "node")
    said = MaintenanceSet(node=data.node, on=data.on, reason=data.reason)
    return _outcome(command, "event.node.maintenance_set", data.node, said)


def roles(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: SetRoles = command.data
    if _known(fleet, data.node) is None:
        return unknown_node(fleet, data.node, "node")
    return _outcome(command, "event.node.roles_set", data.node, RolesSet(node=data.node, roles=data.roles))


def remove(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: RemoveNode = command.data
    if _known(fleet, data.node) is None:
        return unknown_node(fleet, data.node, "node")
    return _outcome(command, "event.node.removed", data.node, NodeRemoved(node=data.node))


def invite(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: InviteNode = command.data
    if data.valid_until <= now:
        return Rejection(reason="bad_value", message="the invitation would end before it begins", field="valid_until")
    said = NodeInvited(token_hash=data.token_hash, roles=data.roles, valid_until=data.valid_until)
    return _outcome(command, "event.node.invited", "invitation", said)


def join(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: JoinNode = command.data
    invitation = fleet.invitations.get(data.token_hash)
    if invitation is None or invitation.valid_until < now:
        return Rejection(
            reason="not_allowed",
            message="this invitation is unknown, used up or over; ask for a new one with `fleetbus node invite`",
            field="token",
        )
    if data.node in RESERVED:
        return Rejection(
            reason="bad_value", message=f"no node may be called {data.node!r}; choose another --node", field="node"
        )
    if _known(fleet, data.node) is not None:
        return Rejection(
            reason="conflict",
            message=f"there is a node {data.node!r} already; choose another --node, or remove the old one first",
            field="node",
        )
    said = NodeJoined(node=data.node, roles=invitation.roles, token_hash=data.token_hash)
    return _outcome(command, "event.node.joined", data.node, said)


def unknown_node(fleet: Fleet, name: str, field: str) -> Rejection:
    exists = [node.id for node in fleet.known_nodes()]
    return Rejection(
        reason="unknown_node",
        message=f"there is no node {name!r}; there are: {listing(exists)}",
        field=field,
        exists=tuple(exists),
    )


def unknown_role(fleet: Fleet, role: str, field: str) -> Rejection:
    exists = fleet.known_roles()
    return Rejection(
        reason="unknown_role",
        message=f"no node holds the role {role!r}; there are: {listing(exists)}",
        field=field,
        exists=tuple(exists),
    )


def of_role(fleet: Fleet, role: str) -> list[Node]:
    return [node for node in fleet.known_nodes() if holds(node.roles, role)]


def presence(fleet: Fleet, silent: dict[str, float], heard: Collection[str]) -> list[Fact]:
    """Facts about who is there: `silent` nodes with the seconds of their silence, and those that were `heard`."""
    facts = []
    for id, seconds in silent.items():
        node = fleet.nodes.get(id)
        if node is not None and node.online:
            facts.append(_timed("event.node.offline", node, NodeOffline(node=id, silent_for=round(seconds, 1))))
    for id in heard:
        node = fleet.nodes.get(id)
        if node is not None and not node.online and not node.removed and node.boot is not None:
            facts.append(_timed("event.node.online", node, NodeOnline(node=id)))
    return facts


def _timed(type: str, node: Node, data: Struct) -> Fact:
    return Fact(type=type, subject=node.id, data=data, cause=node.cause, part=type)


def _outcome(command: Event, type: str, subject: str, data: Struct) -> Fact:
    return Fact(type=type, subject=subject, data=data, cause=command.id, part="outcome", story=command.correlationid)


def _known(fleet: Fleet, id: str) -> Node | None:
    node = fleet.nodes.get(id)
    return None if node is None or node.removed else node


def on_connected(fleet: Fleet, event: Event) -> Fleet:
    data: NodeConnected = event.data
    node = fleet.nodes.get(data.node)
    if node is not None and node.removed:
        return fleet
    return fleet.with_node(
        replace(
            node or Node(id=data.node, roles=data.roles),
            online=True,
            boot=data.boot,
            journal=data.journal,
            allows=data.allows,
            scripts=frozenset(data.scripts),
            offline_since=None,
            cause=event.id,
        )
    )


def on_disconnected(fleet: Fleet, event: Event) -> Fleet:
    data: NodeDisconnected = event.data
    node = fleet.nodes.get(data.node)
    if node is None or node.boot != data.boot:
        return fleet
    return _gone(fleet, node, event)


def on_offline(fleet: Fleet, event: Event) -> Fleet:
    node = fleet.nodes.get(event.data.node)
    return fleet if node is None or not node.online else _gone(fleet, node, event)


def _gone(fleet: Fleet, node: Node, event: Event) -> Fleet:
    return fleet.with_node(replace(node, online=False, offline_since=event.time, cause=event.id))


def on_online(fleet: Fleet, event: Event) -> Fleet:
    node = fleet.nodes.get(event.data.node)
    if node is None or node.removed:
        return fleet
    return fleet.with_node(replace(node, online=True, offline_since=None, cause=event.id))


def on_maintenance_set(fleet: Fleet, event: Event) -> Fleet:
    node = fleet.nodes.get(event.data.node)
    return fleet if node is None else fleet.with_node(replace(node, maintenance=event.data.on))


def on_roles_set(fleet: Fleet, event: Event) -> Fleet:
    node = fleet.nodes.get(event.data.node)
    return fleet if node is None else fleet.with_node(replace(node, roles=event.data.roles))


def on_invited(fleet: Fleet, event: Event) -> Fleet:
    data: NodeInvited = event.data
    valid = {key: one for key, one in fleet.invitations.items() if one.valid_until > event.time}
    valid[data.token_hash] = Invitation(token_hash=data.token_hash, roles=data.roles, valid_until=data.valid_until)
    return replace(fleet, invitations=type(fleet.invitations)(valid))


def on_joined(fleet: Fleet, event: Event) -> Fleet:
    data: NodeJoined = event.data
    if data.token_hash in fleet.invitations:
        fleet = replace(fleet, invitations=fleet.invitations.delete(data.token_hash))
    return fleet.with_node(Node(id=data.node, roles=data.roles, cause=event.id))


def on_removed(fleet: Fleet, event: Event) -> Fleet:
    node = fleet.nodes.get(event.data.node)
    if node is None:
        return fleet
    gone = replace(node, removed=True, online=False, offline_since=event.time, cause=event.id)
    return fleet.with_node(gone)
