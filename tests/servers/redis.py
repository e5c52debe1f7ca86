"""Redis, in memory only."""

import socket

from tests.servers.server import Server, write_private

PROGRAM = "redis-server"

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
daemonize no
save ""
appendonly no
dir {directory}
"""


class Redis(Server):
    """A Redis server with a password; what it holds ends with it."""

    name = "redis"
    variable = "FLEETBUS_TEST_REDIS_URL"

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://:{self.password}@127.0.0.1:{self.port()}/0"

    def command(self) -> list[str]:
        return [PROGRAM, str(self.directory / "redis.conf")]

    def write_configuration(self) -> None:
        text = CONFIGURATION.format(port=self.port(), password=self.password, directory=self.directory)
        write_private(self.directory / "redis.conf", text)

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port()), timeout=5) as connection:
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            return connection.makefile("rb").readline() == b"+OK\r\n"
