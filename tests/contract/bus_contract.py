"""The engines on which the contract of `bus.ports` is run."""

import uuid
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from bus import topology
from bus.ports import Bus, Message, Reader, Record
from bus.rabbitmq import RabbitBus
from bus.users import delete_user, ensure_user
from bus.wiring import open_bus
from events.actors import HANDLERS, agent_user
from tests.servers.management import Management
from tests.waiting import wait_until

#: Of every broker user in tests. Users belong to the broker, not to a virtual host: all tests must agree.
PASSWORD = "of-tests"
#: Seconds within which an engine that is well does what it is asked, on a busy machine, too.
SOON = 60.0


class Engine(Protocol):
    """Where the processes of one fleet meet. Each call of `bus` stands for a process of its own."""

    def bus(self, user: str, folder: Path | None = None) -> Bus: ...

    def invite(self, node: str) -> None:
        """What is done before an agent of this node can come."""
        ...

    def close(self) -> None: ...


class EmbeddedEngine:
    def __init__(self, folder: Path) -> None:
        self._url = f"sqlite://{folder}"
        self._opened: list[Bus] = []

    def bus(self, user: str, folder: Path | None = None) -> Bus:
        self._opened.append(open_bus(self._url, user))
        return self._opened[-1]

    def invite(self, node: str) -> None:
        """On one machine everyone may make an inbox."""

    def close(self) -> None:
        for bus in self._opened:
            bus.close()


class RabbitEngine:
    """A virtual host with the topology; every user has the rights that `bus.users` gives it.

    With `stream_url`, where the broker speaks the native stream protocol, its buses read streams over that.
    """

    def __init__(self, management: Management, vhost_url: str, stream_url: str = "") -> None:
        self._management = management.url
        #: May do everything.
        self.admin_url = vhost_url
        self._broker = urlsplit(vhost_url)
        self._opened: list[Bus] = []
        self._users: set[str] = set()
        self.stream_url = stream_url
        topology.apply(self.url(HANDLERS))

    @property
    def vhost(self) -> str:
        return unquote(self._broker.path.removeprefix("/"))

    @property
    def port(self) -> int:
        return self._broker.port or 5672

    def url(self, user: str, port: int | None = None) -> str:
        """Of a user, made now if need be; `port` of a proxy before the broker."""
        if user not in self._users:
            self._make(user)
        at = f"{user}:{PASSWORD}@{self._broker.hostname}:{port or self._broker.port}"
        return self._broker._replace(netloc=at).geturl()

    def _make(self, user: str) -> None:
        ensure_user(self._management, self.vhost, user, PASSWORD)
        self._users.add(user)

    def invite(self, node: str) -> None:
        self._make(agent_user(node))

    def bus(self, user: str, folder: Path | None = None, port: int | None = None) -> RabbitBus:
        bus = RabbitBus(self.url(user, port), folder, self.stream_url)
        self._opened.append(bus)
        return bus

    def admin(self) -> RabbitBus:
        bus = RabbitBus(self.admin_url, stream_url=self.stream_url)
        self._opened.append(bus)
        return bus

    def close(self) -> None:
        for bus in self._opened:
            bus.close()
        # a node is of one test alone; the others' users are those of other tests, too
        for user in self._users:
            if user.startswith("node."):
                delete_user(self._management, self.vhost, user)


def new_node() -> str:
    """A node that no other test knows."""
    return f"n-{uuid.uuid4().hex[:10]}"


def event(n: int, key: str = "event.test.said") -> Message:
    return Message(key=key, body=str(n).encode(), id=str(uuid.uuid4()), type=key)


def read_some(reader: Reader, count: int, within: float = SOON) -> list[Record]:
    """The next `count` records or more; fails when they do not come."""
    records: list[Record] = []

    def enough() -> bool:
        records.extend(reader.read(timeout=0.2))
        return len(records) >= count

    wait_until(enough, deadline=within, what=f"{count} records")
    return records
