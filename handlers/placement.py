"""Deciding where a job may run: the nodes that its target names and its script allows, and the least busy of them."""

from collections.abc import Iterable

from events.job import Target
from events.names import holds
from handlers.fleet import Fleet, Node, Rejection, Source, listing
from handlers.nodes import of_role, unknown_node, unknown_role


def eligible(fleet: Fleet, target: Target, source: Source) -> list[Node] | Rejection:
    """The nodes that may run it: named, of the role, allowed by the header. Never empty."""
    named = _named(fleet, target)
    if isinstance(named, Rejection):
        return named
    allowed = [node for node in named if _allowed(node, source)]
    explicit = target.node is not None or bool(target.nodes)
    if explicit and len(allowed) < len(named):
        refused = next(node for node in named if node not in allowed)
        return Rejection(reason="not_allowed", message=_why_not(refused, source), field="target")
    if not allowed:
        return Rejection(reason="not_allowed", message=_why_not(named[0], source), field="target")
    return allowed


def _named(fleet: Fleet, target: Target) -> list[Node] | Rejection:
    wishes = [bool(target.node), bool(target.nodes), bool(target.role), target.all and not target.role]
    if sum(wishes) != 1:
        return Rejection(
            reason="bad_target",
            message="a target is one of: node, nodes, role (with or without all), or all",
            field="target",
        )
    if target.role is not None:
        return of_role(fleet, target.role) or unknown_role(fleet, target.role, "target.role")
    if target.all:
        return fleet.known_nodes() or unknown_node(fleet, "any", "target.all")
    ids = target.nodes or (target.node or "",)
    for id in ids:
        node = fleet.nodes.get(id)
        if node is None or node.removed:
            return unknown_node(fleet, id, "target.nodes" if target.nodes else "target.node")
    return [fleet.nodes[id] for id in dict.fromkeys(ids)]


def _allowed(node: Node, source: Source) -> bool:
    roles = source.header.roles
    return (not roles or any(holds(node.roles, role) for role in roles)) and not _missing(node, source)


def _missing(node: Node, source: Source) -> set[str]:
    """Capabilities that the script needs and the node's agent does not allow. Unknown until it first connects."""
    return set(source.header.requires) - set(node.allows) if node.boot is not None else set()


def _why_not(node: Node, source: Source) -> str:
    name, roles = source.header.name, source.header.roles
    if roles and not any(holds(node.roles, role) for role in roles):
        return (
            f"{name!r} is only for nodes with one of the roles {listing(roles)}; {node.id} holds {listing(node.roles)}"
        )
    missing = listing(sorted(_missing(node, source)))
    return f"{name!r} needs {missing}, which the agent of {node.id} does not allow; start it with --allow {missing}"


def least_busy(nodes: Iterable[Node]) -> Node | None:
    """The ready node with the fewest unfinished jobs; of equals the lowest id."""
    return min((node for node in nodes if node.ready), key=lambda node: (node.unfinished, node.id), default=None)


def why_waiting(nodes: Iterable[Node]) -> str:
    states = [f"{node.id} is {'in maintenance' if node.online else 'offline'}" for node in nodes]
    return f"no node can take it now: {listing(states)}"
