"""The services one by one, as they are run past one machine: on real servers, with settings from the environment."""

import json
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from bus.users import ensure_user
from fleetbus.metrics import METRICS
from tests.acceptance.house import House
from tests.contract.bus_contract import PASSWORD
from tests.contract.stores import influxdb_database, mongodb_database
from tests.servers.management import Management
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


class Site:
    """A fleet on real servers: a virtual host, a database and a series of this module's own."""

    def __init__(self, folder: Path, vhost: str, management: Management, storage: dict[str, str]) -> None:
        self.house = House(folder)
        self.management = management
        self.vhost = unquote(urlsplit(vhost).path[1:])
        self.at = vhost.rpartition("@")[2]
        self.ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.ears.bind(("127.0.0.1", 0))
        self.ears.settimeout(60)
        self.storage = {
            **storage,
            "FLEETBUS_MANAGEMENT_URL": management.url,
            "FLEETBUS_STATSD_URL": f"statsd://127.0.0.1:{self.ears.getsockname()[1]}",
        }
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, service: str, *args: str) -> None:
        # users belong to the whole broker: whoever tests on it at the same time must not change this one's password
        ensure_user(self.management.url, self.vhost, service, PASSWORD)
        bus = {"FLEETBUS_BUS_URL": f"amqp://{service}:{PASSWORD}@{self.at}"}
        self.begin(service, service, *args, **self.storage, **bus)

    def begin(self, name: str, *args: str, **environ: str) -> None:
        log = (self.house.folder / f"{name}.log").open("a")
        with log:
            self.processes[name] = subprocess.Popen(
                self.house.command(*args), env={**self.house.environ, **environ}, stdout=log, stderr=log, text=True
            )

    def said(self, name: str) -> str:
        return (self.house.folder / f"{name}.log").read_text()

    def state(self, node: str) -> str:
        done = self.house.run("node", "list", "--json")
        nodes = json.loads(done.stdout) if done.returncode == 0 else []
        return next((str(found["state"]) for found in nodes if found["id"] == node), "")

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(60) for name, process in self.processes.items()}
        self.processes.clear()
        return codes

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(30)
        self.ears.close()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    rabbitmq_management: Management,
    mongodb_url: str,
    influxdb_url: str,
    redis_url: str,
) -> Iterator[Site]:
    with ExitStack() as stack:
        name = f"test-{uuid.uuid4().hex[:12]}"
        vhost = rabbitmq_management.add_vhost(name)
        stack.callback(rabbitmq_management.delete_vhost, name)
        storage = {
            "FLEETBUS_DOCUMENTS_URL": stack.enter_context(mongodb_database(mongodb_url)),
            "FLEETBUS_SERIES_URL": stack.enter_context(influxdb_database(influxdb_url)),
            "FLEETBUS_LIVE_URL": redis_url,
        }
        found = Site(tmp_path_factory.mktemp("site"), vhost, rabbitmq_management, storage)
        stack.callback(found.kill)
        found.start("handlers")
        found.start("projections")
        found.start("portal", "--port", str(found.house.port))
        log_in(found)
        yield found


def log_in(site: Site) -> None:
    """By the account whose password the portal shows at its first start."""
    wait_until(lambda: "the portal answers" in site.said("portal"), deadline=90, what="the portal")
    (line,) = [line for line in site.said("portal").splitlines() if line.startswith("account admin")]
    site.house.said.write_text(f"password  {line.split()[3]}\n")
    body = {"account": "admin", "password": site.house.password, "token_name": "test"}
    answer = httpx.post(f"{site.house.url}/api/v1/login", json=body, trust_env=False)
    assert answer.status_code == 201, answer.text
    token = answer.json()["token"]
    assert site.house.run("login", site.house.url, "--with-token", input=f"{token}\n").returncode == 0


def test_a_machine_joins_by_the_command_of_its_invitation_and_runs_jobs(site: Site) -> None:
    house = site.house
    house.publish(
        "greet", 'descr = "d"\n\ndef action(name: str) -> str:\n    print("here")\n    return f"hello {name}"\n'
    )
    command = house.json("node", "invite", "--role", "web.front")["command"]
    token, words = command.partition(" ")[0].partition("=")[2], command.split()
    assert words[1:4] == ["fleetbus", "agent", "--join"]
    folder = str(house.folder / "web1")
    site.begin("web1", *words[2:], "--node", "web1", "--data", folder, FLEETBUS_JOIN_TOKEN=token)
    wait_until(lambda: site.state("web1") == "online", deadline=60, what="the node web1")
    answer = house.json("run", "greet", "--role", "web", "--arg", "name=Ada")
    assert (answer["node"], answer["result"]) == ("web1", "hello Ada")
    assert house.run("job", "logs", answer["id"]).stdout == "here\n"
    # started again it is the same node, with nothing but its folder
    before = site.processes.pop("web1")
    before.terminate()
    assert before.wait(60) == 0
    wait_until(lambda: site.state("web1") == "offline", deadline=60, what="the node to be gone")
    site.begin("web1", "agent", "--data", folder)
    wait_until(lambda: site.state("web1") == "online", deadline=60, what="the node to be back")
    assert house.json("run", "greet", "--role", "web", "--arg", "name=Bo")["result"] == "hello Bo"


def test_services_send_their_metrics_under_names_that_are_known(site: Site) -> None:
    assert site.house.run("node", "list").returncode == 0
    seen: set[str] = set()
    services = {"handlers", "projections", "portal"}
    while {name.split(".")[1] for name in seen} < services or not any("bus.published" in name for name in seen):
        seen.add(site.ears.recv(2000).decode().partition(":")[0])
    assert {name.split(".", 2)[2] for name in seen} <= set(METRICS)
    assert {name.split(".")[0] for name in seen} == {"fleetbus"}


def test_a_second_handlers_process_stands_by_and_takes_over(site: Site) -> None:
    first = site.processes["handlers"]
    site.start("handlers")
    second = site.processes["handlers"]
    wait_until(lambda: site.said("handlers").count("standing by") == 2, deadline=60, what="the second to stand by")
    first.terminate()
    assert first.wait(60) == 0
    wait_until(lambda: site.said("handlers").count("seat taken") == 2, deadline=60, what="the second to take over")
    assert second.poll() is None
    assert site.house.run("script", "list").returncode == 0


def test_sigterm_ends_every_service_in_good_order(site: Site) -> None:
    assert set(site.stop().values()) == {0}


# settings that are wrong: one clear line, and never a traceback


@pytest.mark.parametrize(
    ("service", "environ", "code", "words"),
    [
        ("handlers", {}, 2, ["FLEETBUS_BUS_URL is not set", "amqp://"]),
        ("projections", {"FLEETBUS_BUS_URL": "sqlite:///tmp/x/bus"}, 2, ["FLEETBUS_DOCUMENTS_URL is not set"]),
        ("handlers", {"FLEETBUS_BUS_URL": "kafka://x"}, 2, ["FLEETBUS_BUS_URL", "kafka://", "amqp://"]),
        ("handlers", {"FLEETBUS_BUS_URL": "amqp://handlers:hunter2@127.0.0.1:1/x"}, 3, ["127.0.0.1:1", "handlers"]),
        ("portal", {"FLEETBUS_PORT": "none"}, 2, ["FLEETBUS_PORT", "65535"]),
        ("agent", {"FLEETBUS_BUS_URL": "amqp://other:hunter2@127.0.0.1:1/x", "FLEETBUS_NODE": "n1"}, 2, ["node.n1"]),
        ("agent", {"FLEETBUS_NODE": "Not A Node"}, 2, ["Not A Node", "a-z"]),
        ("handlers", {"FLEETBUS_STATSD_URL": "statsd://", "FLEETBUS_DATA": "{tmp}/d"}, 2, ["FLEETBUS_STATSD_URL"]),
    ],
)
def test_a_service_says_which_setting_is_wrong_and_what_would_be_right(
    tmp_path: Path, service: str, environ: dict[str, str], code: int, words: list[str]
) -> None:
    given = {name: value.format(tmp=tmp_path) for name, value in environ.items()}
    done = House(tmp_path).run(service, **given)
    assert done.returncode == code, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4


def test_a_portal_whose_port_is_in_use_says_so(tmp_path: Path) -> None:
    house = House(tmp_path)
    with closing(socket.create_server(("127.0.0.1", house.port))):
        done = house.run("portal", "--data", str(house.data), "--port", str(house.port))
    assert done.returncode == 3
    assert f"port {house.port}" in done.stderr
