"""What documents on SQLite promise beyond the port: indexes that are used, and locks that are bounded."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from projections.osis import sqlite_database
from projections.osis.errors import BadUrl, StorageFailed, Unreachable
from projections.osis.filters import And, Eq, Exists, Filter, Gte, Has, In, Prefix
from projections.osis.open import open_documents
from projections.osis.query import parse_sort
from projections.osis.sqlite_documents import SqliteDocuments
from projections.osis.sqlite_look import Look


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteDocuments]:
    """20,000 jobs of 40 nodes."""
    documents = SqliteDocuments(tmp_path_factory.mktemp("osis") / "views.db")
    views = documents.namespace("live")
    views.declare("jobs", indexes=[("state", "-created"), ("-created",), ("node.id", "created"), ("name",)])
    views.put_many(
        "jobs",
        (
            {
                "_id": f"j{n:05}",
                "state": ["queued", "succeeded", "failed"][n % 3],
                "created": f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z",
                "node": {"id": f"n{n % 40}"},
                "name": f"job {n}",
            }
            for n in range(20_000)
        ),
    )
    yield documents
    documents.close()


Read = tuple[str, Sequence[Any]]


@pytest.fixture
def reads(big: SqliteDocuments, monkeypatch: pytest.MonkeyPatch) -> list[Read]:
    """What is read, as it is prepared: with literals for parameters SQLite may find better plans."""
    seen, rows = list[Read](), Look.rows

    def read(look: Look, sql: str, parameters: Sequence[Any], **parts: str) -> list[Any]:
        seen.append((sql.format(**look.names, **parts), parameters))
        return rows(look, sql, parameters, **parts)

    monkeypatch.setattr(Look, "rows", read)
    return seen


def plan(documents: SqliteDocuments, read: Read) -> str:
    with documents._database.reading() as connection:
        return "; ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {read[0]}", read[1]))


@pytest.mark.parametrize(
    ("where", "sort"),
    [
        (Eq("state", "queued"), ["-created"]),
        (Eq("state", "queued"), ["created"]),
        (Eq("state", None), ["-created"]),
        (And(), ["-created"]),
        (And(), ["created"]),
        (Eq("node.id", "n7"), ["created"]),
        (And(Eq("node.id", "n7"), Gte("created", "2026-01-01T00:10")), ["created"]),
        (Prefix("name", "job 19"), ["name"]),
        (Exists("name"), ["name"]),
        (And(), []),
        (In("_id", ("j00001", "j00002")), []),
    ],
    ids=repr,
)
@pytest.mark.parametrize("page", ["first", "later"])
def test_pages_of_a_big_collection_are_found_by_index_alone(
    big: SqliteDocuments, reads: list[Read], where: Filter, sort: list[str], page: str
) -> None:
    views = big.namespace("live")
    after = None if page == "first" else views.find("jobs", And(), sort=sort, limit=1000).next_cursor
    reads.clear()
    views.find("jobs", where, sort=sort, after=after)
    find, *count = (plan(big, read) for read in reads)
    for found in (find, *count):
        assert "INDEX" in found, found
        assert "TEMP B-TREE" not in found, found
    if after is not None or where != And():
        assert "SEARCH" in find, find


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteDocuments]:
    """2,000 jobs, whose `scan` another process made."""
    path = tmp_path_factory.mktemp("osis") / "views.db"
    for documents in (SqliteDocuments(path), SqliteDocuments(path)):
        views = documents.namespace("live")
        if not views.collections():
            views.declare(
                "jobs", indexes=[("node", "created"), ("state", "created")], scan=["state", "node", "by", "tags"]
            )
            jobs = [
                {"_id": f"j{n:04}", "node": f"n{n % 40}", "state": "new", "by": "me", "tags": ["a"]}
                for n in range(2000)
            ]
            views.put_many("jobs", jobs)
            documents.close()
    yield documents
    documents.close()


@pytest.mark.parametrize(
    ("where", "sort", "columns"),
    [
        (Eq("by", "me"), ["node"], True),
        (And(), ["-by"], True),
        (And(Eq("state", "new"), Has("tags", "a")), ["_id"], True),
        (Eq("state", "new"), ["-by"], True),
        (Eq("state", "new"), ["created"], False),
        (And(), [], False),
        (Eq("node", "n7"), ["-by"], False),
        (Eq("by", "me"), ["other"], False),
    ],
    ids=repr,
)
def test_what_no_index_serves_is_looked_for_in_columns(
    scanned: SqliteDocuments, where: Filter, sort: list[str], columns: bool
) -> None:
    with scanned.table("live", "jobs").look() as look:
        assert look.is_scanned(where, parse_sort(sort)) is columns


def test_columns_follow_what_is_declared(tmp_path: Path) -> None:
    documents = SqliteDocuments(tmp_path / "views.db")
    views = documents.namespace("live")
    views.put_many("jobs", [{"_id": "j", "a": 1, "b": {"c": "x"}}])
    for scan in (["a"], ["a", "b.c"], ["b.c"]):
        views.declare("jobs", scan=scan)
        with documents.table("live", "jobs").look() as look:
            assert look.layout.scan == tuple(scan)
        assert views.count("jobs", Eq("b.c", "x")) == 1
    documents.close()


def test_an_order_without_index_still_gives_the_right_page(big: SqliteDocuments) -> None:
    page = big.namespace("live").find("jobs", Eq("state", "failed"), sort=["-name"], limit=2)
    assert [document["name"] for document in page.items] == ["job 9998", "job 9995"]


def test_readers_go_on_while_a_writer_is_in_the_middle(tmp_path: Path) -> None:
    documents = SqliteDocuments(tmp_path / "views.db")
    views = documents.namespace("live")
    views.put_many("jobs", [{"_id": "a"}])
    writer = sqlite3.connect(tmp_path / "views.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM 'live.jobs'")
    assert views.get("jobs", "a") == {"_id": "a"}
    writer.execute("COMMIT")
    writer.close()
    assert views.get("jobs", "a") is None
    documents.close()


def test_a_writer_waits_for_another_process_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_database, "BUSY_SECONDS", 0.2)
    documents = SqliteDocuments(tmp_path / "views.db")
    views = documents.namespace("live")
    views.put_many("jobs", [{"_id": "a"}])
    writer = sqlite3.connect(tmp_path / "views.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable, match="kept writing"):
        views.put_many("jobs", [{"_id": "b"}])
    writer.execute("COMMIT")
    writer.close()
    assert views.put_many("jobs", [{"_id": "b"}]) == 0
    documents.close()


_FIRST = """
import sys
from projections.osis.open import open_documents, open_series
from projections.osis.series import Measurement, Point
url, number = sys.argv[1:]
open_documents(url).namespace("live").put_many("jobs", [{"_id": number}])
series = open_series(url, [Measurement("node", ("node",), keep=86400.0)])
series.write([Point("node", {"node": number}, {"cpu": 1.0}, time=2**62)])
"""


def test_processes_that_start_at_once_on_a_new_file_all_get_in(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/new/views.db"
    command = [sys.executable, "-c", _FIRST, url]
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(subprocess.run, [*command, str(n)], capture_output=True, check=False) for n in range(8)]
    assert [run.result().stderr for run in runs] == [b""] * 8
    documents = open_documents(url)
    assert documents.namespace("live").count("jobs") == 8
    assert documents.list_namespaces() == ["live"]
    documents.close()


def test_connections_are_reused_by_whoever_comes_next(tmp_path: Path) -> None:
    documents = SqliteDocuments(tmp_path / "views.db")
    views = documents.namespace("live")
    for n in range(50):
        thread = threading.Thread(target=views.put_many, args=("jobs", [{"_id": str(n)}]))
        thread.start()
        thread.join()
    assert views.count("jobs") == 50
    assert (len(documents._database._readers), len(documents._database._writers)) == (1, 1)
    documents.close()


def test_however_many_threads_read_few_connections_are_made(tmp_path: Path) -> None:
    documents = SqliteDocuments(tmp_path / "views.db")
    views = documents.namespace("live")
    views.put_many("jobs", [{"_id": "a"}])
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda _: views.count("jobs"), range(200))) == [1] * 200
    assert len(documents._database._readers) <= sqlite_database.READERS
    documents.close()


def test_a_reader_waits_for_others_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_database, "BUSY_SECONDS", 0.2)
    documents = SqliteDocuments(tmp_path / "views.db")
    with ExitStack() as others:
        for _ in range(sqlite_database.READERS):
            others.enter_context(documents._database.reading())
        with pytest.raises(Unreachable, match="kept reading"):
            documents.namespace("live").get("jobs", "a")
    assert documents.namespace("live").get("jobs", "a") is None
    documents.close()


def test_what_is_no_database_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    path.write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(StorageFailed, match=r"views\.db"):
        open_documents(f"sqlite://{path}").ping()


def test_a_folder_that_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file"):
        open_documents(f"sqlite://{tmp_path}/file/views.db")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://relative.db", "absolute path"),
        ("sqlite:///", "absolute path"),
        ("sqlite:", "absolute path"),
        ("postgresql://u:secret@h/db", r"'postgresql': use sqlite:///… or mongodb://…"),
        ("", "use sqlite"),
        ("mongodb://u:secret@h", "mongodb://"),
        ("mongodb://u:se@cret@h/db", "%40"),
        ("mongodb://u:secret@h:port/db", "mongodb://"),
        ("mongodb://[secret/db", "malformed"),
    ],
)
def test_a_url_that_names_no_storage_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(BadUrl, match=says) as refused:
        open_documents(url)
    assert "secret" not in str(refused.value)
    assert "cret" not in str(refused.value).replace("secret", "")
    assert refused.value.__cause__ is None
