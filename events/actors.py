"""Which actor a broker user may be. The broker verifies the user; this table limits what the user may claim."""

#: The user of each kind of process; agents are `node.<id>`, services `service.<name>`.
HANDLERS = "handlers"
PROJECTIONS = "projections"
PORTAL = "portal"
ARCHIVER = "archiver"


def agent_user(node: str) -> str:
    return f"node.{node}"


def service_user(name: str) -> str:
    return f"service.{name}"


def may_be(user: str, actor: str, routing_key: str) -> bool:
    """Whether `user` may publish as `actor` under this key.

    An agent also passes on what local services say (`service:<name>`), under a key that ends in its own node.
    The portal speaks for the people and services that it authenticated.
    """
    kind, _, name = user.partition(".")
    if user == ARCHIVER:
        return actor == "service:archiver"
    if user == HANDLERS:
        return actor == "system:fleet"
    if user == PORTAL:
        return actor.startswith(("user:", "service:"))
    if user == PROJECTIONS:
        return actor == "service:projections"
    if kind == "node":
        own_key = routing_key.endswith(f".node.{name}")
        return own_key and (actor == f"node:{name}" or actor.startswith("service:"))
    return kind == "service" and actor == f"service:{name}"
