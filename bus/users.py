"""What each broker user may do, as data, and how users come and go through RabbitMQ's management API.

The rules behind the table:

- Who publishes on `fleetbus` has topic permissions there, because without one RabbitMQ allows every key.
- An agent declares nothing. Whoever may declare a name and read from it could make an exchange (or a dead-lettering
  queue) of that name which forwards to `fleetbus`, past the topic permissions. So its inbox is made together with it.
- An agent may bind its inbox, and to keys of its own node only. RabbitMQ cannot tell that from binding `fleetbus` to
  them: what comes back that way has the node's name for its first word, and is bad for every reader.
- Nobody may write to the default exchange: it leads into every queue.
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import quote

import httpx
from msgspec import Struct

from bus.management import Management
from bus.rabbitmq.names import DELIVER, EXCHANGE, inbox_queue
from events.actors import ARCHIVER, HANDLERS, PORTAL, PROJECTIONS
from events.names import NODE_PATTERN, SERVICE_PATTERN
from events.registry import PLATFORM_WORDS

#: What keys on `fleetbus` begin with. A node of that name could lead its deliveries back there under a fitting key.
FIRST_WORDS = frozenset({"command", "event", "telemetry", "blob"})
NOTHING = r"^\z"
BLOB = r"blob\.[0-9a-f]{64}\.[0-9]+\.[0-9]+"


class Topic(Struct, frozen=True):
    """Patterns of routing keys on one topic exchange: for publishing, and for binding."""

    write: str = NOTHING
    read: str = NOTHING


class Rights(Struct, frozen=True):
    """Patterns of the names of exchanges and queues, and of the keys on the topic exchanges."""

    configure: str
    write: str
    read: str
    topics: Mapping[str, Topic]


def _rights(write: str, read: str, fleet: str, bindings: str = NOTHING) -> Rights:
    """Of a user who declares nothing: `fleet` are its keys on `fleetbus`, `bindings` those it may bind to."""
    topics = {EXCHANGE: Topic(write=fleet), DELIVER: Topic(read=bindings)}
    return Rights(configure=NOTHING, write=write, read=read, topics=MappingProxyType(topics))


_FLEET = rf"^{EXCHANGE}\z"
_STREAMS = r"^fleetbus\.(log|telemetry|blobs)\z"
#: What the topology consists of.
_OURS = r"fleetbus(\.(unrouted|deliver|log|telemetry|blobs|archive))?|seat\.[a-z0-9-]+"

_PLATFORM = {
    HANDLERS: Rights(
        configure=rf"^({_OURS}|node\.[a-z0-9-]+)\z",
        write=rf"^({_OURS})\z",
        read=rf"^({_OURS})\z",
        topics=MappingProxyType({}),
    ),
    PROJECTIONS: _rights(write=_FLEET, read=_STREAMS, fleet=r"^(event\.projections\..+|telemetry\.canary)\z"),
    ARCHIVER: _rights(
        write=_FLEET, read=r"^fleetbus\.(log|archive)\z", fleet=r"^(event\.archive\.sealed|telemetry\.canary)\z"
    ),
    PORTAL: _rights(write=_FLEET, read=_STREAMS, fleet=rf"^((command|event)\..+|telemetry\.canary|{BLOB})\z"),
}


def rights_of(user: str) -> Rights:
    """What `user` may do (`events.actors`). Raises `ValueError` for a user that fleetbus does not know."""
    kind, _, name = user.partition(".")
    if user in _PLATFORM:
        return _PLATFORM[user]
    if kind == "node" and re.fullmatch(NODE_PATTERN, name) and name not in FIRST_WORDS:
        return _agent(name)
    if kind == "service" and re.fullmatch(SERVICE_PATTERN, name) and name not in PLATFORM_WORDS:
        return _rights(write=_FLEET, read=NOTHING, fleet=rf"^(event\.{name}\..+|command\..+)\z")
    raise ValueError(
        f"{user!r} is no user of fleetbus; handlers, projections, portal, archiver, node.ID and service.NAME are "
        f"(ID is none of {', '.join(sorted(FIRST_WORDS))}, NAME none of {', '.join(sorted(PLATFORM_WORDS))})"
    )


def _agent(node: str) -> Rights:
    inbox = re.escape(inbox_queue(node))
    return _rights(
        write=rf"^(fleetbus|{inbox})\z",
        read=rf"^(fleetbus\.deliver|{inbox})\z",
        fleet=rf"^((command|event|telemetry)\..+\.node\.{node}|{BLOB})\z",
        bindings=rf"^{node}\.",
    )


def ensure_vhost(management_url: str, vhost: str) -> None:
    """Makes the virtual host, where the administrator may do everything. Harmless when it is there.

    `management_url` as for `ensure_user`. Raises `Refused`, `Unreachable`.
    """
    at, admin = quote(vhost, safe=""), httpx.URL(management_url).username
    with Management(management_url) as management:
        management.put(f"vhosts/{at}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        management.put(f"permissions/{at}/{quote(admin, safe='')}", everything)


def ensure_user(management_url: str, vhost: str, user: str, password: str) -> None:
    """Makes the user, or gives it this password and today's rights. An agent gets its inbox too.

    `management_url` is `http(s)://ADMIN:PASSWORD@HOST:PORT`; that user administers the broker and may declare queues.
    Raises `Refused`, `Unreachable`, and `ValueError` as `rights_of` does.
    """
    rights = rights_of(user)
    at = quote(vhost, safe="")
    with Management(management_url) as management:
        management.put(f"users/{user}", {"password_hash": _hash(password), "tags": ""})
        # the general permissions come last: without topic permissions they allow every key
        for exchange, topic in rights.topics.items():
            body = {"exchange": exchange, "write": topic.write, "read": topic.read}
            management.put(f"topic-permissions/{at}/{user}", body)
        kind, _, name = user.partition(".")
        if kind == "node":
            management.put(f"queues/{at}/{inbox_queue(name)}", {"durable": True})
        body = {"configure": rights.configure, "write": rights.write, "read": rights.read}
        management.put(f"permissions/{at}/{user}", body)


def ensure_users(management_url: str, vhost: str, passwords: Mapping[str, str]) -> None:
    """As `ensure_user` for many new users (user -> password), in one request.

    Nobody may know the passwords before it returns: for a moment a user may have its general permissions and not yet
    those on topics. Raises as `ensure_user`.
    """
    users, permissions, topics, queues = [], [], [], []
    for user, password in passwords.items():
        rights = rights_of(user)
        at = {"user": user, "vhost": vhost}
        users.append({"name": user, "password_hash": _hash(password), "tags": ""})
        permissions.append({**at, "configure": rights.configure, "write": rights.write, "read": rights.read})
        for exchange, topic in rights.topics.items():
            topics.append({**at, "exchange": exchange, "write": topic.write, "read": topic.read})
        kind, _, name = user.partition(".")
        if kind == "node":
            queue = {"name": inbox_queue(name), "vhost": vhost, "durable": True, "auto_delete": False, "arguments": {}}
            queues.append(queue)
    made = {"users": users, "permissions": permissions, "topic_permissions": topics, "queues": queues}
    with Management(management_url) as management:
        management.post("definitions", made)


def delete_user(management_url: str, vhost: str, user: str) -> None:
    """Takes the user's rights away, closes its connections, and deletes an agent's inbox. Harmless when it is gone.

    Raises `Refused`, `Unreachable`.
    """
    with Management(management_url) as management:
        management.delete(f"users/{quote(user, safe='')}")
        kind, _, name = user.partition(".")
        if kind == "node":
            management.delete(f"queues/{quote(vhost, safe='')}/{quote(inbox_queue(name), safe='')}")


def delete_users(management_url: str, vhost: str, users: Sequence[str]) -> None:
    """As `delete_user` for many at once. Raises as it does."""
    with Management(management_url) as management:
        management.post("users/bulk-delete", {"users": list(users)})
        for user in users:
            kind, _, name = user.partition(".")
            if kind == "node":
                management.delete(f"queues/{quote(vhost, safe='')}/{quote(inbox_queue(name), safe='')}")


def _hash(password: str) -> str:
    """As RabbitMQ keeps it (rabbit_password_hashing_sha256), so that the password itself does not travel."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
