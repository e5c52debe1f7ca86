"""Between a process and the broker: a network that can be cut.

As root each process has a network namespace of its own, joined to a bridge by a veth pair, and a cut is a rule of
nftables that drops every packet in it, silently, as a broken cable does. Elsewhere a TCP proxy stands before the
broker for each process; frozen, it passes nothing on. Connections stay open on both sides either way.
"""

import contextlib
import os
import shutil
import subprocess
from typing import Protocol

from tests.proxy import Proxy

CUT = "table inet cut { chain i { type filter hook input priority 0; policy drop; }; "
CUT += "chain o { type filter hook output priority 0; policy drop; }; }"


class Network(Protocol):
    #: What it is made of, for the report.
    kind: str
    #: An address of this machine at which processes in it reach what listens there, or None: loopback is enough.
    address: str | None

    def join(self, name: str, broker_port: int) -> tuple[str, int]:
        """A place for a process: the host and port of its broker."""
        ...

    def prefix(self, name: str) -> list[str]:
        """What stands before the command line of a process in that place."""
        ...

    def cut(self, name: str) -> None: ...

    def mend(self, name: str) -> None: ...

    def close(self) -> None: ...


def open_network() -> Network:
    usable = os.geteuid() == 0 and shutil.which("ip") and shutil.which("nft")
    if usable:
        network = Namespaces()
        try:
            network.open()
        except subprocess.CalledProcessError:
            # a container may hide the right from root
            network.close()
        else:
            return network
    return Proxies()


class Namespaces:
    """One bridge of this process' own, named by its process id."""

    kind = "network namespaces, veth and nftables"

    def __init__(self) -> None:
        me = os.getpid()
        self._bridge = f"fbb{me}"
        self._net = f"10.{64 + me // 250 % 128}.{me % 250}"
        self.address: str | None = f"{self._net}.1"
        self._names: dict[str, str] = {}

    def open(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.address}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        # a namespace is of use only when packets in it can be dropped
        self.join("probe", 0)
        self.cut("probe")

    def join(self, name: str, broker_port: int) -> tuple[str, int]:
        number = len(self._names) + 2
        space, near, far = f"{self._bridge}-{name}", f"fbv{os.getpid()}x{number}", "eth0"
        self._names[name] = space
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _run("ip", "link", "set", near, "master", self._bridge, "up")
        _run("ip", "-n", space, "addr", "add", f"{self._net}.{number}/24", "dev", far)
        _run("ip", "-n", space, "link", "set", far, "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        return str(self.address), broker_port

    def prefix(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[name]]

    def cut(self, name: str) -> None:
        _run(*self.prefix(name), "nft", CUT)

    def mend(self, name: str) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _run(*self.prefix(name), "nft", "delete table inet cut")

    def close(self) -> None:
        for space in self._names.values():
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], check=False, capture_output=True)


class Proxies:
    """One proxy before the broker for each process."""

    kind = "TCP proxies"
    address: str | None = None

    def __init__(self) -> None:
        self._proxies: dict[str, Proxy] = {}

    def join(self, name: str, broker_port: int) -> tuple[str, int]:
        self._proxies[name] = Proxy(broker_port)
        return "127.0.0.1", self._proxies[name].port

    def prefix(self, name: str) -> list[str]:
        return []

    def cut(self, name: str) -> None:
        self._proxies[name].freeze()

    def mend(self, name: str) -> None:
        self._proxies[name].thaw()

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
