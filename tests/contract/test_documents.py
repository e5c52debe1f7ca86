"""The contract of the Documents port: what is kept, found, paged and dropped."""

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from projections.osis.documents import Documents, Namespace
from projections.osis.errors import BadDocument, BadName, BadQuery
from projections.osis.filters import EVERYTHING, And, Contains, Eq, Filter, Gt, Has, In, Or, Prefix
from projections.osis.open import open_documents

HOSTILE = [
    "'; DROP TABLE jobs; --",
    '"; x',
    "%_%",
    ".*",
    "(a+)+$",
    "$where",
    "{$gt: ''}",
    "\\",
    "a\nb",
    "é\u0301",
    "\U0001f600",
    "",
]


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["_id"] for item in items]


def test_a_document_comes_back_as_it_was_put(views: Namespace) -> None:
    document = {
        "_id": "j1",
        "_at": 2**40,
        "n": None,
        "t": True,
        "f": 1.5,
        "l": [1, "a", {"b": []}],
        "o": {"$k": {"a.b": 2}},
    }
    assert views.put_many("jobs", [document]) == 0
    assert views.get("jobs", "j1") == document
    assert views.get("jobs", "j2") is None
    assert views.get_many("jobs", ["j1", "j2"]) == {"j1": document}


def test_putting_again_replaces_the_whole_document(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "j1", "a": 1}])
    views.put_many("jobs", [{"_id": "j1", "b": 2}])
    assert views.get("jobs", "j1") == {"_id": "j1", "b": 2}


def test_what_comes_from_the_wide_world_is_tamed_and_never_refused(views: Namespace) -> None:
    deep: Any = "bottom"
    for _ in range(200):
        deep = [deep]
    views.put_many(
        "jobs",
        [
            {
                "_id": "j1",
                "when": datetime(2026, 1, 2, tzinfo=UTC),
                "nan": float("nan"),
                "huge": 10**30,
                "unsigned": 2**63,
                "nul": "a\0b",
                "surrogate": "a\ud800b",
                "tuple": (1, 2),
                "deep": deep,
                "key\0": 1,
            }
        ],
    )
    held = views.get("jobs", "j1")
    assert held is not None
    inside, levels = held.pop("deep"), 0
    while isinstance(inside, list):
        (inside,), levels = inside, levels + 1
    assert 80 < levels < 100
    assert inside == "[" * (200 - levels) + '"bottom"' + "]" * (200 - levels)
    assert held == {
        "_id": "j1",
        "when": "2026-01-02T00:00:00Z",
        "nan": None,
        "huge": 1e30,
        "unsigned": 2.0**63,
        "nul": "a\u2400b",
        "surrogate": "a\ufffdb",
        "tuple": [1, 2],
        "key\u2400": 1,
    }


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"_id": 7},
        {"_id": "a", "_at": "7"},
        {"_id": "a", "_at": True},
        {"_id": "a", "_at": 2**63},
        {"_id": "a", "x": Ellipsis},
        {"_id": "a", "$set": 1},
        {"_id": "a", "_expires": 1},
    ],
    ids=repr,
)
def test_what_is_no_document_is_refused_and_nothing_is_written(views: Namespace, document: dict[str, Any]) -> None:
    with pytest.raises(BadDocument):
        views.put_many("jobs", [{"_id": "good"}, document])
    assert views.count("jobs") == 0


def test_reading_what_does_not_exist_finds_nothing_and_creates_nothing(views: Namespace) -> None:
    assert views.get("jobs", "j1") is None
    assert views.find("jobs").items == []
    assert views.find("jobs").total == 0
    assert list(views.iterate("jobs")) == []
    assert views.delete_many("jobs", ["j1"]) == 0
    assert views.sweep("jobs") == 0
    assert views.collections() == []


def test_deleted_documents_are_gone_and_counted(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": str(n)} for n in range(5)])
    assert views.delete_many("jobs", ["1", "3", "9"]) == 2
    assert ids(list(views.iterate("jobs"))) == ["0", "2", "4"]
    assert views.delete_many("jobs", []) == 0


def test_nothing_put_and_nothing_asked_are_no_errors(views: Namespace) -> None:
    assert views.put_many("jobs", []) == 0
    assert views.get_many("jobs", []) == {}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_data_everywhere(views: Namespace, text: str) -> None:
    documents = [{"_id": text or "empty", "v": text, "l": [text], "n": 1}, {"_id": "other", "v": "other", "n": 2}]
    views.put_many("jobs", documents)
    views.put_many("jobs", documents)
    assert views.count("jobs") == 2
    filters: list[Filter] = [Eq("v", text), In("v", (text,)), Has("l", text), And(Prefix("v", text), Eq("n", 1))]
    for where in filters:
        assert views.find("jobs", where).items == [documents[0]], where
    assert documents[0] in views.find("jobs", Contains("v", text)).items
    assert views.get("jobs", text or "empty") == documents[0]
    after = views.find("jobs", sort=["v"], limit=1)
    assert len(views.find("jobs", sort=["v"], after=after.next_cursor).items) == 1
    assert views.delete_many("jobs", [text or "empty"]) == 1


def test_contains_ignores_letter_case_beyond_ascii(views: Namespace) -> None:
    views.put_many(
        "nodes", [{"_id": "1", "name": "Zürich"}, {"_id": "2", "name": "ZÜRICH"}, {"_id": "3", "name": "zurich"}]
    )
    assert ids(views.find("nodes", Contains("name", "züRICH")).items) == ["1", "2"]


@pytest.mark.parametrize(
    ("where", "sort"),
    [
        (Eq("a b", 1), []),
        (Eq("", 1), []),
        (Eq("a..b", 1), []),
        (Eq("$where", 1), []),
        (Eq('a"b', 1), []),
        (Eq("a" * 65, 1), []),
        (Eq("a", float("nan")), []),
        (Eq("a", 2**63), []),
        (Gt("a", None), []),  # type: ignore[arg-type]
        (Eq("a", [1]), []),  # type: ignore[arg-type]
        (EVERYTHING, ["a", "-a"]),
        (EVERYTHING, ["a;"]),
    ],
    ids=repr,
)
def test_a_query_outside_of_the_language_is_refused(views: Namespace, where: Filter, sort: list[str]) -> None:
    views.put_many("jobs", [{"_id": "a"}])
    with pytest.raises(BadQuery):
        views.find("jobs", where, sort=sort)


def test_what_is_no_filter_is_refused(views: Namespace) -> None:
    with pytest.raises(BadQuery, match="not a filter"):
        views.find("jobs", "state = 'queued'")  # type: ignore[arg-type]
    with pytest.raises(BadQuery, match="list of fields"):
        views.find("jobs", sort="name")


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_bounds_is_refused(views: Namespace, limit: int) -> None:
    with pytest.raises(BadQuery):
        views.find("jobs", limit=limit)


@pytest.mark.parametrize("cursor", ["", "x", "é", "bm9uc2Vuc2U", "W10", "WyJfaWQiLFsxXV0"])
def test_a_cursor_of_ones_own_making_is_refused(views: Namespace, cursor: str) -> None:
    with pytest.raises(BadQuery, match="cursor"):
        views.find("jobs", after=cursor)


def test_a_cursor_of_another_sort_is_refused(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": str(n), "a": n} for n in range(3)])
    cursor = views.find("jobs", sort=["a"], limit=1).next_cursor
    with pytest.raises(BadQuery, match="another sort"):
        views.find("jobs", sort=["-a"], after=cursor)


def test_documents_that_come_and_go_never_shift_the_pages(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": f"{n:02}", "t": n // 3} for n in range(20)])
    first = views.find("jobs", sort=["-t"], limit=7)
    views.put_many("jobs", [{"_id": f"new{n}", "t": 9} for n in range(5)])
    views.delete_many("jobs", [first.items[-1]["_id"], "03"])
    second = views.find("jobs", sort=["-t"], limit=100, after=first.next_cursor)
    expected = sorted(((n // 3, f"{n:02}") for n in range(20)), reverse=True)[7:]
    assert ids(second.items) == [key for _, key in expected if key != "03"]
    assert second.next_cursor is None


def test_the_total_is_counted_only_when_asked_for(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": str(n), "odd": bool(n % 2)} for n in range(9)])
    assert views.find("jobs", Eq("odd", True), limit=2).total == 4
    assert views.find("jobs", Eq("odd", True), limit=2, total=False).total is None
    assert views.count("jobs", Or(Eq("odd", True), Eq("_id", "0"))) == 5


def test_sorting_by_what_is_no_scalar_is_refused_at_the_page_break(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": str(n), "a": {"b": n}} for n in range(3)])
    with pytest.raises(BadQuery, match="no scalar"):
        views.find("jobs", sort=["a"], limit=1)


def test_iterating_reads_everything_in_order(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": f"{n:05}"} for n in reversed(range(1203))])
    assert ids(list(views.iterate("jobs"))) == [f"{n:05}" for n in range(1203)]


def test_declaring_again_changes_nothing(views: Namespace) -> None:
    for _ in range(2):
        views.declare("jobs", indexes=[("state", "-created"), ("_id",), ("-created",)])
    assert views.collections() == ["jobs"]
    views.put_many("jobs", [{"_id": "a", "state": "done"}])
    views.declare("jobs", indexes=[("state", "-created"), ("node.id",)])
    assert views.count("jobs", Eq("state", "done")) == 1


def test_namespaces_are_apart_and_dropped_as_a_whole(documents: Documents) -> None:
    names = [f"gen-{uuid.uuid4().hex[:8]}{end}" for end in ("", "-2")]
    one, two = (documents.namespace(name) for name in names)
    one.put_many("jobs", [{"_id": "a", "of": 1}])
    one.put_many("nodes", [{"_id": "a"}])
    two.put_many("jobs", [{"_id": "a", "of": 2}])
    assert set(names) <= set(documents.list_namespaces())
    documents.drop_namespace(names[0])
    documents.drop_namespace(names[0])
    assert one.collections() == []
    assert one.get("jobs", "a") is None
    assert two.get("jobs", "a") == {"_id": "a", "of": 2}
    assert names[0] not in documents.list_namespaces()
    one.put_many("jobs", [{"_id": "b"}])
    assert one.count("jobs") == 1
    for name in names:
        documents.drop_namespace(name)


def test_an_alias_points_to_one_namespace_at_a_time(documents: Documents) -> None:
    alias = f"live-{uuid.uuid4().hex[:8]}"
    assert documents.pointed(alias) is None
    documents.point(alias, "gen-1")
    documents.point(alias, "gen-2")
    assert documents.pointed(alias) == "gen-2"
    assert "osis" not in documents.list_namespaces()


@pytest.mark.parametrize("name", ["", "A", "a.b", "a b", "ü", "x" * 49, "osis", 'a"b'])
def test_a_bad_namespace_name_is_refused(documents: Documents, name: str) -> None:
    for use in (documents.namespace, documents.drop_namespace):
        with pytest.raises(BadName):
            use(name)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a-b", "x" * 49, 'a"b'])
def test_a_bad_collection_name_is_refused(views: Namespace, name: str) -> None:
    with pytest.raises(BadName):
        views.count(name)


def test_equal_documents_have_equal_digests_whatever_the_order_of_keys(views: Namespace) -> None:
    views.put_many("a", [{"_id": "2", "x": 1, "y": {"p": 1.0, "q": "é"}}, {"_id": "1", "_at": 5}])
    views.put_many("b", [{"_id": "1", "_at": 9}, {"y": {"q": "é", "p": 1.0}, "x": 1, "_id": "2"}])
    assert views.digest("a", without={"_at"}) == views.digest("b", without={"_at"})
    assert views.digest("a") != views.digest("b")
    lines = b'{"_at":5,"_id":"1"}\n' + '{"_id":"2","x":1,"y":{"p":1.0,"q":"é"}}\n'.encode()
    assert views.digest("a") == hashlib.sha256(lines).hexdigest()
    assert views.digest("nothing") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_another_process_sees_what_was_written_and_dropped(documents_url: str, views: Namespace) -> None:
    other = open_documents(documents_url)
    there = other.namespace(views.name)
    there.put_many("jobs", [{"_id": "a"}])
    assert views.get("jobs", "a") == {"_id": "a"}
    other.drop_namespace(views.name)
    assert views.find("jobs").items == []
    assert views.put_many("jobs", [{"_id": "b"}]) == 0
    assert there.get("jobs", "b") == {"_id": "b"}
    other.ping()
    other.close()
    other.close()
