"""An empty job's round trip beside Salt's `test.ping`, master and minion on loopback.

Salt runs in an environment of its own, since its pins and fleetbus's need not agree: made once, from the pinned
`salt-requirements.txt`, in the folder of the servers. `test.ping` is asked through one `LocalClient` in a process that
lives on, as fleetbus's caller does; and through the program `salt`, which people type.
"""

import json
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.jobs import fleet, running
from benchmarks.measure import Goal, Table, compare, percentile
from benchmarks.place import Place, Progress
from tests.servers.ports import free_ports
from tests.servers.services import DEFAULT_DIRECTORY

PINS = Path(__file__).with_name("salt-requirements.txt")
HOME = DEFAULT_DIRECTORY / "salt"
MINION = "bench"
#: Round trips in a run: of fleetbus, of `LocalClient`, of the program.
TRIPS, PINGS, CALLS = 100, 20, 2

UNITS = {"round trip p50": "ms", "round trip p99": "ms"}
CLIENT, PROGRAM = "Salt, LocalClient", "Salt, program"
GOALS = (Goal("round trip p50", CLIENT, "<= 0.1"),)


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    trips = place.sized(TRIPS, 20)
    with place.engine() as engine, fleet(engine, place.stream_url) as caller, salt(progress) as rival:
        contestants = {
            "fleetbus": lambda: _figures(caller.round_trips(trips)),
            CLIENT: lambda: rival.pings(place.sized(PINGS, 5)),
            PROGRAM: lambda: rival.calls(place.sized(CALLS, 1)),
        }
        return [compare(f"Round trip beside Salt {version()}", contestants, UNITS, GOALS, runs, progress)]


def version() -> str:
    """Salt is not among the installed libraries of fleetbus's environment."""
    return next(
        line.split()[0].partition("==")[2] for line in PINS.read_text().splitlines() if line.startswith("salt==")
    )


class Salt:
    """A running master and minion; `minion` is the first of the minion's processes."""

    def __init__(self, minion: psutil.Popen, client: "subprocess.Popen[str]", configuration: Path) -> None:
        self.minion = minion
        self._client, self._configuration = client, configuration

    def pings(self, count: int) -> Mapping[str, float]:
        """`test.ping` through one `LocalClient`, in a process that lives on."""
        assert self._client.stdin
        assert self._client.stdout
        self._client.stdin.write(f"{count}\n")
        self._client.stdin.flush()
        return _figures(json.loads(self._client.stdout.readline()))

    def calls(self, count: int) -> Mapping[str, float]:
        """The program `salt`, started for each ping."""
        command = [str(HOME / "bin" / "salt"), "-c", str(self._configuration), MINION, "test.ping"]
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            seconds.append(time.perf_counter() - began)
        return _figures(seconds)


def _figures(seconds: list[float]) -> Mapping[str, float]:
    trips = [each * 1000 for each in seconds]
    return {"round trip p50": percentile(trips, 0.5), "round trip p99": percentile(trips, 0.99)}


@contextmanager
def salt(progress: Progress) -> Iterator[Salt]:
    _install(progress)
    with TemporaryDirectory(prefix="salt-") as name:
        folder = Path(name)
        configuration = _configure(folder)
        programs = [
            [str(HOME / "bin" / program), "-c", str(configuration)] for program in ("salt-master", "salt-minion")
        ]
        with running(programs[0], folder / "master"), running(programs[1], folder / "minion") as minion:
            client = _client(configuration)
            try:
                yield Salt(minion, client, configuration)
            finally:
                client.kill()
                client.wait()


def _client(configuration: Path) -> "subprocess.Popen[str]":
    command = [str(HOME / "bin" / "python"), str(Path(__file__).with_name("salt_pings.py"))]
    client = subprocess.Popen(
        [*command, str(configuration / "master"), MINION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if not client.stdout or client.stdout.readline() != "ready\n":
        client.kill()
        raise RuntimeError("Salt's minion does not answer its master")
    return client


def _install(progress: Progress) -> None:
    marker = HOME / PINS.name
    if marker.exists() and marker.read_bytes() == PINS.read_bytes():
        return
    progress("Salt: installing it into an environment of its own")
    shutil.rmtree(HOME, ignore_errors=True)
    venv.create(HOME, with_pip=True)
    pip = [str(HOME / "bin" / "python"), "-m", "pip", "install", "-qqq", "--require-hashes", "-r", str(PINS)]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    shutil.copy(PINS, marker)


def _configure(folder: Path) -> Path:
    configuration, (publish, answer) = folder / "etc", free_ports(2)
    configuration.mkdir()
    for program in ("master", "minion"):
        settings = {
            "root_dir": folder,
            "pki_dir": folder / "pki" / program,
            "cachedir": folder / "cache" / program,
            "sock_dir": folder / "run",
            "log_file": folder / f"{program}.log",
            "publish_port": publish,
        }
        settings |= (
            {"interface": "127.0.0.1", "ret_port": answer, "auto_accept": True, "worker_threads": 2}
            if program == "master"
            # its key is accepted as soon as the master has it; by itself a minion asks again only after ten seconds
            else {"master": "127.0.0.1", "master_port": answer, "id": MINION, "acceptance_wait_time": 1}
        )
        (configuration / program).write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    return configuration
