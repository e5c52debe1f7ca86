"""Where benchmarks run: real servers, started when one is first asked for, and room on them made for one benchmark."""

import importlib.metadata
import os
import platform
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bus import topology
from bus.broker import Durability
from events.actors import HANDLERS
from tests.contract.bus_contract import RabbitEngine
from tests.servers.management import Management
from tests.servers.server import Server
from tests.servers.services import Services

#: Told what is being done now, in a few words.
Progress = Callable[[str], None]

#: What is measured beside fleetbus, and what moves the bytes of both.
LIBRARIES = (
    "pika",
    "rstream",
    "kombu",
    "celery",
    "dramatiq",
    "salt",
    "eventsourcing",
    "pymongo",
    "secantusdb",
    "falcon",
    "uvicorn",
    "redis",
    "msgspec",
    "pyzmq",
)


class Place:
    """Lends servers and what is made on them. Use it inside `Services.in_use()`.

    `quick` asks for a look instead of a measurement: sizes that take seconds. Its figures say little.
    """

    def __init__(self, services: Services, *, quick: bool = False) -> None:
        self.quick = quick
        self._services = services

    def sized(self, full: int, quick: int) -> int:
        """The size of a benchmark's work."""
        return quick if self.quick else full

    # servers: started when asked for, stopped by `Services`

    @property
    def amqp_url(self) -> str:
        """The default virtual host of RabbitMQ, as its administrator."""
        return self._started(self._services.rabbitmq).url

    @property
    def stream_url(self) -> str:
        """Where RabbitMQ speaks its native stream protocol, as services are told it."""
        self._started(self._services.rabbitmq)
        return f"rabbitmq-stream://127.0.0.1:{self._services.rabbitmq.port('stream')}"

    @property
    def management_url(self) -> str:
        """RabbitMQ's management API, as its administrator."""
        return self._management().url

    @property
    def redis_url(self) -> str:
        return self._started(self._services.redis).url

    @property
    def influxdb_url(self) -> str:
        return self._started(self._services.influxdb).url

    @property
    def mongodb_url(self) -> str:
        """SecantusDB, without a database."""
        return self._started(self._services.secantusdb).url

    def _started(self, server: Server) -> Server:
        self._services.start(server)
        return server

    # room on them

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """The administrator's URL of a virtual host that is deleted afterwards."""
        management, name = self._management(), _new_name()
        url = management.add_vhost(name)
        try:
            yield url
        finally:
            management.delete_vhost(name)

    @contextmanager
    def engine(self, durability: Durability = "stream") -> Iterator[RabbitEngine]:
        """A virtual host with fleetbus's topology, and URLs of its users; deleted afterwards."""
        with self.vhost() as url:
            engine = RabbitEngine(self._management(), url)
            if durability != "stream":
                topology.make_durable(engine.url(HANDLERS), durability)
            try:
                yield engine
            finally:
                engine.close()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder that is deleted afterwards."""
        with tempfile.TemporaryDirectory(prefix="fleetbus-bench-") as folder:
            yield Path(folder)

    def _management(self) -> Management:
        self._services.start(self._services.rabbitmq)
        return self._services.rabbitmq.management

    # what the figures hold for

    def machine(self) -> dict[str, str]:
        """The machine, and the versions of everything that took part and is installed."""
        found = {
            "processor": _processor(),
            "cores": str(len(os.sched_getaffinity(0))),
            "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
            "system": platform.platform(),
            "python": platform.python_version(),
        }
        return {**found, **self._servers(), **_libraries()}

    def _servers(self) -> dict[str, str]:
        """Of RabbitMQ, if this place has it running."""
        if not self._services.rabbitmq.running:
            return {}
        overview = self._management().ask("GET", "overview")
        return {"RabbitMQ": overview["rabbitmq_version"], "Erlang": overview["erlang_version"]}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _libraries() -> dict[str, str]:
    there = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in LIBRARIES if name in there}


def _new_name() -> str:
    return f"bench-{uuid.uuid4().hex[:8]}"
