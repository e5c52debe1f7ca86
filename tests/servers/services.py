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
    """RabbitMQ, Redis, InfluxDB and SecantusDB in one folder, for any number of processes.

    A person brings them up to stay (`up`, `down`); a run of tests starts what it needs and the
    last run to end stops what no person has asked for (`in_use`, `start`).
    """

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
        self._keep = self.directory / "keep"

    def up(self) -> None:
        """Start what does not run, side by side, to stay until `down`. Raises ServerError."""
        require_programs()
        self._make_directory()
        self._keep.touch()
        with self._alone():
            self._each(Server.start)

    def down(self) -> None:
        """Stop what runs. Data, addresses and passwords stay."""
        if self.directory.exists():
            self._keep.unlink(missing_ok=True)
            with self._alone():
                self._each(Server.stop)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the servers; the last user to leave stops them, unless they are `up` to stay."""
        self._make_directory()
        with (self.directory / "users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            yield
            if not self._keep.exists() and _is_last(users.fileno()):
                self.down()

    def start(self, server: Server) -> None:
        """Start one of the servers, unless it runs. Raises ServerError."""
        require_programs()
        with self._alone():
            server.start()

    @property
    def running(self) -> bool:
        """Whether every server's process is there."""
        return all(server.running for server in self.all)

    def environment(self) -> dict[str, str]:
        """Return the variables under which tests find the servers."""
        return {name: value for server in self.all for name, value in server.addresses.items()}

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

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


def _is_last(users: int) -> bool:
    """Tell whether no other process holds the file; if so, newcomers wait until we close it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
