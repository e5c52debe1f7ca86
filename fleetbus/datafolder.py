"""The folder in which `fleetbus up` keeps everything: one process at a time, for its owner alone.

bus/  views.db  series.db  handlers.snapshot  agent/    what the services keep
archive/  archive.key  archive.pub                      the archive, and the key that signs it
logs/                                                   what they say
node  credentials.json  published.json  up.lock         what `up` itself remembers
"""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fleetbus import credentials
from fleetbus.errors import Failure, NotReached, Wrong

#: What a node's id may hold, and how long it may be.
MAX_NODE = 63


class DataFolder:
    """Paths in it, and what is remembered there."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.agent = self.path / "agent"
        self.credentials = self.path / credentials.FILE
        self._published = self.path / "published.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder and holds it for this process. Raises `Wrong` when another `up` does, or it cannot be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            lock = (self.path / "up.lock").open("a+")
        except OSError as error:
            raise Wrong(f"cannot use the folder {self.path}: {error.strerror}", "name another with --data") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise NotReached(
                    f"another `fleetbus up` ({holder}) uses {self.path}", "stop it, or name another folder with --data"
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}\n")
            lock.flush()
            yield

    def node(self) -> str:
        """The id of this machine as a node: from its name at first, the same ever after."""
        return node_id(self.path)

    def published(self) -> dict[str, str]:
        """Bundled script -> the hash that was published last."""
        try:
            return msgspec.json.decode(self._published.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    def remember_published(self, hashes: dict[str, str]) -> None:
        self._published.write_bytes(msgspec.json.encode(hashes))


def node_id(folder: Path) -> str:
    """The id that is kept in the folder; made from the machine's name if there is none. Raises `Failure`."""
    path = folder / "node"
    try:
        if path.exists():
            return path.read_text().strip()
        name = id_from_hostname(socket.gethostname())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(name + "\n")
    except OSError as error:
        raise Failure(f"cannot keep the node's id in {path}: {error.strerror}") from None
    return name


def id_from_hostname(hostname: str) -> str:
    """The machine's own part of its name, as far as an id may hold it."""
    name = re.sub(r"[^a-z0-9]+", "-", hostname.partition(".")[0].lower()).strip("-")
    return name[:MAX_NODE] or "node"
