"""The four servers of one fleet under test, nobody else's, so that they may be killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.influxdb import InfluxDB
from tests.servers.packages import require_programs
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.secantusdb import SecantusDB
from tests.servers.server import Server, write_private


class ReachableRabbitMQ(RabbitMQ):
    """A broker that listens on one more address of this machine: the one that namespaces see."""

    def __init__(self, directory: Path, address: str | None) -> None:
        super().__init__(directory)
        self.address = address

    def write_configuration(self) -> None:
        super().write_configuration()
        if self.address is not None:
            path = self.directory / "rabbitmq.conf"
            write_private(path, path.read_text() + f"listeners.tcp.2 = {self.address}:{self.port()}\n")


class Servers:
    def __init__(self, folder: Path, address: str | None) -> None:
        self.broker = ReachableRabbitMQ(folder / "rabbitmq", address)
        self.documents = SecantusDB(folder / "secantusdb")
        self.influx = InfluxDB(folder / "influxdb")
        self.redis = Redis(folder / "redis")
        self.all: tuple[Server, ...] = (self.broker, self.documents, self.influx, self.redis)


@contextmanager
def running(folder: Path, address: str | None) -> Iterator[Servers]:
    require_programs()
    servers = Servers(folder, address)
    try:
        for server in servers.all:
            server.start()
        yield servers
    finally:
        for server in servers.all:
            server.kill()
