"""Crash points: a loop is killed at every boundary of its ports, once for each, and begun again.

    prepare → work, killed at point n → begun again → finished → compared with the work that nobody killed

A point is the moment before a port is asked to change something, after it did and before the caller knows, and after a
read gave something. The work runs in a forked child, on the embedded bus; the child counts its points and dies by
SIGKILL at the one that it is for. The parent has no thread, or it could not fork. `python -m tests.chaos.crashpoints`
runs all subjects (`tests.chaos.subjects`) and ends with 1 when one of them came to something else.
"""

import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from bus.embedded import EmbeddedBus, EmbeddedInbox
from bus.ports import Message, Reader, Record, Start, Stream, StreamName
from projections.osis.sqlite_documents import SqliteDocuments, SqliteNamespace

#: Seconds that one child may take; then it counts as hanging.
CHILD_WITHIN = 60.0
#: Points that are tried side by side.
AT_A_TIME = 6


class Points:
    """Counts what it passes, and kills this process at point `die_at`, from 1 on; never without one."""

    def __init__(self, die_at: int | None = None) -> None:
        self._die_at = die_at
        self._lock = threading.Lock()
        self.passed: list[str] = []

    def reach(self, name: str) -> None:
        with self._lock:
            self.passed.append(name)
            if len(self.passed) == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, future: Future[Any]) -> None:
        """The port has done it, and the caller does not know yet: whoever listens first is told first."""
        future.add_done_callback(lambda _: self.reach(f"done: {name}"))


# ports with points


class PointedBus(EmbeddedBus):
    def __init__(self, folder: Path, user: str, points: Points) -> None:
        self._points = points
        #: Called when a read of the log gave nothing.
        self.on_end: Callable[[], None] = lambda: None
        super().__init__(folder, user)

    def publish(self, message: Message) -> Future[None]:
        if message.key.startswith("telemetry."):
            return super().publish(message)
        self._points.reach(f"publish {message.type}")
        future = super().publish(message)
        self._points.around(f"publish {message.type}", future)
        return future

    def deliver(self, key: str, body: bytes, id: str = "") -> Future[bool]:
        self._points.reach("deliver")
        future = super().deliver(key, body, id)
        self._points.around("deliver", future)
        return future

    def stream(self, name: StreamName) -> Any:
        found = super().stream(name)
        return PointedStream(found, self) if name == "log" else found

    def inbox(self, node: str) -> EmbeddedInbox:
        return PointedInbox(self, node, self._points)


class PointedStream:
    def __init__(self, stream: Stream, bus: PointedBus) -> None:
        self._stream, self._bus = stream, bus

    def read_from(self, start: Start) -> Reader:
        return PointedReader(self._stream.read_from(start), self._bus)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PointedReader:
    def __init__(self, reader: Reader, bus: PointedBus) -> None:
        self._reader, self._bus = reader, bus

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        records = self._reader.read(limit, timeout)
        if records:
            self._bus._points.reach("read")
        else:
            self._bus.on_end()
        return records

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PointedInbox(EmbeddedInbox):
    def __init__(self, bus: EmbeddedBus, node: str, points: Points) -> None:
        self._points = points
        super().__init__(bus, node)

    def ack(self, tags: Sequence[int]) -> None:
        self._points.reach("ack")
        super().ack(tags)
        self._points.reach("done: ack")


class PointedDocuments(SqliteDocuments):
    def __init__(self, path: Path, points: Points) -> None:
        self.points = points
        super().__init__(path)

    def namespace(self, name: str) -> SqliteNamespace:
        return PointedNamespace(name, self)

    def point(self, alias: str, target: str) -> None:
        self.points.reach(f"point {alias}")
        super().point(alias, target)
        self.points.reach(f"done: point {alias}")


class PointedNamespace(SqliteNamespace):
    def __init__(self, name: str, documents: PointedDocuments) -> None:
        self._points = documents.points
        super().__init__(name, documents)

    def put_many(
        self, collection: str, documents: Iterable[Mapping[str, Any]], *, new: Collection[str] = frozenset()
    ) -> int:
        self._points.reach(f"put {collection}")
        found = super().put_many(collection, documents, new=new)
        self._points.reach(f"done: put {collection}")
        return found

    def delete_many(self, collection: str, ids: Iterable[str], *, at: int | None = None) -> int:
        self._points.reach(f"delete {collection}")
        found = super().delete_many(collection, ids, at=at)
        self._points.reach(f"done: delete {collection}")
        return found


# the enumeration


class Subject(Protocol):
    """One loop under test. All methods run in children of their own, but `outcome`."""

    name: str

    def prepare(self, folder: Path) -> None:
        """What there is before the work begins."""
        ...

    def work(self, folder: Path, points: Points) -> None:
        """Returns when all is done; may be called again after it was killed."""
        ...

    def outcome(self, folder: Path) -> Any:
        """What it came to, as JSON; equal for all ways there. Starts no thread."""
        ...


class Found(msgspec.Struct):
    """`points` of the work that nobody killed; how often it was killed; what came to something else."""

    points: list[str]
    kills: int
    wrong: list[str]


def enumerate_points(subject: Subject, folder: Path) -> Found:
    """Kills the work at every point. A point that a run does not come to (timing decides) kills nobody."""
    start = folder / "start"
    start.mkdir(parents=True)
    if code := _child(lambda: subject.prepare(start)):
        raise AssertionError(f"{subject.name}: the preparation ended with {code}")
    whole = _copy(start, folder / "whole")
    points = _counted(subject, whole)
    expected, found = subject.outcome(whole), Found(points, 0, [])

    def case(n: int) -> None:
        result = _case(subject, start, folder / f"killed-{n}", n, expected)
        (folder / f"{n}.json").write_bytes(msgspec.json.encode(result))

    _side_by_side([partial(case, n) for n in range(1, len(points) + 1)])
    for n, name in enumerate(points, 1):
        killed, wrong = msgspec.json.decode((folder / f"{n}.json").read_bytes(), type=tuple[bool, str])
        found.kills += killed
        if wrong:
            found.wrong.append(f"killed at point {n} ({name}), {wrong}")
    return found


def _case(subject: Subject, start: Path, place: Path, n: int, expected: Any) -> tuple[bool, str]:
    """Whether it was killed at point `n`, and what is wrong afterwards."""
    _copy(start, place)
    killed = _child(lambda: subject.work(place, Points(n))) == -signal.SIGKILL
    _let_leases_end(place)
    if code := _child(lambda: subject.work(place, Points())):
        return killed, f"it could not go on: exit {code}"
    came = subject.outcome(place)
    shutil.rmtree(place)
    return killed, "" if came == expected else f"it came to something else: {_difference(expected, came)}"


def _side_by_side(cases: list[Callable[[], None]]) -> None:
    """Each in a child of its own, a few at a time: they wait for the disk more than they work."""
    running: set[int] = set()
    for case in cases:
        if len(running) == AT_A_TIME:
            running.discard(os.wait()[0])
        running.add(_fork(case))
    for pid in running:
        os.waitpid(pid, 0)


def _counted(subject: Subject, place: Path) -> list[str]:
    """The points of the work that nobody kills."""

    def work() -> None:
        points = Points()
        subject.work(place, points)
        (place / "points.json").write_bytes(msgspec.json.encode(points.passed))

    if code := _child(work):
        raise AssertionError(f"{subject.name}: the work itself ended with {code}")
    return msgspec.json.decode((place / "points.json").read_bytes(), type=list[str])


def _child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child; the exit code, or minus the signal that ended it."""
    pid = _fork(work)
    until = time.monotonic() + CHILD_WITHIN
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 124
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  # whatever it is, the child ends here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def _copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.sock"))
    return to


def _let_leases_end(folder: Path) -> None:
    """As if five seconds had passed since the process was killed."""
    path = folder / "bus" / "lease.db"
    if path.exists():
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("DELETE FROM lease")


def _difference(expected: Any, came: Any) -> str:
    if isinstance(expected, dict) and isinstance(came, dict):
        keys = [key for key in expected.keys() | came.keys() if expected.get(key) != came.get(key)]
        return "; ".join(f"{key}: {_difference(expected.get(key), came.get(key))}" for key in sorted(keys)[:3])
    return f"{str(came)[:300]} instead of {str(expected)[:300]}"


@contextmanager
def new_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fleetbus-crash-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(names: list[str]) -> int:
    from tests.chaos.subjects import PLANTED, SUBJECTS

    failed = 0
    for name in names or list(SUBJECTS):
        began = time.monotonic()
        with new_folder() as folder:
            found = enumerate_points({**SUBJECTS, **PLANTED}[name](), folder)
        failed += bool(found.wrong)
        kinds = ", ".join(f"{kind} {n}" for kind, n in Counter(found.points).items())
        sys.stdout.write(
            f"{name}: {len(found.points)} points, killed at {found.kills}, {time.monotonic() - began:.0f} s\n"
        )
        sys.stdout.write(f"  {kinds}\n" + "".join(f"  {line}\n" for line in found.wrong))
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
