"""The servers that tests stand on keep the promises that the tests rely on."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import influxdb
import pika
import psutil
import pymongo
import pytest
import redis
from pika.exceptions import AMQPError, ChannelClosedByBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.errors import ServerError
from tests.servers.management import Management
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.server import Server
from tests.servers.services import Services
from tests.waiting import wait_until

#: Where the distribution's own services would listen.
USUAL_PORTS = {4369, 5552, 5672, 6379, 8086, 8088, 15672, 25672, 27017}


def publish(url: str, queue: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "stream"})
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", queue, body, persistent)


def first_record(url: str, queue: str) -> bytes | None:
    """None when none comes, and while a broker that has just started finds no stream, or no replica of it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection, suppress(ChannelClosedByBroker):
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        offset = {"x-stream-offset": "first"}
        for method, _, body in channel.consume(queue, arguments=offset, inactivity_timeout=60):
            if method is not None and method.delivery_tag is not None:
                channel.basic_ack(method.delivery_tag)
            return body
    return None


def listening_sockets(server: Server) -> set[tuple[str, int]]:
    pid = server.process.pid()
    assert pid is not None
    return {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_virtual_host_is_fresh_and_has_streams(amqp_vhost: str) -> None:
    publish(amqp_vhost, "log", b"first")

    assert first_record(amqp_vhost, "log") == b"first"


def test_a_virtual_host_is_gone_after_its_deletion(rabbitmq_management: Management) -> None:
    name = f"short-lived-{uuid.uuid4().hex[:8]}"
    url = rabbitmq_management.add_vhost(name)
    rabbitmq_management.delete_vhost(name)

    with pytest.raises(AMQPError):
        publish(url, "log", b"too late")


def test_the_broker_has_no_guest(rabbitmq_management: Management) -> None:
    users = {user["name"] for user in rabbitmq_management.ask("GET", "users")}

    assert "guest" not in users


def test_influxdb_serves_its_administrator_and_nobody_else(influxdb_url: str) -> None:
    at = urlsplit(influxdb_url)
    client = influxdb.InfluxDBClient(at.hostname, at.port, at.username, at.password)
    assert isinstance(client.get_list_database(), list)
    client.close()

    stranger = httpx.get(f"http://{at.hostname}:{at.port}/query", params={"q": "show databases"}, trust_env=False)
    assert stranger.status_code == httpx.codes.UNAUTHORIZED


def test_secantusdb_serves_its_user_and_nobody_else(mongodb_url: str) -> None:
    at = urlsplit(mongodb_url)

    with pymongo.MongoClient[dict[str, int]](mongodb_url) as client:
        client["test_servers"]["things"].insert_one({"n": 1})
        assert client["test_servers"]["things"].count_documents({"n": 1}) == 1
        client.drop_database("test_servers")

    with (
        pymongo.MongoClient[dict[str, int]](at.hostname, at.port, directConnection=True) as client,
        pytest.raises(pymongo.errors.OperationFailure, match=re.compile("auth", re.IGNORECASE)),
    ):
        client["test_servers"]["things"].insert_one({"n": 1})


def test_redis_serves_with_the_password_and_not_without(redis_url: str) -> None:
    at = urlsplit(redis_url)

    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()

    with (
        redis.Redis(at.hostname or "", at.port or 0, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.slow
def test_a_killed_broker_comes_back_at_the_same_address_with_what_it_confirmed(
    private_rabbitmq: RabbitMQ,
) -> None:
    url = private_rabbitmq.url
    publish(url, "log", b"confirmed")

    private_rabbitmq.kill()
    assert not private_rabbitmq.running
    private_rabbitmq.start()

    assert private_rabbitmq.url == url
    # a started broker elects the writer of each stream a moment after it serves clients
    found = wait_until(lambda: first_record(url, "log"), deadline=60, what="the stream's writer")
    assert found == b"confirmed"


@pytest.mark.slow
def test_servers_listen_on_loopback_only_and_leave_the_usual_ports_alone(
    servers: Services,
    amqp_url: str,
    mongodb_url: str,
    influxdb_url: str,
    redis_url: str,
    private_server: Callable[[type[Server]], Server],
) -> None:
    for kind in (type(server) for server in servers.all):
        server = private_server(kind)
        sockets = listening_sockets(server)
        assert sockets, f"{server.name} listens nowhere"
        assert {ip for ip, _ in sockets} <= {"127.0.0.1", "::1"}
        assert not {port for _, port in sockets} & USUAL_PORTS


def test_a_stopped_server_is_known_as_stopped_by_other_processes(
    private_server: Callable[[type[Redis]], Redis],
) -> None:
    server = private_server(Redis)
    assert Redis(server.directory).running

    server.stop()

    assert not Redis(server.directory).running


def test_a_server_that_cannot_start_says_why(private_server: Callable[[type[Redis]], Redis], tmp_path: Path) -> None:
    holder = private_server(Redis)
    rival = Redis(tmp_path)
    (tmp_path / "settings.json").write_text(f'{{"ports": {{"main": {holder.port()}}}, "password": "another"}}')

    with pytest.raises(ServerError, match=r"redis ended while starting:(.|\n)*in use"):
        rival.start()


def test_passwords_stay_out_of_the_process_list(
    private_server: Callable[[type[Redis]], Redis],
) -> None:
    server = private_server(Redis)
    pid = server.process.pid()
    assert pid is not None

    assert server.password not in " ".join(psutil.Process(pid).cmdline())
    assert (server.directory / "settings.json").stat().st_mode & 0o077 == 0


def test_a_missing_program_is_an_error_that_names_the_remedy() -> None:
    nowhere = os.environ | {"PATH": ""}
    script = "import tests.servers.packages as p; p.SERVERS = (p.Package('nosuch', 'nosuch'),);p.require_programs()"
    result = subprocess.run([sys.executable, "-c", script], env=nowhere, capture_output=True, text=True, check=False)

    assert "apt-get install --no-install-recommends nosuch" in result.stderr


@pytest.mark.servers
def test_the_last_user_to_leave_stops_the_servers(tmp_path: Path) -> None:
    first, second = Services(tmp_path), Services(tmp_path)

    with first.in_use():
        first.start(first.redis)
        with second.in_use():
            second.start(second.redis)
        assert first.redis.running

    assert not first.redis.running


@pytest.mark.servers
def test_servers_that_a_person_brought_up_stay_until_they_are_brought_down(tmp_path: Path) -> None:
    services = Services(tmp_path)
    services.up()
    try:
        with services.in_use():
            services.start(services.redis)
        assert services.running
    finally:
        services.down()

    assert not any(server.running for server in services.all)
