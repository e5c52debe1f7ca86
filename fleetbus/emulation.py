"""Emulated agents as a whole: their broker users, and the processes that play them."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, unquote, urlsplit

import msgspec
from msgspec import Struct

from bus.users import delete_users, ensure_users
from events.actors import agent_user
from nodeagent.emulated import Counts, total
from nodeagent.emulator import Member, Team

#: Users that are made, or removed, with one request.
AT_ONCE = 200
#: Seconds that the processes have to say goodbye for their agents.
LEAVE_WITHIN = 60.0

Tell = Callable[[int, int], None]


class Place(Struct, frozen=True):
    """The broker: `bus_url` is amqp://HOST:PORT/VHOST (a user in it does not matter), and its management API."""

    bus_url: str
    management_url: str

    @property
    def vhost(self) -> str:
        return unquote(urlsplit(self.bus_url).path[1:]) or "/"

    def url_of(self, user: str, password: str) -> str:
        at = urlsplit(self.bus_url)
        host = at.netloc.rpartition("@")[2]
        return f"{at.scheme}://{quote(user)}:{quote(password, safe='')}@{host}/{quote(self.vhost, safe='')}"


def node_ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{n:05}" for n in range(1, count + 1)]


def make_users(place: Place, nodes: list[str], tell: Tell) -> tuple[Member, ...]:
    """A broker user with an inbox for each node. Raises `Refused`, `Unreachable`."""
    members: list[Member] = []
    for first in range(0, len(nodes), AT_ONCE):
        passwords = {node: secrets.token_urlsafe(24) for node in nodes[first : first + AT_ONCE]}
        by_user = {agent_user(node): password for node, password in passwords.items()}
        ensure_users(place.management_url, place.vhost, by_user)
        members += [Member(node, place.url_of(agent_user(node), password)) for node, password in passwords.items()]
        tell(len(members), len(nodes))
    return tuple(members)


def remove_users(place: Place, nodes: list[str], tell: Tell) -> None:
    """Takes the users and their inboxes away. Raises `Refused`, `Unreachable`."""
    for first in range(0, len(nodes), AT_ONCE):
        tell(first, len(nodes))
        piece = [agent_user(node) for node in nodes[first : first + AT_ONCE]]
        delete_users(place.management_url, place.vhost, piece)
    tell(len(nodes), len(nodes))


class Players:
    """The processes. `counts` is what they said last; `dead` is true when one ended without being told to."""

    def __init__(self, processes: list["subprocess.Popen[str]"]) -> None:
        self._processes = processes
        self._said = [Counts() for _ in processes]
        self._ears = [threading.Thread(target=self._listen, args=each, daemon=True) for each in enumerate(processes)]
        for ear in self._ears:
            ear.start()

    @property
    def counts(self) -> Counts:
        return total(self._said)

    @property
    def dead(self) -> bool:
        return any(process.poll() is not None for process in self._processes)

    def end(self) -> None:
        """Lets the agents say goodbye; then `counts` are the last ones."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            _end(process)
        for ear in self._ears:
            ear.join()

    def _listen(self, n: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._said[n] = msgspec.json.decode(line, type=Counts)


@contextmanager
def players(team: Team, count: int) -> Iterator[Players]:
    """The team, dealt out to `count` processes, until the end of the block."""
    hands = [team.members[n::count] for n in range(count)]
    processes = [_start(msgspec.structs.replace(team, members=hand)) for hand in hands if hand]
    found = Players(processes)
    try:
        yield found
    finally:
        found.end()


def _start(team: Team) -> "subprocess.Popen[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLEETBUS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "nodeagent.emulator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        # Ctrl-C is for this process, which then tells them
        start_new_session=True,
    )
    assert process.stdin is not None
    # over the pipe, so that no list of processes shows the passwords
    process.stdin.write(msgspec.json.encode(team).decode() + "\n")
    process.stdin.flush()
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        process.wait(LEAVE_WITHIN)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
