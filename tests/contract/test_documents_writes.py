"""The contract of the Documents port: stale writes, writers at once, and time to live."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from projections.osis.documents import Namespace, Ttl
from tests.contract.stores import Clock

HOUR = 3600.0


def test_a_write_that_is_older_than_what_is_stored_is_skipped_and_counted(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "a", "_at": 7, "v": "new"}, {"_id": "b", "_at": 3, "v": "old"}])
    assert views.put_many("jobs", [{"_id": "a", "_at": 5, "v": "late"}, {"_id": "b", "_at": 5, "v": "newer"}]) == 1
    assert views.get("jobs", "a") == {"_id": "a", "_at": 7, "v": "new"}
    assert views.get("jobs", "b") == {"_id": "b", "_at": 5, "v": "newer"}


def test_what_is_taken_for_new_and_is_not_follows_the_same_rule(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "a", "_at": 7, "v": "new"}, {"_id": "b", "_at": 3, "v": "old"}])
    late = [{"_id": "a", "_at": 5, "v": "late"}, {"_id": "b", "_at": 5, "v": "newer"}, {"_id": "c", "_at": 5}]
    assert views.put_many("jobs", late, new={"a", "b", "c"}) == 1
    assert [views.get("jobs", key) for key in "abc"] == [{"_id": "a", "_at": 7, "v": "new"}, *late[1:]]


def test_several_collections_in_one_call_follow_the_same_rule(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "a", "_at": 7, "v": "new"}])
    nodes = [{"_id": "n", "_at": 1}, {"_id": "m", "_at": 2}]
    views.put_all({"jobs": [{"_id": "a", "_at": 5, "v": "late"}], "nodes": nodes, "none": []}, new={"nodes": {"n"}})
    assert views.get("jobs", "a") == {"_id": "a", "_at": 7, "v": "new"}
    assert views.get_many("nodes", ["n", "m"]) == {"n": nodes[0], "m": nodes[1]}


def test_a_write_of_the_same_age_is_done_again(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "a", "_at": 7, "v": 1}])
    assert views.put_many("jobs", [{"_id": "a", "_at": 7, "v": 2}]) == 0
    assert views.get("jobs", "a") == {"_id": "a", "_at": 7, "v": 2}


def test_documents_without_age_are_always_replaced_and_always_replace(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "a", "v": 1}])
    assert views.put_many("jobs", [{"_id": "a", "_at": 1, "v": 2}]) == 0
    assert views.put_many("jobs", [{"_id": "a", "v": 3}]) == 0
    assert views.get("jobs", "a") == {"_id": "a", "v": 3}


def test_of_one_id_twice_in_a_call_the_later_wins_unless_it_is_older(views: Namespace) -> None:
    assert views.put_many("jobs", [{"_id": "a", "_at": 1, "v": 1}, {"_id": "a", "_at": 1, "v": 2}]) == 0
    assert views.get("jobs", "a") == {"_id": "a", "_at": 1, "v": 2}
    assert views.put_many("jobs", [{"_id": "a", "_at": 4, "v": 4}, {"_id": "a", "_at": 3, "v": 3}]) == 1
    assert views.get("jobs", "a") == {"_id": "a", "_at": 4, "v": 4}


def test_a_deletion_spares_what_is_newer(views: Namespace) -> None:
    views.put_many("jobs", [{"_id": "a", "_at": 7}, {"_id": "b", "_at": 3}, {"_id": "c"}])
    assert views.delete_many("jobs", ["a", "b", "c"], at=5) == 2
    assert [document["_id"] for document in views.iterate("jobs")] == ["a"]


def test_of_many_writers_at_once_the_newest_write_stays(documents_url: str, views: Namespace) -> None:
    keys = [f"{n:02}" for n in range(20)]

    def write(first: int) -> None:
        for at in range(first, 60, 6):
            views.put_many("jobs", [{"_id": key, "_at": at, "v": [at] * 20} for key in keys])

    def read() -> None:
        while not done.is_set():
            for document in views.find("jobs", limit=100, total=False).items:
                assert document["v"] == [document["_at"]] * 20

    done = threading.Event()
    failures: list[BaseException] = []
    threads = [threading.Thread(target=_collect, args=(failures, write, n)) for n in range(6)]
    reader = threading.Thread(target=_collect, args=(failures, read))
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert [(d["_id"], d["_at"]) for d in views.iterate("jobs")] == [(key, 59) for key in keys]


_PROCESS = """
import sys
from projections.osis.open import open_documents
url, namespace, writer = sys.argv[1], sys.argv[2], int(sys.argv[3])
views = open_documents(url).namespace(namespace)
views.declare("jobs", indexes=[("state",)])
for at in range(writer, 100, 4):
    views.put_many("jobs", [{"_id": "shared", "_at": at}, {"_id": f"{at:03}", "_at": at, "state": "new"}])
"""


def test_several_processes_begin_and_write_at_once(documents_url: str, views: Namespace) -> None:
    # The address holds a password of a server that lives as long as the tests.
    command = [sys.executable, "-c", _PROCESS, documents_url, views.name]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(_run, [*command, str(writer)]) for writer in range(4)]
    for run in runs:
        assert run.result().returncode == 0, run.result().stderr
    assert views.count("jobs") == 101
    assert views.get("jobs", "shared") == {"_id": "shared", "_at": 99}


def test_documents_go_when_their_time_is_over(views: Namespace, clock: Clock) -> None:
    views.declare("jobs", ttl=Ttl("ended", HOUR))
    soon = datetime.fromtimestamp(clock.now + 60, UTC)
    views.put_many(
        "jobs",
        [
            {"_id": "text", "ended": soon.isoformat()},
            {"_id": "moment", "ended": soon},
            {"_id": "number", "ended": clock.now + 60},
            {"_id": "later", "ended": clock.now + HOUR},
            {"_id": "open"},
            {"_id": "null", "ended": None},
            {"_id": "nonsense", "ended": "tomorrow"},
            {"_id": "never", "ended": 1e300},
        ],
    )
    assert views.sweep("jobs") == 0
    clock.now += HOUR + 61
    assert views.sweep("jobs") == 3
    assert {document["_id"] for document in views.iterate("jobs")} == {"later", "open", "null", "nonsense", "never"}


def test_a_new_version_of_a_document_has_a_new_time_to_live(views: Namespace, clock: Clock) -> None:
    views.declare("jobs", ttl=Ttl("at.end", HOUR))
    views.put_many("jobs", [{"_id": "a", "at": {"end": clock.now + 10}}])
    views.put_many("jobs", [{"_id": "a", "at": {"end": None}}])
    clock.now += 2 * HOUR
    assert views.sweep("jobs") == 0
    assert views.get("jobs", "a") == {"_id": "a", "at": {"end": None}}


def test_writes_sweep_by_themselves_once_a_minute(views: Namespace, clock: Clock) -> None:
    views.declare("jobs", ttl=Ttl("ended", HOUR))
    views.put_many("jobs", [{"_id": "a", "ended": clock.now + 1}])
    clock.now += HOUR + 2
    views.put_many("jobs", [{"_id": "b"}])
    assert [document["_id"] for document in views.iterate("jobs")] == ["b"]
    views.put_many("jobs", [{"_id": "c", "ended": clock.now - HOUR + 20}])
    clock.now += 30
    views.put_many("jobs", [{"_id": "d"}])
    assert views.get("jobs", "c") is not None
    clock.now += 31
    views.put_many("jobs", [{"_id": "d"}])
    assert views.get("jobs", "c") is None


@pytest.mark.parametrize("field", ["a b", ""])
def test_a_time_to_live_on_no_field_is_refused(views: Namespace, field: str) -> None:
    with pytest.raises(Exception, match="no field path"):
        views.declare("jobs", ttl=Ttl(field, HOUR))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _collect(failures: list[BaseException], work: Any, *arguments: Any) -> None:
    try:
        work(*arguments)
    except BaseException as failure:
        failures.append(failure)
        raise
