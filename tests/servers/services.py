"""The set of all servers that the tests need, in one folder."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.influxdb import InfluxDB
from tests.servers.packages import require_programs
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.secantusdb import SecantusDB
from tests.servers.server import Server

#: Where the servers of a checkout lie.
DEFAULT_DIRECTORY = Path(__file__).parents[2] / ".services"


class Services:
    """RabbitMQ, Redis, InfluxDB and SecantusDB, started and stopped together."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self.directory = directory.resolve()
        self.rabbitmq = RabbitMQ(self.directory / "rabbitmq")
        self.redis = Redis(self.directory / "redis")
        self.influxdb = InfluxDB(self.directory / "influxdb")
        self.secantusdb = SecantusDB(self.directory / "secantusdb")
        self.all: tuple[Server, ...] = (
            self.rabbitmq,
            self.redis,
            self.influxdb,
            self.secantusdb,
        )

    def up(self) -> None:
        """Start what does not run, side by side; return when all serve. Raises ServerError."""
        require_programs()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            self._each(lambda server: server.start())

    def down(self) -> None:
        """Stop what runs. Data, addresses and passwords stay."""
        if self.directory.exists():
            with self._alone():
                self._each(lambda server: server.stop())

    @property
    def running(self) -> bool:
        """Whether every server's process is there."""
        return all(server.running for server in self.all)

    def environment(self) -> dict[str, str]:
        """Return the variables under which tests find the servers."""
        return {server.variable: server.url for server in self.all} | {
            "FLEETBUS_TEST_RABBITMQ_MANAGEMENT_URL": self.rabbitmq.management_url,
            "FLEETBUS_TEST_RABBITMQ_STREAM_URL": self.rabbitmq.stream_url,
        }

    def _each(self, action: Callable[[Server], None]) -> None:
        with ThreadPoolExecutor(len(self.all)) as pool:
            for done in [pool.submit(action, server) for server in self.all]:
                done.result()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from starting or stopping the same servers at the same time."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
