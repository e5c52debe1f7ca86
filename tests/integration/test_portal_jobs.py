"""Running scripts over HTTP: submitting, waiting, refusing, cancelling, retrying, and doing it once only."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from events.delivery import RunJob
from tests.portal_house import SOON, Doing, House


def does(job: RunJob) -> Doing | None:
    """What the agents of this file make of a job, by its parameter `text`."""
    match job.order.params.get("text"):
        case "sleep":
            return None
        case "fail":
            return Doing(outcome="failed", error="ValueError: no", traceback="Traceback …\nValueError: no\n")
        case text:
            return Doing(result={"text": text})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1", "cpu", does=does)
        house.agent("n2", "cpu", "disk.ssd", does=does)
        house.publish("echo")
        yield house


def order(text: str = "hello", **target: Any) -> dict[str, Any]:
    return {"script": "echo", "target": target or {"node": "n1"}, "params": {"text": text}}


def test_a_job_that_ends_in_time_is_answered_whole(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": 20}, json=order())
    assert answer.status_code == 200
    job = answer.json()["job"]
    assert (job["state"], job["node"], job["result"]) == ("succeeded", "n1", {"text": "hello"})
    assert job["by"] == "user:admin"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The portal waits for the decider as long as a busy machine may need, also when nobody asked it to wait."""
    monkeypatch.setattr("portal.runs.OUTCOME_SECONDS", SOON)


@pytest.mark.usefixtures("patient")
def test_a_job_without_waiting_is_answered_by_its_id_and_where_to_find_it(house: House) -> None:
    answer = house.api.post("/jobs", json=order("sleep"))
    assert answer.status_code == 202
    sent = answer.json()
    assert sent["outcome"] == "accepted"
    assert sent["event"]["type"] == "event.job.queued"
    assert answer.headers["location"] == f"/api/v1/jobs/{sent['id']}"
    job = house.api.get(f"/jobs/{sent['id']}", params={"at_least": sent["position"]}).json()
    assert job["state"] in ("queued", "started")


def test_a_job_that_does_not_end_in_time_is_answered_by_its_id(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": 0.5}, json=order("sleep"))
    assert answer.status_code == 202
    id = answer.json()["id"]
    house.wait(lambda: house.job(id).get("state") == "started", "the start")


def test_a_jobs_time_line_is_told_by_the_api_and_the_page(house: House) -> None:
    job = house.api.post("/jobs", params={"wait": 20}, json=order()).json()["job"]
    single = house.ended(job["id"])["timeline"]
    assert [hop["name"] for hop in single] == ["decide", "deliver", "run"]
    assert [hop["clocks"] for hop in single] == [["sender", "handlers"], ["handlers", "node"], ["node", "node"]]
    with house.browser() as browser:
        page = browser.get(f"/jobs/{job['id']}").text
    assert "Where the time went" in page
    assert page.count('<svg class="stretch"') == 3


def test_the_time_line_of_a_batchs_job_begins_with_the_batchs_command(house: House) -> None:
    batch = house.api.post("/jobs", params={"wait": 20}, json=order(nodes=["n1", "n2"])).json()
    assert house.ended(batch["jobs"][0]["id"])["timeline"][0]["name"] == "decide"


def test_a_failed_job_shows_the_traceback_of_the_script(house: House) -> None:
    job = house.api.post("/jobs", params={"wait": 20}, json=order("fail")).json()["job"]
    assert job["state"] == "failed"
    assert job["failure"] == {"error": "ValueError: no", "traceback": "Traceback …\nValueError: no\n"}


@pytest.mark.parametrize(
    ("change", "status", "reason", "field", "exists"),
    [
        ({"script": "nope"}, 404, "unknown_script", "script", "echo"),
        ({"target": {"node": "n9"}}, 404, "unknown_node", "target.node", "n1"),
        ({"target": {"role": "gpu"}}, 404, "unknown_role", "target.role", "cpu"),
        ({"params": {"txt": "x"}}, 422, "bad_params", "params.txt", "text"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_exists(
    house: House, change: dict[str, Any], status: int, reason: str, field: str, exists: str
) -> None:
    answer = house.api.post("/jobs", params={"wait": 20}, json={**order(), **change})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["reason"] == reason
    assert problem["field"] == field
    assert exists in problem["exists"]
    assert problem["instance"] == "/api/v1/jobs"
    # the answer comes out of the log, and the views follow it
    look = f"/commands/{problem['id']}?at_least={problem['position']}"
    command = house.wait(lambda: (one := house.api.get(look)).status_code == 200 and one.json(), "the views")
    assert command["rejection"]["reason"] == reason


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, ""),
        (b"{", 400, ""),
        (b'{"script": "echo", "target": {"node": "n1"}, "parms": {}}', 422, ""),
        (b'{"script": "echo", "target": {"host": "n1"}}', 422, "target"),
        (b'{"script": "echo", "target": {"node": "N 1"}}', 422, "target.node"),
        (b'{"script": "echo", "target": {"node": "n1"}, "timeout": -1}', 422, "timeout"),
        (b'{"script": "echo", "target": {"node": "n1"}, "timeout": 1e300}', 422, "timeout"),
        (b'{"script": 7, "target": {"node": "n1"}}', 422, "script"),
        (b'["echo"]', 422, ""),
    ],
)
def test_a_body_that_does_not_fit_is_refused_and_the_place_is_named(
    house: House, body: bytes, status: int, field: str
) -> None:
    answer = house.api.post("/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json().get("field", "") == field


def test_an_unknown_field_is_answered_with_those_that_there_are(house: House) -> None:
    answer = house.api.post("/jobs", json={**order(), "parms": {}})
    assert "parms" in answer.json()["detail"]
    assert "params" in answer.json()["detail"]


def test_the_same_idempotency_key_makes_one_job(house: House) -> None:
    key = str(uuid4())
    before = len(house.agents["n1"].jobs)
    with ThreadPoolExecutor(4) as pool:
        sent = [
            pool.submit(house.api.post, "/jobs", params={"wait": 20}, json=order(), headers={"Idempotency-Key": key})
            for _ in range(4)
        ]
    answers = [one.result() for one in sent]
    again = house.api.post("/jobs", params={"wait": 20}, json=order(), headers={"Idempotency-Key": key})
    assert {answer.json()["id"] for answer in [*answers, again]} == {key}
    assert {answer.status_code for answer in [*answers, again]} == {200}
    assert len(house.agents["n1"].jobs) == before + 1


def test_any_text_may_be_an_idempotency_key(house: House) -> None:
    first = house.api.post("/jobs", json=order(), headers={"Idempotency-Key": "backup of tuesday"}).json()
    again = house.api.post("/jobs", json=order(), headers={"Idempotency-Key": "backup of tuesday"}).json()
    assert first["id"] == again["id"]


def test_the_outcome_of_a_key_survives_a_portal_that_starts_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1")
        house.publish("echo")
        key = {"Idempotency-Key": str(uuid4())}
        first = house.api.post("/jobs", params={"wait": 20}, json=order(), headers=key).json()
        house.restart_portal()
        again = house.api.post("/jobs", params={"wait": 20}, json=order(), headers=key).json()
        assert again["job"] == first["job"]
        assert len(house.agents["n1"].jobs) == 1


def test_a_key_that_another_command_has_is_refused(house: House) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    id = house.api.post("/jobs", json=order(), headers=key).json()["id"]
    house.wait(lambda: house.command(id).get("outcome"), "the command in the views")
    answer = house.api.put("/scripts/other", json={"source": 'descr = "x"\ndef action(): ...\n'}, headers=key)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:fleetbus:problem:id-in-use"


def test_a_job_can_be_cancelled_while_it_runs(house: House) -> None:
    id = house.api.post("/jobs", json=order("sleep")).json()["id"]
    house.wait(lambda: house.job(id).get("state") == "started", "the start")
    answer = house.api.post(f"/jobs/{id}/cancel", params={"wait": 20})
    assert answer.status_code == 200
    assert answer.json()["event"]["type"] == "event.job.cancel_requested"
    assert house.ended(id)["state"] == "cancelled"


def test_waiting_for_a_job_sees_that_it_was_cancelled_before_a_node_had_it(house: House) -> None:
    house.api.patch("/nodes/n1", json={"maintenance": True})
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(house.api.post, "/jobs", params={"wait": 20}, json=order())
            found = house.wait(lambda: house.api.get("/jobs", params={"state": "waiting"}).json()["items"], "it waits")
            house.api.post(f"/jobs/{found[0]['id']}/cancel")
            assert waiting.result().json()["job"]["state"] == "cancelled"
    finally:
        house.api.patch("/nodes/n1", json={"maintenance": False})


def test_waiting_for_a_job_sees_its_cancellation_however_late_the_views_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.runs.VIEW_SECONDS", 0.1)
    with House(tmp_path) as house, ThreadPoolExecutor(1) as pool:
        house.agent("n1")
        house.publish("echo")
        house.api.patch("/nodes/n1", json={"maintenance": True})
        waiting = pool.submit(house.api.post, "/jobs", params={"wait": SOON}, json=order())
        found = house.wait(lambda: house.api.get("/jobs", params={"state": "waiting"}).json()["items"], "it waits")
        house.stop_views()
        house.api.post(f"/jobs/{found[0]['id']}/cancel", params={"wait": SOON})
        # long enough for more patience than the portal had
        threading.Event().wait(0.5)
        house.start_views()
        assert waiting.result(2 * SOON).json()["job"]["state"] == "cancelled"


def test_cancelling_an_ended_job_is_a_conflict(house: House) -> None:
    id = house.api.post("/jobs", params={"wait": 20}, json=order()).json()["id"]
    answer = house.api.post(f"/jobs/{id}/cancel", params={"wait": 20})
    assert answer.status_code == 409
    assert answer.json()["reason"] == "conflict"


def test_an_ended_job_can_be_run_again_as_a_new_one(house: House) -> None:
    id = house.api.post("/jobs", params={"wait": 20}, json=order()).json()["id"]
    new = house.api.post(f"/jobs/{id}/retry").json()["id"]
    assert new != id
    assert house.ended(new)["retry_of"] == id


@pytest.mark.parametrize("id", ["nope", "3f0c3f6e-0f5c-4d0a-9d4e-0a4b8f1f7d11", "%00", "a" * 300])
def test_a_job_that_does_not_exist_is_not_found(house: House, id: str) -> None:
    for answer in (house.api.get(f"/jobs/{id}"), house.api.post(f"/jobs/{id}/cancel", params={"wait": 20})):
        assert answer.status_code == 404


def test_a_batch_is_answered_with_all_its_jobs(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": 20}, json=order(all=True, role="cpu"))
    assert answer.status_code == 200
    found = answer.json()
    assert found["batch"]["states"] == {"succeeded": 2}
    assert {job["node"] for job in found["jobs"]} == {"n1", "n2"}
    batch = house.api.get(f"/batches/{found['id']}").json()
    assert batch["states"] == {"succeeded": 2}
    assert batch["total"] == 2
    listed = house.api.get("/jobs", params={"batch": found["id"]}).json()
    assert listed["total"] == 2


@pytest.mark.usefixtures("patient")
def test_a_batch_that_has_not_ended_is_answered_by_its_id(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": 0.5}, json=order("sleep", all=True))
    assert answer.status_code == 202
    id = answer.json()["id"]
    assert answer.headers["location"] == f"/api/v1/batches/{id}"
    house.api.post(f"/jobs/{id}/cancel")
    house.wait(lambda: house.api.get(f"/batches/{id}").json().get("states") == {"cancelled": 2}, "the end of the batch")


def test_a_role_means_those_below_it_too(house: House) -> None:
    job = house.api.post("/jobs", params={"wait": 20}, json=order(role="disk")).json()["job"]
    assert job["node"] == "n2"
    nodes = house.api.get("/nodes", params={"role": "disk"}).json()["items"]
    assert [node["id"] for node in nodes] == ["n2"]


def test_waiting_has_a_bound(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": 1e9}, json=order())
    assert answer.status_code == 400
    assert answer.json()["field"] == "wait"


def test_a_command_nobody_decides_is_answered_by_its_id(tmp_path_factory: pytest.TempPathFactory) -> None:
    with House(tmp_path_factory.mktemp("house"), decides=False) as house:
        answer = house.api.post("/jobs", json=order())
        assert answer.status_code == 202
        assert set(answer.json()) == {"id"}
        assert house.api.get("/health").json()["status"] == "degraded"
