"""A process of its own writes what this one would have written, refuses what it would have, and may be killed."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from projections.osis.documents import Ttl
from projections.osis.errors import BadDocument
from projections.osis.sqlite_documents import SqliteDocuments, SqliteNamespace
from tests.waiting import wait_until

FIELDS = ["a", "b.c", "list"]
DEEP: list[Any] = []
for _ in range(120):
    DEEP = [DEEP]

#: One of each kind, in the order in which they are written.
PUTS: list[list[dict[str, Any]]] = [
    [
        {"_id": "plain", "_at": 3, "a": "x", "b": {"c": 1}, "list": ["u", 1]},
        {"_id": "moments", "_at": 4, "a": datetime(2026, 3, 1, tzinfo=UTC), "over": "2100-01-01T00:00:00Z"},
        {"_id": "tuples", "a": ("x", 1), "list": (True, None)},
        {"_id": "numbers", "a": float("nan"), "b": {"c": 2**70}, "list": 2**63 - 1},
        {"_id": "texts", "a": "\0", "b": {"c": "ä$"}, "list": "0" * 30},
    ],
    [{"_id": "surrogates", "a": "\ud800"}, {"_id": "others", "a": False, "b": "no object", "over": 12.5}],
    [{"_id": "deep", "list": DEEP}],
    [{"_id": "plain", "_at": 2, "a": "too late"}, {"_id": "moments", "_at": 9}],
    [{"_id": "twice", "_at": 2, "a": 1}, {"_id": "twice", "_at": 1, "a": 2}],
]
REFUSED: list[dict[str, Any]] = [
    {"a": 1},
    {"_id": 1},
    {"_id": "x", "_at": "1"},
    {"_id": "x", "_at": 2**63},
    {"_id": "x", "_expires": 1},
    {"_id": "x", "$set": 1},
    {"_id": "x", "a": object()},
    {"_id": "x", "a": "long" * 3_000_000},
]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteDocuments]:
    with closing(SqliteDocuments(tmp_path_factory.mktemp("osis") / "views.db")) as documents:
        yield documents


def declared(documents: SqliteDocuments) -> SqliteNamespace:
    namespace = documents.namespace(f"live-{uuid.uuid4().hex[:12]}")
    namespace.declare("docs", fields=FIELDS, ttl=Ttl("over", 100.0))
    return namespace


def rows(namespace: SqliteNamespace) -> list[Any]:
    with namespace._documents._database.reading() as connection:
        return connection.execute(f'SELECT * FROM "{namespace.name}.docs" ORDER BY id').fetchall()


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if any("sqlite_apart" in part for part in command_of(one))]


def command_of(process: psutil.Process) -> list[str]:
    """Empty when it has ended, as those of other tests of this process may have."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def test_what_it_writes_is_what_this_process_writes(documents: SqliteDocuments) -> None:
    here, apart = declared(documents), declared(documents)
    stale = [here.put_many("docs", put) for put in PUTS]

    with apart.apart():
        assert [apart.put_many("docs", iter(put)) for put in PUTS] == stale
        assert len(children()) == 1
        for bad in REFUSED:
            with pytest.raises(BadDocument):
                apart.put_many("docs", [{"_id": "beside"}, bad])

    assert rows(apart) == rows(here)
    assert len(rows(apart)) == 9
    assert not children()


def test_of_several_collections_in_one_call_a_bad_document_keeps_back_its_own_alone(documents: SqliteDocuments) -> None:
    namespace = declared(documents)
    with namespace.apart():
        with pytest.raises(BadDocument):
            namespace.put_all({"docs": [{"_id": "a", "_at": 1}], "others": [{"_id": "b"}, {"_id": "x", "$set": 1}]})
        namespace.put_all({"docs": [{"_id": "c", "_at": 1}], "others": [{"_id": "d"}]})

    assert namespace.get_many("docs", ["a", "c"]).keys() == {"a", "c"}
    assert namespace.get_many("others", ["b", "d"]).keys() == {"d"}


def test_a_collection_that_nobody_declared_is_made_by_the_first_write(documents: SqliteDocuments) -> None:
    namespace = documents.namespace(f"live-{uuid.uuid4().hex[:12]}")
    with namespace.apart():
        namespace.put_many("docs", [{"_id": "a"}])
        namespace.put_many("docs", [{"_id": "b"}])

    assert set(namespace.get_many("docs", ["a", "b"])) == {"a", "b"}


def test_when_it_is_killed_this_process_goes_on(documents: SqliteDocuments) -> None:
    namespace = declared(documents)
    with namespace.apart():
        namespace.put_many("docs", [{"_id": "before", "_at": 1}])
        (child,) = children()
        child.kill()
        assert namespace.put_many("docs", [{"_id": "after", "_at": 2}]) == 0
        assert namespace.put_many("docs", [{"_id": "after", "_at": 1}]) == 1

    assert set(namespace.get_many("docs", ["before", "after"])) == {"before", "after"}


PARENT = """
import sys, time
from pathlib import Path
from projections.osis.sqlite_documents import SqliteDocuments
namespace = SqliteDocuments(Path(sys.argv[1])).namespace("live-x")
namespace.declare("docs", fields=["a"])
with namespace.apart():
    namespace.put_many("docs", [{"_id": "a", "_at": 1}])
    print("written", flush=True)
    time.sleep(600)
"""


def test_when_its_parent_is_killed_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "views.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"written\n"
        (child,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)

    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, deadline=60, what="its end")
    with closing(SqliteDocuments(tmp_path / "views.db")) as documents:
        assert documents.namespace("live-x").get("docs", "a") == {"_id": "a", "_at": 1}
