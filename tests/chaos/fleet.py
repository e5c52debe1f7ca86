"""The fleet under test: private servers, two handlers, projections, a portal, three agents, each a process."""

import os
import random
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user
from tests.acceptance.servers_fleet import MARK, Service
from tests.chaos import clock
from tests.chaos.log import LogReader
from tests.chaos.network import Network, open_network
from tests.chaos.servers import Servers, running
from tests.contract.bus_contract import RabbitEngine
from tests.contract.stores import influxdb_say
from tests.servers.management import Management
from tests.servers.ports import free_ports
from tests.waiting import wait_until

#: Node -> role.
NODES: Mapping[str, str] = {"c1": "cpu", "c2": "cpu", "a1": "application"}
#: The processes that have a network and a clock of their own.
PLACED = ("handlers", "standby", *NODES)
#: Seconds; generous, for the machine may be busy.
PATIENCE = 180.0
#: Bytes of the disk that an agent has for its data.
DISK = 64 * 2**20


class Disk:
    """An agent's data folder: a small file system of its own as root, else a folder with a limit on its writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "fleetbus-chaos", str(folder)]
        self.mounted = os.geteuid() == 0 and not subprocess.run(command, check=False, capture_output=True).returncode

    def fill(self, pid: int) -> None:
        if not self.mounted:
            _limit_files(pid, 0)
            return
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                # the last write takes what is left of the last block
                file.write(b"\0" * 65536)

    def free(self, pid: int) -> None:
        if self.mounted:
            (self.folder / "filler").unlink(missing_ok=True)
        else:
            _limit_files(pid, -1)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)


def _limit_files(pid: int, soft: int) -> None:
    """With 0 every write to a file fails, as on a full disk."""
    with suppress(psutil.Error):
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (soft, -1))


class ChaosFleet:
    """Everything that a nemesis may hurt, by name."""

    def __init__(self, folder: Path, servers: Servers, network: Network) -> None:
        self.folder, self.servers, self.network = folder, servers, network
        self.marks = folder / "marks"
        self.marks.mkdir()
        management = Management(servers.broker.management_url, servers.broker.url)
        self.engine = RabbitEngine(management, management.add_vhost("fleet"))
        self.log = LogReader(self.engine.admin_url)
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.documents_url = urlsplit(servers.documents.url)._replace(path="/views").geturl()
        self.series_url = urlsplit(servers.influx.url)._replace(path="/series").geturl()
        self.services: dict[str, Service] = {}
        self.disks: dict[str, Disk] = {}
        self.frozen: set[str] = set()
        self.token = ""

    # beginning

    def begin(self) -> None:
        storage = {
            "FLEETBUS_DOCUMENTS_URL": self.documents_url,
            "FLEETBUS_SERIES_URL": self.series_url,
            "FLEETBUS_LIVE_URL": self.servers.redis.url,
        }
        self._start("handlers", ["handlers"], HANDLERS)
        self._start("standby", ["handlers"], HANDLERS)
        self._start("projections", ["projections"], PROJECTIONS, **storage)
        self._start("portal", ["portal", "--port", str(self.port)], PORTAL, **storage)
        for node, role in NODES.items():
            self.engine.invite(node)
            self._start(node, ["agent", "--node", node, "--role", role], agent_user(node))
        self._log_in()
        self._publish_script()

    def _start(self, name: str, arguments: list[str], user: str, **environment: str) -> None:
        known = {"FLEETBUS_DATA": str(self._data(name)), "FLEETBUS_LOG": "json", **environment}
        url, prefix, module = self.engine.url(user), list[str](), ["fleetbus"]
        if name in PLACED:
            host, port = self.network.join(name, self.servers.broker.port())
            at = urlsplit(self.engine.url(user, port))
            url = at._replace(netloc=at.netloc.replace(f"@{at.hostname}:", f"@{host}:")).geturl()
            prefix = self.network.prefix(name)
            clock.set_skew(self._clock(name), 0.0)
            module = ["tests.chaos.clock", str(self._clock(name))]
        known["FLEETBUS_BUS_URL"] = url
        self.services[name] = Service(name, arguments, known, self.folder / f"{name}.log", prefix, module)

    def _data(self, name: str) -> Path:
        folder = self.folder / "data" / name
        folder.parent.mkdir(exist_ok=True)
        if name in NODES:
            self.disks[name] = Disk(folder)
        else:
            folder.mkdir()
        return folder

    def _clock(self, name: str) -> Path:
        return self.folder / f"{name}.clock"

    def _log_in(self) -> None:
        said = self.folder / "portal.log"

        def password() -> str:
            found = re.search(r"account admin, password (\S+)", said.read_text())
            return found[1] if found else ""

        body = {"account": "admin", "password": wait_until(password, deadline=PATIENCE, what="the portal's password")}
        answer = wait_until(
            lambda: _post(f"{self.url}/api/v1/login", {**body, "token_name": "chaos"}),
            deadline=PATIENCE,
            what="the portal to log in",
        )
        self.token = answer["token"]

    def _publish_script(self) -> None:
        body = {
            "id": str(uuid.uuid4()),
            "type": "command.script.publish",
            "data": {"name": "mark", "source": MARK},
        }
        wait_until(
            lambda: _post(f"{self.url}/api/v1/commands?wait=10", body, self.token).get("outcome"),
            deadline=PATIENCE,
            what="the script to be published",
        )

    # what a nemesis does

    def kill(self, name: str) -> None:
        self.services[name].kill()

    def freeze(self, name: str) -> None:
        self.frozen.add(name)
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.frozen.discard(name)
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.services[name].pid, number)

    def kill_a_worker(self, node: str, chance: random.Random) -> None:
        """One of the processes below the agent: a worker, or a job."""
        with suppress(psutil.Error):
            below = psutil.Process(self.services[node].pid).children(recursive=True)
            if below:
                chance.choice(sorted(below, key=lambda one: one.pid)).kill()

    def fill_disk(self, node: str) -> None:
        self.disks[node].fill(self.services[node].pid)

    def free_disk(self, node: str) -> None:
        self.disks[node].free(self.services[node].pid)

    def skew(self, name: str, seconds: float) -> None:
        clock.set_skew(self._clock(name), seconds)

    def holder(self, said: str) -> str:
        """The service that has the seat, by what the log says of its process."""
        pid = said.rpartition(":")[2]
        names = [name for name in ("handlers", "standby") if str(self.services[name].pid) == pid]
        return names[0] if names else "handlers"

    def close(self) -> None:
        for name in tuple(self.frozen):
            self.thaw(name)
        for service in self.services.values():
            service.retire(grace=5)
        self.log.close()
        for disk in self.disks.values():
            disk.close()


def _post(url: str, body: Mapping[str, object], token: str = "") -> dict[str, str]:
    """The answer, or nothing while there is none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError:
        return {}
    return dict(answer.json()) if answer.is_success else {}


@contextmanager
def chaos_fleet(folder: Path, network: Network | None = None) -> Iterator[ChaosFleet]:
    """Everything started in `folder`, and nothing of it left afterwards."""
    with ExitStack() as stack:
        network = network or open_network()
        stack.callback(network.close)
        servers = stack.enter_context(running(folder / "servers", network.address))
        influxdb_say(servers.influx.url, 'CREATE DATABASE "series"')
        fleet = ChaosFleet(folder, servers, network)
        stack.callback(fleet.close)
        fleet.begin()
        yield fleet
