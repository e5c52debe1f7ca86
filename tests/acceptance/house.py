"""`fleetbus up` as a person starts it, and the commands beside it, each a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.servers.ports import free_ports
from tests.waiting import wait_until

#: Seconds that all of it may take to be ready on a machine that does much else.
READY_WITHIN = 120.0

SERVICES = ("handlers", "projections", "archiver", "portal", "agent")


class House:
    """One `fleetbus up`, with a data folder, a port and a person's configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLEETBUS_")},
            "XDG_CONFIG_HOME": str(folder / "config"),
            "HOME": str(folder),
        }
        self.said = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    # the whole

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "fleetbus", *args]

    def start(self, *args: str, ready: bool = True) -> None:
        self.said.write_bytes(b"")
        command = self.command("up", "--data", str(self.data), "--port", str(self.port), *args)
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=self.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        if ready:
            wait_until(self._ready, deadline=READY_WITHIN, what=f"fleetbus up in {self.folder}")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        return "ready: " in self.output

    @property
    def output(self) -> str:
        return self.said.read_text()

    @property
    def password(self) -> str:
        found = re.search(r"^password +(\S+)", self.output, re.MULTILINE)
        return found[1] if found else ""

    def children(self) -> dict[str, psutil.Process]:
        """The services that run now, by name."""
        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            if "fleetbus" in command:
                found[command[command.index("fleetbus") + 1]] = child
        return found

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(90)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    # commands

    def run(self, *args: str, input: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """A command in another terminal."""
        return subprocess.run(
            self.command(*args),
            env={**self.environ, **environ},
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def begin(self, *args: str) -> subprocess.Popen[str]:
        """A command that goes on while the test does."""
        return subprocess.Popen(
            self.command(*args), env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def json(self, *args: str) -> Any:
        """What a command answers with --json, which must succeed."""
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def publish(self, name: str, source: str) -> str:
        """Publishes a script; returns its hash."""
        path = self.folder / f"{name}.py"
        path.write_text(source)
        return str(self.json("script", "publish", str(path))["hash"])
