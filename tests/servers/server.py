"""What the four servers have in common: a folder, ports, a password, and start to kill."""

import abc
import os
import secrets
import time
from pathlib import Path
from typing import ClassVar

import msgspec

from tests.servers.errors import ServerError
from tests.servers.ports import free_ports
from tests.servers.process import Process


class Settings(msgspec.Struct, frozen=True):
    """What was chosen when the server's folder was made."""

    ports: dict[str, int]
    password: str


class Server(abc.ABC):
    """One real server on loopback, wholly inside `directory`.

    Ports and password are chosen when the folder is new and kept in ``settings.json``, so that
    the address survives restarts and any process that knows the folder can use the server.
    All methods may be called in any state: starting what runs and stopping what does not are
    harmless.
    """

    #: The server's name and the name of its log.
    name: ClassVar[str]
    #: The variable under which tests find the server's address.
    variable: ClassVar[str]
    #: Names of the ports that it listens on.
    ports_needed: ClassVar[tuple[str, ...]] = ("main",)
    #: Seconds that a start may take on a busy machine with two cores.
    start_deadline: ClassVar[float] = 120.0
    #: Seconds that an orderly stop may take before the server is killed.
    stop_grace: ClassVar[float] = 30.0

    user = "fleetbus"

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.process = Process(self.directory, self.name)

    # ---- what each server says for itself

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The address with user and password, as a client takes it."""

    @property
    def addresses(self) -> dict[str, str]:
        """The variables under which tests find the server."""
        return {self.variable: self.url}

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments, without any secret."""

    @abc.abstractmethod
    def write_configuration(self) -> None:
        """Write into the folder what the program reads at its start."""

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Tell whether a client is served now; may raise OSError while it is not."""

    def environment(self) -> dict[str, str]:
        """Give the program's environment: nothing of ours but the way to programs."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8"}

    def provision(self) -> None:  # noqa: B027 - most servers need nothing
        """Do once, after the first start, what cannot be configured."""

    # ---- what tests do with it

    def start(self) -> None:
        """Start the server and return when it serves clients.

        Raises ServerError, with the end of the log, when it ends or its deadline passes.
        """
        if not self.running:
            self._choose_settings()
            self.write_configuration()
            self._launch()
        self._wait_until_ready()
        self._provision_once()

    def stop(self) -> None:
        """Stop the server in order: what clients were told is on disk."""
        self.process.terminate(grace=self.stop_grace)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        self.process.kill()

    def restart(self) -> None:
        """Stop the server in order and start it again on the same data and address."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether the server's process is there (it may not serve yet)."""
        return self.process.pid() is not None

    def port(self, name: str = "main") -> int:
        """Return the port of that name."""
        return self._settings().ports[name]

    @property
    def password(self) -> str:
        """The password of `user`."""
        return self._settings().password

    # ---- how it is done

    def _launch(self) -> None:
        self.process.start(self.command(), self.environment())

    def _settings(self) -> Settings:
        try:
            text = (self.directory / "settings.json").read_bytes()
        except FileNotFoundError:
            raise ServerError(f"{self.name} in {self.directory} was never started") from None
        return msgspec.json.decode(text, type=Settings)

    def _choose_settings(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / "settings.json"
        if path.exists():
            return
        ports = free_ports(len(self.ports_needed))
        settings = Settings(
            ports=dict(zip(self.ports_needed, ports, strict=True)),
            password=secrets.token_urlsafe(18),
        )
        write_private(path, msgspec.json.encode(settings).decode())

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.start_deadline
        while not self._serves():
            if not self.running:
                raise ServerError(f"{self.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() >= end:
                raise ServerError(f"{self.name} was not ready within {self.start_deadline:g} s:\n{self.log_tail()}")
            time.sleep(0.1)

    def _serves(self) -> bool:
        try:
            return self.is_ready()
        except OSError:
            return False

    def _provision_once(self) -> None:
        done = self.directory / "provisioned"
        if not done.exists():
            self.provision()
            done.touch()

    def log_tail(self) -> str:
        """Return the end of the log with its path."""
        return f"--- {self.process.log_file}\n{self.process.log_tail()}"


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read."""
    path.touch(mode=0o600)
    path.write_text(text)
