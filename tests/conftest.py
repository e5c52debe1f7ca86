"""What all tests share: a clean environment and the addresses of real servers.

An address comes from its FLEETBUS_TEST_* variable when that is set; else the fixture starts the
checkout's own server, or fails. Nothing is skipped for want of a server.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

from tests.servers.influxdb import InfluxDB
from tests.servers.management import Management
from tests.servers.packages import require_programs
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.secantusdb import SecantusDB
from tests.servers.server import Server
from tests.servers.services import Services

# What a person has set for the product must not steer its tests.
for _name in [name for name in os.environ if name.startswith("FLEETBUS_")]:
    if not _name.startswith("FLEETBUS_TEST_"):
        del os.environ[_name]

S = TypeVar("S", bound=Server)

#: A test that asks for one of these, however indirectly, needs servers and is marked so.
NEED_SERVERS = {"servers", "private_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs servers, so that the fast tests never include it."""
    for item in items:
        if isinstance(item, pytest.Function) and NEED_SERVERS & set(item.fixturenames):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def servers() -> Iterator[Services]:
    """The checkout's servers, in use; none is started yet."""
    services = Services()
    with services.in_use():
        yield services


@pytest.fixture(scope="session")
def amqp_url(servers: Services) -> str:
    """RabbitMQ's default virtual host, as administrator; a test takes `amqp_vhost` instead."""
    return _address(servers, RabbitMQ.variable, servers.rabbitmq)


@pytest.fixture(scope="session")
def rabbitmq_management(servers: Services, amqp_url: str) -> Management:
    """RabbitMQ's management API, as administrator."""
    url = _address(servers, "FLEETBUS_TEST_RABBITMQ_MANAGEMENT_URL", servers.rabbitmq)
    return Management(url, amqp_url)


@pytest.fixture(scope="session")
def stream_url(servers: Services) -> str:
    """Where RabbitMQ speaks the native stream protocol, without user and virtual host, as services are told it."""
    at = urlsplit(_address(servers, "FLEETBUS_TEST_RABBITMQ_STREAM_URL", servers.rabbitmq))
    return f"{at.scheme}://{at.hostname}:{at.port}"


@pytest.fixture
def amqp_vhost(rabbitmq_management: Management) -> Iterator[str]:
    """The AMQP address of a virtual host that only this test knows, as administrator."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield rabbitmq_management.add_vhost(name)
    rabbitmq_management.delete_vhost(name)


@pytest.fixture(scope="session")
def mongodb_url(servers: Services) -> str:
    """SecantusDB, with all rights; a test takes a database of its own."""
    return _address(servers, SecantusDB.variable, servers.secantusdb)


@pytest.fixture(scope="session")
def influxdb_url(servers: Services) -> str:
    """InfluxDB, as administrator; a test makes a database of its own."""
    return _address(servers, InfluxDB.variable, servers.influxdb)


@pytest.fixture(scope="session")
def redis_url(servers: Services) -> str:
    """Redis, database 0; a test takes key names of its own."""
    return _address(servers, Redis.variable, servers.redis)


@pytest.fixture
def private_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[type[S]], S]]:
    """Start servers for this test alone, which it may stop, kill and restart."""
    started: list[Server] = []

    def start(kind: type[S]) -> S:
        require_programs()
        server = kind(tmp_path_factory.mktemp(kind.name))
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def private_rabbitmq(private_server: Callable[[type[RabbitMQ]], RabbitMQ]) -> RabbitMQ:
    """A broker of this test's own."""
    return private_server(RabbitMQ)


def _address(servers: Services, variable: str, server: Server) -> str:
    if given := os.environ.get(variable):
        return given
    servers.start(server)
    return server.addresses[variable]
