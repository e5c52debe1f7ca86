"""The compose file: what it says, and that what it starts works, with its environment, on servers installed here."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fleetbus.settings import BY_NAME
from jumpscripts import bundled
from tests.acceptance.house import House
from tests.servers.influxdb import InfluxDB
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.secantusdb import SecantusDB
from tests.servers.server import Server
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
#: Seconds that anything here may take on a busy machine.
PATIENCE = 120.0
#: `${NAME:?what to do}`: the only way in which a variable is named.
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):\?(?P<remedy>[^}]+)\}")

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
#: They end by themselves.
ONE_SHOT = {"setup"}
OURS = {name for name, service in SERVICES.items() if "build" in service}
every_service = pytest.mark.parametrize("name", SERVICES)
every_one_of_ours = pytest.mark.parametrize("name", sorted(OURS))


def example() -> dict[str, str]:
    """What .env.example says."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def texts(part: Any) -> Iterator[str]:
    """All strings in a part of the file."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from texts(value)


# ---------------------------------------------------------------- what the file says


def test_it_has_the_servers_and_services_of_a_fleet() -> None:
    commands = [" ".join(SERVICES[name]["command"]) for name in sorted(OURS)]
    services = ["handlers", "handlers", "portal", "projections", "setup --scripts"]
    assert commands == ["agent --role container", "archiver", *services]
    assert set(SERVICES) - OURS == {"rabbitmq", "mongo", "influxdb", "redis"}


@every_service
def test_every_service_is_started_again_and_looked_after(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOT:
        assert service["restart"] == "on-failure"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])


@every_service
def test_every_port_is_on_the_loopback_address_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:"), port
    assert SERVICES[name].get("network_mode") is None


@every_service
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    assert re.search(r":\d+\.\d+\.\d+(-[a-z]+)?$", SERVICES[name]["image"]), SERVICES[name]["image"]


@every_one_of_ours
def test_our_containers_can_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"]
    assert not service.get("privileged")


@every_one_of_ours
def test_our_containers_are_given_settings_that_exist(name: str) -> None:
    assert set(SERVICES[name]["environment"]) <= set(BY_NAME)


@every_service
def test_volumes_are_declared_and_files_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).is_file(), volume


def test_no_two_services_write_into_one_volume() -> None:
    used = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    written = [volume.split(":")[0] for volume in used if not volume.startswith(".") and not volume.endswith(":ro")]
    assert sorted(written) == sorted(COMPOSE["volumes"])


def test_only_the_archiver_has_the_key_that_seals() -> None:
    having = [name for name, service in SERVICES.items() if "archiver:/var/lib/fleetbus" in service.get("volumes", ())]
    assert having == ["archiver"]
    for name in sorted(OURS - ONE_SHOT - {"agent"}):
        assert SERVICES[name]["environment"]["FLEETBUS_ARCHIVE"] == "/var/lib/fleetbus-archive"
        assert [one for one in SERVICES[name]["volumes"] if one.startswith("archive:/var/lib/fleetbus-archive")]


@every_service
def test_what_a_service_waits_for_exists(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert how == {"condition": wanted}


def test_variables_have_no_defaults_and_say_what_to_do_without_them() -> None:
    named = set()
    for text in texts(COMPOSE):
        named |= {found["name"] for found in VARIABLE.finditer(text)}
        assert "$" not in VARIABLE.sub("", text).replace("$$", ""), text
    assert named == set(example())


def test_the_example_holds_no_password() -> None:
    assert {name for name, value in example().items() if not value} == {
        name for name in example() if name.endswith("_PASSWORD")
    }


def test_make_env_fills_in_passwords_that_differ_and_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for file in (".env.example", "deploy/make-env"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    command = ["sh", str(tmp_path / "deploy/make-env")]
    subprocess.run(command, check=True, capture_output=True)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o777 == 0o600
    before = made.read_text()
    values = dict(line.split("=", 1) for line in before.splitlines() if line and not line.startswith("#"))
    assert {name: value for name, value in values.items() if example()[name]} == {
        name: value for name, value in example().items() if value
    }
    passwords = [value for name, value in values.items() if name.endswith("_PASSWORD")]
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)
    assert len(set(passwords)) == len(passwords)
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (again.returncode, made.read_text()) == (1, before)
    assert "already" in again.stderr


# ---------------------------------------------------------------- the image


DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_runs_as_somebody_without_rights() -> None:
    users = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]
    assert DOCKERFILE.rstrip().endswith('ENTRYPOINT ["fleetbus"]')
    assert all(re.search(r":\d+\.\d+\.\d+-", image) for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))


@pytest.mark.slow
def test_what_is_copied_into_the_image_makes_a_whole_package(tmp_path: Path) -> None:
    """Built from nothing but the files that the Dockerfile copies and .dockerignore lets through."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", DOCKERFILE, re.MULTILINE)
    assert set(copied) == allowed
    source = tmp_path / "source"
    source.mkdir()
    for name in copied:
        (source / name).parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=PATIENCE)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    packages = {name for name in copied if (ROOT / name / "__init__.py").is_file()}
    assert {path for path in tracked if path.partition("/")[0] in packages} <= inside


# ---------------------------------------------------------------- the same processes on servers installed here


class Site:
    """The file's services as processes of this machine: with its commands and environment, other hosts and folders."""

    def __init__(self, folder: Path, servers: Mapping[str, Server]) -> None:
        self.house = House(folder)
        self.folder = folder
        passwords = dict.fromkeys(example(), "of-tests")
        passwords |= {
            "RABBITMQ_PASSWORD": servers["rabbitmq"].password,
            "MONGO_PASSWORD": servers["mongo"].password,
            "INFLUXDB_PASSWORD": servers["influxdb"].password,
            "REDIS_PASSWORD": servers["redis"].password,
        }
        self.values = {name: value or passwords[name] for name, value in example().items()}
        self.hosts = {
            "rabbitmq:5672": f"127.0.0.1:{servers['rabbitmq'].port()}",
            "rabbitmq:15672": f"127.0.0.1:{servers['rabbitmq'].port('management')}",
            "mongo:27017": f"127.0.0.1:{servers['mongo'].port()}",
            "influxdb:8086": f"127.0.0.1:{servers['influxdb'].port()}",
            "redis:6379": f"127.0.0.1:{servers['redis'].port()}",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, name: str) -> dict[str, str]:
        """Of a service, as compose would give it, on this machine."""
        found = {}
        for variable, value in SERVICES[name]["environment"].items():
            text = VARIABLE.sub(lambda match: self.values[match["name"]], str(value))
            for host, here in self.hosts.items():
                text = text.replace(host, here)
            found[variable] = text
        moved = {
            "FLEETBUS_DATA": str(self.folder / name),
            "FLEETBUS_ARCHIVE": str(self.folder / "archive"),
            "FLEETBUS_HOST": "127.0.0.1",
            "FLEETBUS_PORT": str(self.house.port),
        }
        return {**self.house.environ, **found, **{key: value for key, value in moved.items() if key in found}}

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.house.command(*SERVICES[name]["command"]), env=self.environment(name), stdout=log, stderr=log
            )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def health(self, name: str) -> str:
        """What the container's health check says; "" when it is well."""
        arguments = SERVICES[name]["healthcheck"]["test"][3:]
        pid = [str(self.processes[name].pid)] if arguments == ["bus"] else []
        done = subprocess.run(
            [sys.executable, str(ROOT / "deploy/healthcheck.py"), *arguments, *pid],
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode == 0) == (done.stderr == "")
        return done.stderr

    def stop(self) -> dict[str, int]:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(60) for name, process in self.processes.items()}

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(30)


@pytest.fixture
def site(private_server: Callable[[type[Server]], Server], tmp_path: Path) -> Iterator[Site]:
    kinds: dict[str, type[Server]] = {"rabbitmq": RabbitMQ, "mongo": SecantusDB, "influxdb": InfluxDB, "redis": Redis}
    found = Site(tmp_path, {name: private_server(kind) for name, kind in kinds.items()})
    yield found
    found.kill()


def log_in(site: Site) -> None:
    """With the password that the portal says at its first start."""
    wait_until(lambda: "account admin, password " in site.said("portal"), deadline=PATIENCE, what="the password")
    password = site.said("portal").partition("account admin, password ")[2].split()[0]
    body = {"account": "admin", "password": password, "token_name": "test"}
    wait_until(lambda: not site.health("portal"), deadline=PATIENCE, what="a portal that is well")
    answer = httpx.post(f"{site.house.url}/api/v1/login", json=body, trust_env=False)
    assert answer.status_code == 201, answer.text
    done = site.house.run("login", site.house.url, "--with-token", input=f"{answer.json()['token']}\n")
    assert done.returncode == 0, done.stderr


def scripts(site: Site) -> set[str]:
    return {script["id"] for script in site.house.json("script", "list")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_facts_run_on_the_fleet_that_it_starts_and_one_of_two_handlers_decides(site: Site) -> None:
    site.start("setup")
    assert site.processes.pop("setup").wait(PATIENCE) == 0, site.said("setup")
    for name in sorted(OURS - ONE_SHOT):
        site.start(name)
    log_in(site)
    wait_until(lambda: scripts(site) >= {one.name for one in bundled()}, deadline=PATIENCE, what="all scripts")
    answer = site.house.json("run", "facts", "--role", "container")
    assert (answer["node"], answer["state"]) == (site.values["NODE"], "succeeded")
    assert answer["result"]["cpu"]["count"] == os.cpu_count()

    for name in sorted(OURS - ONE_SHOT):
        wait_until(lambda name=name: not site.health(name), deadline=PATIENCE, what=f"{name} to be well")  # type: ignore[misc]

    # one decides, the other stands by, and takes over when the first is gone
    both = ("handlers-1", "handlers-2")
    (first,) = [name for name in both if "seat taken" in site.said(name)]
    (second,) = {*both} - {first}
    wait_until(lambda: "standing by" in site.said(second), deadline=PATIENCE, what=f"{second} to stand by")
    taken = site.house.json("events", "tail", "--type", "event.seat.taken", "--from", "first")
    # more than once only if the first lost its seat and took it again, as it may on a busy machine
    assert 1 <= len(taken if isinstance(taken, list) else [taken]) <= site.said(first).count("seat taken")
    assert "seat taken" not in site.said(second)
    site.processes[first].kill()
    wait_until(lambda: "seat taken" in site.said(second), deadline=PATIENCE, what=f"{second} to take over")
    assert site.house.json("run", "facts", "--node", site.values["NODE"])["state"] == "succeeded"

    site.processes.pop(first).wait(30)
    assert set(site.stop().values()) == {0}
    passwords = [value for name, value in site.values.items() if name.endswith("_PASSWORD")]
    for name in OURS:
        assert not [password for password in passwords if password in site.said(name)], name


def test_a_health_check_says_what_is_wrong(tmp_path: Path) -> None:
    def check(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "deploy/healthcheck.py")
        command, given = [sys.executable, script, *args], {**os.environ, **environ}
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False)

    bus = check("bus", str(os.getpid()), FLEETBUS_BUS_URL="amqp://x:y@127.0.0.1:1/v")
    assert (bus.returncode, bus.stderr) == (1, "no connection to port 1\n")
    portal = check("portal", FLEETBUS_PORT="1")
    assert portal.returncode == 1
    assert "refused" in portal.stderr
    assert "healthcheck.py portal" in check("something").stderr
    assert json.dumps([bus.stdout, portal.stdout]) == '["", ""]'
