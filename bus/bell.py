"""A bell over ZeroMQ: writers ring, readers in other processes wake. It carries nothing and may be missed.

Every ear binds an ipc socket of its own in one folder; a bell connects to those that it finds there. A file whose
process is gone is swept away by the next bell that sees it.
"""

import contextlib
import os
import tempfile
import threading
import time
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import zmq

#: Seconds between two looks for new ears.
LOOK_EVERY = 0.2


#: Longer paths do not fit into a socket's address (108 bytes on Linux).
MAX_FOLDER = 70


def bell_folder(folder: Path) -> Path:
    """Where the bells of the bus in `folder` are: in it, or in the user's own runtime folder when its path is long."""
    if len(str(folder)) <= MAX_FOLDER:
        return folder / "bells"
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return runtime / f"fleetbus-{os.getuid()}-{sha256(str(folder).encode()).hexdigest()[:12]}"


def _own_folder(folder: Path) -> None:
    """Makes the folder, for nobody else. Raises `PermissionError` when somebody else made it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(
            f"{folder} belongs to another user; remove it, or set XDG_RUNTIME_DIR to a folder of yours"
        )


class Ear:
    """Waits for the ring. One thread uses it."""

    def __init__(self, folder: Path) -> None:
        _own_folder(folder)
        self._path = folder / f"{os.getpid()}-{uuid4().hex[:12]}"
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 10)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.bind(f"ipc://{self._path}")
        #: Until the bells have found it, it must not rely on them.
        self._young_until = time.monotonic() + 1.0

    def wait(self, seconds: float) -> bool:
        """True when it rang within `seconds`. Rings that came before this call count, all as one."""
        if time.monotonic() < self._young_until:
            seconds = min(seconds, LOOK_EVERY / 4)
        rang = bool(self._socket.poll(max(0, int(seconds * 1000))))
        with contextlib.suppress(zmq.Again):
            while True:
                self._socket.recv(zmq.NOBLOCK)
        return rang

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


class Bell:
    """Rings every ear in the folder. Any thread may ring."""

    def __init__(self, folder: Path) -> None:
        _own_folder(folder)
        self._folder = folder
        self._lock = threading.Lock()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 10)
        self._known: set[str] = set()
        self._looked = 0.0
        self._closed = False

    def ring(self) -> None:
        with self._lock:
            if self._closed:
                return
            if time.monotonic() - self._looked > LOOK_EVERY:
                self._look()
            self._socket.send(b"")

    def _look(self) -> None:
        self._looked = time.monotonic()
        found = {name for name in (path.name for path in self._folder.iterdir()) if self._alive(name)}
        for name in found - self._known:
            self._socket.connect(f"ipc://{self._folder / name}")
        for name in self._known - found:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(f"ipc://{self._folder / name}")
        self._known = found

    def _alive(self, name: str) -> bool:
        pid, _, _ = name.partition("-")
        if pid.isdigit() and Path(f"/proc/{pid}").exists():
            return True
        (self._folder / name).unlink(missing_ok=True)
        return False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._socket.close()
