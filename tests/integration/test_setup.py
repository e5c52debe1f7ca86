"""`fleetbus setup` against a real broker: afterwards services can come, and nobody may do more than is theirs."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote, urlsplit

import pytest

from bus.admission import AdmissionState, Admitted, Duplicate, admit
from bus.users import delete_user
from bus.wiring import open_bus
from events.actors import PROJECTIONS, service_user
from fleetbus_client import AmqpClient, Refused
from jumpscripts import bundled
from tests.contract.bus_contract import PASSWORD, read_some
from tests.servers.management import Management

#: Platform users belong to the broker that all tests share, so their passwords stay as they are.
PLATFORM = f"handlers:{PASSWORD} projections:{PASSWORD} portal:{PASSWORD}"


@pytest.fixture
def vhost(rabbitmq_management: Management) -> Iterator[str]:
    """A name that no virtual host has yet."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    if name in [found["name"] for found in rabbitmq_management.ask("GET", "vhosts")]:
        rabbitmq_management.delete_vhost(name)


@pytest.fixture
def service(rabbitmq_management: Management, vhost: str) -> Iterator[str]:
    """A service that only this test knows."""
    name = f"s-{uuid.uuid4().hex[:8]}"
    yield name
    delete_user(rabbitmq_management.url, vhost, service_user(name))


class Broker:
    """The broker as `fleetbus setup` is told of it."""

    def __init__(self, management: Management, amqp_url: str, vhost: str) -> None:
        self.at = f"{urlsplit(amqp_url).hostname}:{urlsplit(amqp_url).port}/{vhost}"
        self.environ = {"FLEETBUS_BUS_URL": f"amqp://{self.at}", "FLEETBUS_MANAGEMENT_URL": management.url}

    def url(self, user: str) -> str:
        return f"amqp://{user}:{PASSWORD}@{self.at}"

    def setup(self, *args: str, users: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        given = {**self.environ, **({"FLEETBUS_USERS": users} if users else {}), **environ}
        return subprocess.run(
            [sys.executable, "-m", "fleetbus", "setup", *args],
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def broker(rabbitmq_management: Management, amqp_url: str, vhost: str) -> Broker:
    return Broker(rabbitmq_management, amqp_url, vhost)


def test_on_an_empty_broker_the_log_begins_and_a_second_time_changes_nothing(broker: Broker) -> None:
    for _ in range(2):
        done = broker.setup("--json", users=PLATFORM)
        assert (done.returncode, done.stderr) == (0, "")
        assert PASSWORD not in done.stdout
        assert json.loads(done.stdout)["topology"]
    with closing(open_bus(broker.url(PROJECTIONS), PROJECTIONS)) as bus:
        with bus.stream("log").read_from("first") as reader:
            (first,) = read_some(reader, 1)
        assert (first.key, bus.stream("log").next_offset()) == ("event.log.created", 1)


def test_bundled_scripts_are_published_once_however_often_it_runs(broker: Broker) -> None:
    for _ in range(2):
        done = broker.setup("--scripts", users=PLATFORM)
        assert (done.returncode, done.stderr) == (0, "")
        assert "asked to publish: disk_usage, facts" in done.stdout
    names = [script.name for script in bundled()]
    with (
        closing(open_bus(broker.url(PROJECTIONS), PROJECTIONS)) as bus,
        bus.stream("log").read_from("first") as reader,
    ):
        records = read_some(reader, 1 + 2 * len(names))
    state = AdmissionState()
    verdicts = [admit(state, record) for record in records[1:]]
    assert [verdict.event.subject for verdict in verdicts if isinstance(verdict, Admitted)] == names
    assert [verdict.event.subject for verdict in verdicts if isinstance(verdict, Duplicate)] == names


def test_a_user_for_a_service_gets_a_password_that_is_shown_and_rights_of_its_own(broker: Broker, service: str) -> None:
    assert broker.setup(users=PLATFORM).returncode == 0
    done = broker.setup("--user", service_user(service), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    url = json.loads(done.stdout)["users"][service_user(service)]
    with AmqpClient(url) as client:
        assert client.publish(f"event.{service}.thing.happened", "thing", {})
    # a new password takes the place of the old one
    again = broker.setup("--user", service_user(service))
    assert again.stdout.startswith(f"amqp://{quote(service_user(service))}:")
    with AmqpClient(url) as client, pytest.raises(Refused, match="Login was refused"):
        client.publish(f"event.{service}.thing.happened", "thing", {})
    with AmqpClient(again.stdout.strip()) as client:
        assert client.publish(f"event.{service}.thing.happened", "thing", {})


@pytest.mark.parametrize(
    ("args", "users", "environ", "code", "words"),
    [
        ([], "", {}, 2, ["nobody to set up", "--user handlers"]),
        (["--user", "guest"], "", {}, 2, ["'guest' is no user of fleetbus", "service.NAME"]),
        (["--user", "service.job"], "", {}, 2, ["service.job"]),
        ([], "handlers", {}, 2, ["FLEETBUS_USERS", "place 1", "NAME:PASSWORD"]),
        (["--user", "portal"], f"portal:{PASSWORD}", {}, 2, ["--user portal", "FLEETBUS_USERS already"]),
        (["--scripts"], f"projections:{PASSWORD}", {}, 2, ["--scripts", "portal"]),
        ([], PLATFORM, {"FLEETBUS_BUS_URL": "sqlite:///tmp/x"}, 2, ["only RabbitMQ needs a setup"]),
        ([], PLATFORM, {"FLEETBUS_BUS_URL": ""}, 2, ["FLEETBUS_BUS_URL is not set"]),
        ([], PLATFORM, {"FLEETBUS_MANAGEMENT_URL": ""}, 2, ["FLEETBUS_MANAGEMENT_URL is not set"]),
        ([], PLATFORM, {"FLEETBUS_MANAGEMENT_URL": "http://a:hunter2@127.0.0.1:1"}, 3, ["127.0.0.1:1"]),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(
    broker: Broker, args: list[str], users: str, environ: dict[str, str], code: int, words: list[str]
) -> None:
    done = broker.setup(*args, users=users, **environ)
    assert done.returncode == code, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert PASSWORD not in done.stderr


def test_a_login_that_may_not_administer_is_said(broker: Broker, rabbitmq_management: Management) -> None:
    url = urlsplit(rabbitmq_management.url)
    wrong = url._replace(netloc=f"fleetbus:wrong@{url.hostname}:{url.port}").geturl()
    done = broker.setup(users=PLATFORM, FLEETBUS_MANAGEMENT_URL=wrong)
    assert done.returncode == 3
    assert "401" in done.stderr
