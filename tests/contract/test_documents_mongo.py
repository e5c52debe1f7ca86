"""What documents on MongoDB promise beyond the port: outages, foreign eyes, and its own time to live."""

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest

from projections.osis.documents import DAY, Documents, Ttl
from projections.osis.errors import StorageFailed, Unreachable
from projections.osis.mongo_documents import MongoDocuments
from projections.osis.open import open_documents
from tests.contract.stores import mongodb_database
from tests.servers.secantusdb import SecantusDB
from tests.waiting import wait_until

pytestmark = pytest.mark.servers


@pytest.fixture
def url(mongodb_url: str) -> Iterator[str]:
    with mongodb_database(mongodb_url) as address:
        yield address


def test_a_server_that_restarts_is_waited_for_and_found_again(
    private_server: Callable[[type[SecantusDB]], SecantusDB],
) -> None:
    server = private_server(SecantusDB)
    documents = open_documents(server.url.replace("/?", "/views?serverSelectionTimeoutMS=500&"))
    views = documents.namespace("live")
    views.put_many("jobs", [{"_id": "a"}])
    server.stop()
    with pytest.raises(Unreachable) as away:
        views.put_many("jobs", [{"_id": "b"}])
    assert server.password not in str(away.value)
    with pytest.raises(Unreachable):
        documents.ping()
    server.start()
    wait_until(lambda: _answers(documents), deadline=60, what="the server to be found again")
    assert views.put_many("jobs", [{"_id": "b"}]) == 0
    assert views.count("jobs") == 2
    documents.close()


def test_a_wrong_password_is_told_and_not_shown(url: str) -> None:
    password = url.split(":")[2].partition("@")[0]
    documents = open_documents(url.replace(password, "wr0ng"))
    with pytest.raises(StorageFailed, match=r"(?i)auth") as refused:
        documents.namespace("live").count("jobs")
    assert "wr0ng" not in str(refused.value)
    assert "wr0ng" not in repr(documents)
    documents.close()


def test_what_a_rebuild_fills_gets_the_index_of_its_time_to_live_when_all_is_there(url: str) -> None:
    documents, ttl = open_documents(url), Ttl("ended", DAY)
    views = documents.namespace("live")
    views.declare("jobs", fields=["state"], ttl=ttl)
    views.put_many("jobs", [{"_id": "a", "ended": "2100-01-01T00:00:00Z", "state": "succeeded"}])
    with pymongo.MongoClient[dict[str, Any]](url, tz_aware=True) as client:
        jobs = client.get_default_database()["live.jobs"]
        before = jobs.index_information()
        views.declare("jobs", indexes=[["state"]], ttl=ttl)
        after = jobs.index_information()
        found = jobs.find_one({"_id": "a"})

    assert [index.get("expireAfterSeconds") for index in before.values()] == [None]
    assert after["_expires_1"]["expireAfterSeconds"] == 0
    assert len(after) == 3
    assert found is not None
    assert found["_expires"] == datetime(2100, 1, 2, tzinfo=UTC)
    documents.close()


def test_documents_lie_in_the_database_as_they_are(url: str) -> None:
    documents = open_documents(url)
    documents.namespace("live").put_many("jobs", [{"_id": "a", "n": 2**40, "o": {"x": [1, None]}}])
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        assert client.get_default_database()["live.jobs"].find_one() == {"_id": "a", "n": 2**40, "o": {"x": [1, None]}}
    documents.close()


def test_collections_of_others_in_the_same_database_are_left_alone(url: str) -> None:
    documents = open_documents(url)
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client.get_default_database()["theirs"].insert_one({"x": 1})
        documents.namespace("live").put_many("jobs", [{"_id": "a"}])
        assert documents.list_namespaces() == ["live"]
        documents.drop_namespace("live")
        assert client.get_default_database().list_collection_names() == ["theirs"]
    documents.close()


def test_declared_indexes_serve_filter_and_sort(url: str) -> None:
    documents = open_documents(url)
    views = documents.namespace("live")
    views.declare("jobs", indexes=[("state", "-created")], ttl=Ttl("ended", DAY))
    views.declare("jobs", indexes=[("state", "-created")], ttl=Ttl("ended", DAY))
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        indexes = client.get_default_database()["live.jobs"].index_information()
    assert [index["key"] for index in indexes.values()].count([("state", 1), ("created", -1), ("_id", -1)]) == 1
    assert [index.get("expireAfterSeconds") for index in indexes.values()].count(0) == 1
    documents.close()


@pytest.mark.slow
def test_the_server_removes_what_is_over_by_itself(url: str) -> None:
    now = datetime.now(UTC)
    documents = MongoDocuments(url, clock=lambda: 0.0)
    views = documents.namespace(f"ttl-{uuid.uuid4().hex[:8]}")
    views.declare("jobs", ttl=Ttl("ended", DAY))
    views.put_many("jobs", [{"_id": "old", "ended": now - timedelta(days=2)}, {"_id": "young", "ended": now}])
    wait_until(lambda: views.get("jobs", "old") is None, deadline=150, what="the server to remove the old document")
    assert views.get("jobs", "young") is not None
    documents.close()


def test_what_was_written_survives_the_death_of_the_server(
    private_server: Callable[[type[SecantusDB]], SecantusDB],
) -> None:
    """Who writes views goes on from what was confirmed, and never looks back."""
    server = private_server(SecantusDB)
    documents = open_documents(server.url.replace("/?", "/views?serverSelectionTimeoutMS=500&"))
    views = documents.namespace("live")
    written: list[str] = []
    killer = threading.Timer(1.0, server.kill)
    killer.start()

    def write_on() -> None:
        while True:
            id = str(len(written))
            views.put_many("jobs", [{"_id": id}])
            written.append(id)

    with pytest.raises(Unreachable):
        write_on()
    killer.join()
    server.start()
    wait_until(lambda: _answers(documents), deadline=60, what="the server to be found again")
    kept = views.get_many("jobs", written)
    assert [id for id in written if id not in kept] == []
    documents.close()


def _answers(documents: Documents) -> bool:
    try:
        documents.ping()
    except Unreachable:
        return False
    return True
