"""What only RabbitMQ's management API tells: whether something cuts the log, and what a confirm means there."""

import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct

from bus.management import Management
from bus.rabbitmq.names import ARCHIVE, EXCHANGE, STREAMS

#: `stream`: a confirm means that the stream has written it; `fsync`: and that a quorum queue has it on its disk.
Durability = Literal["stream", "fsync"]

#: What cuts a stream, in a policy; as an argument of a queue with `x-` before it.
RETENTION = ("max-age", "max-length-bytes", "max-length", "message-ttl", "expires")
#: Streams that keep everything.
KEPT = (STREAMS["log"], STREAMS["blobs"])
#: Keys of everything that must survive a power cut.
KEYS = ("command.#", "event.#")
#: Seconds for which one look is good.
LOOK_EVERY = 10.0


class BrokerState(Struct, frozen=True, kw_only=True):
    """One look. `retention`: queue -> what cuts it, in words; `waiting`: messages in the queue `fleetbus.archive`."""

    durability: Durability
    waiting: int = 0
    retention: Mapping[str, str] = {}


class Broker:
    """The broker at `management_url` (see `bus.management`), as far as `vhost` goes. Any thread may ask."""

    def __init__(self, management_url: str, vhost: str) -> None:
        self._url = management_url
        self._vhost = quote(vhost, safe="")
        self._last: BrokerState | None = None
        self._looked = 0.0

    def look(self) -> BrokerState:
        """How it is, or was up to 10 seconds ago. Raises `Refused`, `Unreachable`."""
        if self._last is None or time.monotonic() - self._looked > LOOK_EVERY:
            with Management(self._url) as management:
                self._last = self._ask(management)
            self._looked = time.monotonic()
        return self._last

    def _ask(self, management: Management) -> BrokerState:
        queues = {name: management.get(f"queues/{self._vhost}/{name}") or {} for name in (*KEPT, ARCHIVE)}
        bound = management.get(f"bindings/{self._vhost}/e/{EXCHANGE}/q/{ARCHIVE}") or []
        return BrokerState(
            durability="fsync" if set(KEYS) <= {one["routing_key"] for one in bound} else "stream",
            waiting=int(queues[ARCHIVE].get("messages", 0)),
            retention={name: why for name in KEPT if (why := _retention(queues[name]))},
        )


def _retention(queue: Mapping[str, Any]) -> str:
    """What cuts this queue: `policy 'tidy' sets max-age=1D`; "" when nothing does."""
    policy = queue.get("effective_policy_definition") or {}
    names = ", ".join(repr(name) for kind in ("policy", "operator_policy") if (name := queue.get(kind)))
    arguments = queue.get("arguments") or {}
    found = [f"policy {names} sets {key}={policy[key]}" for key in RETENTION if key in policy]
    found += [f"its argument x-{key} is {arguments[f'x-{key}']}" for key in RETENTION if f"x-{key}" in arguments]
    return "; ".join(found)
