"""InfluxDB 1.x with authentication."""

from typing import ClassVar

import httpx

from tests.servers.server import Server, write_private

PROGRAM = "influxd"

CONFIGURATION = """\
reporting-enabled = false
bind-address = "127.0.0.1:{rpc}"

[meta]
dir = "{directory}/meta"

[data]
dir = "{directory}/data"
wal-dir = "{directory}/wal"
query-log-enabled = false

[monitor]
store-enabled = false

[http]
bind-address = "127.0.0.1:{main}"
auth-enabled = true
log-enabled = false
pprof-enabled = false
"""


class InfluxDB(Server):
    """An InfluxDB server; `user` is its administrator."""

    name = "influxdb"
    variable = "FLEETBUS_TEST_INFLUXDB_URL"
    ports_needed: ClassVar[tuple[str, ...]] = ("main", "rpc")

    @property
    def url(self) -> str:
        """The address without a database: tests make their own."""
        return f"influxdb://{self.user}:{self.password}@127.0.0.1:{self.port()}"

    def command(self) -> list[str]:
        return [PROGRAM, "run", "-config", str(self.directory / "influxdb.conf")]

    def write_configuration(self) -> None:
        text = CONFIGURATION.format(main=self.port(), rpc=self.port("rpc"), directory=self.directory)
        write_private(self.directory / "influxdb.conf", text)

    def is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self._http}/ping", timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.NO_CONTENT

    def provision(self) -> None:
        """Make the administrator: the one query that is allowed while there is none."""
        query = f"CREATE USER {self.user} WITH PASSWORD '{self.password}' WITH ALL PRIVILEGES"
        answer = httpx.post(f"{self._http}/query", data={"q": query}, timeout=30, trust_env=False)
        answer.raise_for_status()

    @property
    def _http(self) -> str:
        return f"http://127.0.0.1:{self.port()}"
