"""Columns that repeat fields hold what the documents say: whoever wrote them, and in files of every age."""

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.osis.filters import And, Eq, Has, Or
from projections.osis.sqlite_columns import column_of, column_value
from projections.osis.sqlite_documents import SqliteDocuments
from projections.osis.sqlite_look import MOST_STEPS

FIELDS = ["a", "b.c", "list"]

#: What a version writes that knows no columns.
OLD_PUT = """
INSERT INTO "{table}" (id, at, expires, doc) VALUES (?, ?, NULL, ?)
ON CONFLICT (id) DO UPDATE SET at = excluded.at, expires = excluded.expires, doc = excluded.doc
WHERE excluded.at IS NULL OR "{table}".at IS NULL OR excluded.at >= "{table}".at
"""
OLD_TABLE = 'CREATE TABLE "{table}" (id PRIMARY KEY NOT NULL, at INTEGER, expires REAL, doc TEXT NOT NULL)'
#: What the version just before wrote for `scan`.
COMPUTED = 'ALTER TABLE "{table}" ADD COLUMN {column} GENERATED ALWAYS AS ({value}) VIRTUAL'

# SQLite reads a few numbers with many digits another last digit than they have, which columns do not
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [0.5, -1.0, float("nan"), float("inf"), "", "a\0b", "\ud800", "ä\u2028", ("x", 1), datetime.now(UTC)]
    ),
    st.text(max_size=3),
    st.lists(st.one_of(st.text(max_size=2), st.integers(-3, 3), st.none(), st.just(("t",))), max_size=3),
    st.dictionaries(st.sampled_from("cx"), st.integers(0, 2), max_size=2),
)
documents_lists = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys("ab", values) | {"list": values}), max_size=6
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("osis") / "views.db"


@pytest.fixture(scope="module")
def documents(file: Path) -> Iterator[SqliteDocuments]:
    with closing(SqliteDocuments(file)) as documents:
        yield documents


@pytest.fixture
def name() -> str:
    return f"live-{uuid.uuid4().hex[:12]}"


def put_as_of_old(file: Path, name: str, *documents: dict[str, Any]) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        for one in documents:
            sql = OLD_PUT.format(table=f"{name}.docs")
            connection.execute(sql, [one["_id"], one.get("_at"), msgspec.json.encode(one).decode()])


def wrong(file: Path, name: str) -> list[Any]:
    """The columns that are not what SQLite makes of the document."""
    with closing(sqlite3.connect(file)) as connection:
        return [
            (field, row)
            for field in FIELDS
            for row in connection.execute(
                f'SELECT id, doc, {column_of(field)} FROM "{name}.docs"'
                f" WHERE {column_of(field)} IS NOT {column_value(field)}"
                f" OR typeof({column_of(field)}) <> typeof({column_value(field)})"
            )
        ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=documents_lists, again=documents_lists)
def test_columns_hold_what_sqlite_reads_in_the_document(
    documents: SqliteDocuments, file: Path, bodies: list[dict[str, Any]], again: list[dict[str, Any]]
) -> None:
    name = f"live-{uuid.uuid4().hex[:12]}"
    views = documents.namespace(name)
    views.declare("docs", scan=FIELDS)
    for round in (bodies, again):
        views.put_many("docs", [{"_id": f"{n}", **body} for n, body in enumerate(round)])
        assert wrong(file, name) == []
    documents.drop_namespace(name)


def test_what_a_version_without_columns_writes_is_found_by_columns(
    documents: SqliteDocuments, file: Path, name: str
) -> None:
    views = documents.namespace(name)
    views.declare("docs", indexes=[("a",)], scan=FIELDS)
    views.put_many("docs", [{"_id": "1", "_at": 1, "a": "x", "list": ["p"]}, {"_id": "2", "_at": 1, "a": "x"}])
    put_as_of_old(file, name, {"_id": "2", "_at": 2, "a": "y", "b": {"c": 7}}, {"_id": "3", "_at": 2, "a": "y"})
    assert [one["_id"] for one in views.find("docs", Eq("a", "y")).items] == ["2", "3"]
    assert views.count("docs", And(Eq("b.c", 7), Eq("a", "y"))) == 1
    # older than what is there: refused, as ever
    put_as_of_old(file, name, {"_id": "2", "_at": 1, "a": "old"})
    views.put_many("docs", [{"_id": "3", "_at": 3, "a": "x"}])
    put_as_of_old(file, name, {"_id": "3", "_at": 4, "list": ["q", "p"]})
    assert views.count("docs", Has("list", "p")) == 2
    assert views.count("docs", Eq("a", None)) == 1
    assert wrong(file, name) == []


def test_fields_told_beforehand_have_columns_that_indexes_use_later(
    documents: SqliteDocuments, file: Path, name: str
) -> None:
    views = documents.namespace(name)
    views.declare("docs", fields=FIELDS)
    views.put_many("docs", [{"_id": f"{n}", "a": n % 3, "b": {"c": n}} for n in range(30)])
    views.declare("docs", indexes=[("a", "-b.c")])
    views.declare("docs", scan=FIELDS)
    with documents.table(name, "docs").look() as look:
        assert look.layout.columns == tuple(FIELDS)
        assert look.layout.scan == tuple(FIELDS)
        assert '"=a", "=b.c" DESC, id DESC' in look.layout.orders
    assert [one["_id"] for one in views.find("docs", Eq("a", 1), sort=["-b.c"], limit=3).items] == ["28", "25", "22"]
    put_as_of_old(file, name, {"_id": "28", "a": 2})
    assert views.count("docs", Eq("a", 1)) == 9
    assert wrong(file, name) == []


@pytest.mark.parametrize("computed", [(), ("a",), tuple(FIELDS)], ids=repr)
def test_tables_of_earlier_versions_go_on_as_they_are(
    documents: SqliteDocuments, file: Path, name: str, computed: tuple[str, ...]
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute(OLD_TABLE.format(table=f"{name}.docs"))
        for field in computed:
            parts = {"table": f"{name}.docs", "column": column_of(field), "value": column_value(field)}
            connection.execute(COMPUTED.format(**parts))
    put_as_of_old(file, name, *({"_id": f"{n}", "a": n % 3, "list": [n % 2]} for n in range(10)))
    views = documents.namespace(name)
    for _ in range(2):
        views.declare("docs", indexes=[("a",)], scan=FIELDS)
        views.put_many("docs", [{"_id": "new", "a": 1, "b": {"c": "x"}, "list": [1, "p"]}])
        assert views.count("docs", Eq("a", 1)) == 4
        assert views.count("docs", And(Eq("b.c", "x"), Has("list", "p"))) == 1
        assert [one["_id"] for one in views.find("docs", sort=["-b.c", "a"], limit=2).items] == ["new", "0"]
    with documents.table(name, "docs").look() as look:
        assert (look.layout.columns, look.layout.scan) == ((), tuple(FIELDS))
    assert wrong(file, name) == []


@pytest.mark.parametrize("lists", [3, MOST_STEPS + 5])
def test_few_lists_and_many_are_looked_into_alike(documents: SqliteDocuments, name: str, lists: int) -> None:
    views = documents.namespace(name)
    views.declare("docs", scan=["list", "a"])
    held = [[f"r{n}", n, True, ["deep"]] for n in range(lists)]
    views.put_many("docs", [{"_id": f"{n}", "list": held[n % lists]} for n in range(max(12, lists))])
    views.put_many("docs", [{"_id": "text", "list": "r1"}, {"_id": "none"}, {"_id": "twice", "list": ["r1", "r2"]}])
    with documents.table(name, "docs").look() as look:
        one = look.count(Has("list", "r1"))
        assert one == views.count("docs", And(Has("list", 1), Has("list", True))) + 1
        assert look.count(Or(Has("list", "r1"), Has("list", "r2"))) == 2 * (one - 1) + 1
        assert [look.count(Has("list", value)) for value in ("deep", "r", False, "1")] == [0] * 4
    assert views.texts("docs", "list") == sorted({"r1", *(f"r{n}" for n in range(lists))})
