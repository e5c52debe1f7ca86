"""What is said about nodes."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from events.names import Id, NodeId, Role, Seconds, Sha256, Text

Roles = tuple[Role, ...]


class SetMaintenance(Struct, frozen=True, kw_only=True):
    """Asks that a node get no new jobs (`on`), or get them again."""

    node: NodeId
    on: bool
    reason: Text = ""


class SetRoles(Struct, frozen=True, kw_only=True):
    """Asks that a node hold exactly these roles."""

    node: NodeId
    roles: Roles


class RemoveNode(Struct, frozen=True, kw_only=True):
    """Asks that a node be forgotten; what it says later is not listened to until it joins again."""

    node: NodeId


class InviteNode(Struct, frozen=True, kw_only=True):
    """Asks that whoever knows the token behind `token_hash` may join once, until `valid_until`, with these roles."""

    token_hash: Sha256
    roles: Roles
    valid_until: datetime


class JoinNode(Struct, frozen=True, kw_only=True):
    """Asks that `node` join by the invitation with this token hash."""

    node: NodeId
    token_hash: Sha256


class NodeInvited(Struct, frozen=True, kw_only=True):
    token_hash: Sha256
    roles: Roles
    valid_until: datetime


class NodeJoined(Struct, frozen=True, kw_only=True):
    """The invitation was used up; from now on the node's own user may speak for it."""

    node: NodeId
    roles: Roles
    token_hash: Sha256


class NodeConnected(Struct, frozen=True, kw_only=True):
    """An agent's inbox is consumed.

    `boot` is the agent's producer id; `journal` the id of its journal file: another journal means that the memory of
    earlier deliveries is gone. `roles` count only the first time a node is seen. `allows` are the capabilities that
    this agent's owner switched on (`shell`).
    """

    node: NodeId
    boot: Id
    journal: Id
    roles: Roles = ()
    open_jobs: tuple[Id, ...] = ()
    scripts: tuple[Sha256, ...] = ()
    allows: tuple[str, ...] = ()
    hostname: Annotated[str, Meta(max_length=255)] = ""
    version: str = ""


class NodeDisconnected(Struct, frozen=True, kw_only=True):
    """An agent stops in good order."""

    node: NodeId
    boot: Id


class NodeOffline(Struct, frozen=True, kw_only=True):
    """A node was silent for `silent_for` seconds."""

    node: NodeId
    silent_for: Seconds


class NodeOnline(Struct, frozen=True, kw_only=True):
    """A node that was offline is heard again, without having connected anew."""

    node: NodeId


class MaintenanceSet(Struct, frozen=True, kw_only=True):
    node: NodeId
    on: bool
    reason: Text = ""


class RolesSet(Struct, frozen=True, kw_only=True):
    node: NodeId
    roles: Roles


class NodeRemoved(Struct, frozen=True, kw_only=True):
    node: NodeId
