"""A portal in a process of its own, with a log and views for it; and a bare Falcon on uvicorn to set beside it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
from msgspec import Struct

from bus.embedded import EmbeddedBus
from events.actors import PORTAL
from portal.accounts import ADMIN, Accounts
from portal.gate import COOKIE
from projections.admission_store import LIVE, read_checkpoint
from projections.osis.documents import Documents
from projections.osis.open import open_documents
from tests.portal_house import csrf_in
from tests.servers.ports import free_ports

#: Seconds that a process may take until it answers, and that building all views may take.
PATIENCE, BUILDING = 60.0, 1_800.0
LOOK = 0.02


class Running(Struct, frozen=True):
    """A server that answers: where, its process, and the headers of somebody who is logged in."""

    url: str
    process: psutil.Popen
    headers: Mapping[str, str] = {}

    @property
    def memory(self) -> float:
        """Of the process now, in MB."""
        return float(self.process.memory_info().rss / 1e6)

    @property
    def processor(self) -> float:
        """Seconds of processor time that the process has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def build_views(folder: Path, documents_url: str) -> None:
    """Makes the views of the log in `folder` with the service that makes them everywhere."""
    with closing(EmbeddedBus(folder / "bus", PORTAL)) as bus, closing(open_documents(documents_url)) as documents:
        end = bus.stream("log").next_offset()
        with _process([sys.executable, "-m", "fleetbus", "projections"], folder, "projections", documents_url) as one:
            _until(lambda: _reached(documents) >= end, one, BUILDING)


@contextmanager
def portal(folder: Path, documents_url: str) -> Iterator[Running]:
    """A portal over the log in `folder` and these views, and the session of a person who has logged in."""
    with closing(open_documents(documents_url)) as documents:
        password = Accounts(documents).reset_password(ADMIN)
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "fleetbus", "portal", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with _process(command, folder, "portal", documents_url) as process:
        _until(lambda: _answers(f"{url}/login"), process, PATIENCE)
        yield Running(url, process, {"Cookie": f"{COOKIE}={_log_in(url, password)}"})


@contextmanager
def bare(folder: Path, *arguments: str) -> Iterator[Running]:
    """`benchmarks.bare_falcon` in a process of its own."""
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.bare_falcon", str(port), *arguments]
    with _process(command, folder, "bare", "") as process:
        _until(lambda: _answers(f"{url}/login"), process, PATIENCE)
        yield Running(url, process)


def _log_in(url: str, password: str) -> str:
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as http:
        csrf = csrf_in(http.get("/login").text)
        http.post("/login", data={"csrf": csrf, "account": ADMIN, "password": password})
        return http.cookies[COOKIE]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=PATIENCE, trust_env=False).status_code < 500
    except httpx.TransportError:
        return False


def _reached(documents: Documents) -> int:
    live = documents.pointed(LIVE)
    saved = None if live is None else read_checkpoint(documents.namespace(live))
    return 0 if saved is None else saved.checkpoint.next_offset


@contextmanager
def _process(command: list[str], folder: Path, name: str, documents_url: str) -> Iterator[psutil.Popen]:
    env = {
        **os.environ,
        "FLEETBUS_BUS_URL": f"sqlite://{folder}/bus",
        "FLEETBUS_DOCUMENTS_URL": documents_url,
        "FLEETBUS_SERIES_URL": f"sqlite://{folder}/series.db",
        "FLEETBUS_LIVE_URL": "memory://",
        "FLEETBUS_DATA": str(folder / name),
    }
    (folder / name).mkdir(exist_ok=True)
    with (folder / f"{name}.log").open("ab") as log:
        process = psutil.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except psutil.TimeoutExpired:
            # a bare server waits for its streams to end
            process.kill()
            process.wait(20)


def _until(done: Callable[[], bool], process: psutil.Popen, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not done():
        if process.poll() is not None:
            raise ChildProcessError(f"{' '.join(process.args[2:])} ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{' '.join(process.args[2:])} is not ready after {patience:.0f} s")
        time.sleep(LOOK)
