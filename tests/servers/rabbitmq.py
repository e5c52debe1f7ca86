"""RabbitMQ with streams and management, and an Erlang port mapper of its own."""

import hashlib
import socket
from pathlib import Path
from typing import ClassVar

import httpx

from tests.servers.management import Management
from tests.servers.process import Process
from tests.servers.server import Server, write_private
from tests.waiting import wait_until

#: Debian's start script; the one in /usr/sbin insists on root and on the system's folders.
PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"

PLUGINS = "[rabbitmq_management,rabbitmq_stream].\n"

CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{main}
stream.listeners.tcp.1 = 127.0.0.1:{stream}
stream.advertised_host = 127.0.0.1
stream.advertised_port = {stream}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
max_message_size = 2200000
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 100MB
log.file.level = info
"""

#: Two schedulers of each kind are enough for tests and start faster; distribution on loopback.
ERLANG_ARGUMENTS = "+S 2:2 +SDcpu 2:2 +SDio 2 -kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"


class RabbitMQ(Server):
    """A RabbitMQ node; `user` is its administrator, and there is no guest."""

    name = "rabbitmq"
    variable = "FLEETBUS_TEST_AMQP_URL"
    ports_needed: ClassVar[tuple[str, ...]] = (
        "main",
        "management",
        "stream",
        "distribution",
        "epmd",
    )

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.epmd = Process(self.directory, "epmd")

    # ---- addresses

    @property
    def url(self) -> str:
        """The AMQP address of the default virtual host, as administrator."""
        return f"amqp://{self._login}@127.0.0.1:{self.port()}/%2F"

    @property
    def management_url(self) -> str:
        """The address of the management API, as administrator."""
        return f"http://{self._login}@127.0.0.1:{self.port('management')}"

    @property
    def management(self) -> Management:
        """The management API."""
        return Management(self.management_url, self.url)

    @property
    def stream_url(self) -> str:
        """The address of the stream protocol in the default virtual host, as administrator."""
        return f"rabbitmq-stream://{self._login}@127.0.0.1:{self.port('stream')}/%2F"

    @property
    def addresses(self) -> dict[str, str]:
        return {
            self.variable: self.url,
            "FLEETBUS_TEST_RABBITMQ_MANAGEMENT_URL": self.management_url,
            "FLEETBUS_TEST_RABBITMQ_STREAM_URL": self.stream_url,
        }

    @property
    def _login(self) -> str:
        return f"{self.user}:{self.password}"

    # ---- the process

    def command(self) -> list[str]:
        return [PROGRAM]

    def environment(self) -> dict[str, str]:
        here = self.directory
        identity = hashlib.sha256(str(here).encode()).hexdigest()[:12]
        return super().environment() | {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.port("epmd")),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"fleetbus-{identity}@localhost",
            "RABBITMQ_DIST_PORT": str(self.port("distribution")),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(here / "schema"),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(here / "beam.pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG_ARGUMENTS,
            # makes the start script become the node instead of staying as its parent
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def write_configuration(self) -> None:
        ports = {name: self.port(name) for name in self.ports_needed}
        text = CONFIGURATION.format(user=self.user, password=self.password, **ports)
        write_private(self.directory / "rabbitmq.conf", text)
        (self.directory / "enabled_plugins").write_text(PLUGINS)

    def is_ready(self) -> bool:
        try:
            self.management.ask("GET", "vhosts")
        except httpx.HTTPError:
            return False
        return _speaks_amqp(self.port())

    def provision(self) -> None:
        """Make the broker remember that it coordinates streams.

        RabbitMQ 3.10 notes this with its first stream and writes the note to disk about half a
        second later; killed before that, it never finds its streams again.
        """
        self.management.ask(
            "PUT",
            "queues/%2F/first-stream",
            {"durable": True, "arguments": {"x-queue-type": "stream"}},
        )
        self.management.ask("DELETE", "queues/%2F/first-stream")
        wait_until(
            self._remembers_coordinator,
            deadline=self.start_deadline,
            what=f"the stream coordinator's entry below {self.directory}",
        )

    def _remembers_coordinator(self) -> bool:
        names = self.directory.glob("data/*/coordination/*/names.dets")
        return any(b"rabbit_stream_coordinator" in path.read_bytes() for path in names)

    def stop(self) -> None:
        super().stop()
        self.epmd.terminate(grace=self.stop_grace)

    def kill(self) -> None:
        super().kill()
        self.epmd.kill()

    def _launch(self) -> None:
        if self.epmd.pid() is None:
            self.epmd.start(
                ["epmd", "-address", "127.0.0.1", "-port", str(self.port("epmd"))],
                self.environment(),
            )
        super()._launch()


def _speaks_amqp(port: int) -> bool:
    """Tell whether the server answers the AMQP 0-9-1 greeting with a method frame."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(1) == b"\x01"
