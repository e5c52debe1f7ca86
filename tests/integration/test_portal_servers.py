"""The portal on RabbitMQ, MongoDB's protocol, InfluxDB and Redis: the same answers as on the embedded side."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
from httpx_sse import connect_sse

from events.delivery import RunJob
from projections.osis.mongo_documents import MongoDocuments
from projections.osis.open import open_series
from projections.osis.redis_live import RedisLive
from projections.telemetry import MEASUREMENTS
from tests.contract.bus_contract import RabbitEngine
from tests.contract.stores import influxdb_database, mongodb_database
from tests.portal_house import SOON, Doing, House
from tests.servers.management import Management

pytestmark = pytest.mark.slow


def does(job: RunJob) -> Doing | None:
    if job.order.params.get("text") == "sleep":
        return None
    return Doing(result={"text": job.order.params.get("text")}, lines=("one", "two"), blob=True)


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory,
    rabbitmq_management: Management,
    mongodb_url: str,
    influxdb_url: str,
    redis_url: str,
) -> Iterator[House]:
    with ExitStack() as stack:
        vhost = f"test-{uuid4().hex[:12]}"
        engine = RabbitEngine(rabbitmq_management, rabbitmq_management.add_vhost(vhost))
        stack.callback(rabbitmq_management.delete_vhost, vhost)
        stack.callback(engine.close)
        documents = MongoDocuments(stack.enter_context(mongodb_database(mongodb_url)))
        series = open_series(stack.enter_context(influxdb_database(influxdb_url)), MEASUREMENTS)
        live = stack.enter_context(closing(RedisLive(redis_url, f"test-{uuid4().hex[:12]}")))
        house = House(
            tmp_path_factory.mktemp("house"), open_bus=engine.bus, documents=documents, series=series, live=live
        )
        with house:
            house.agent("n1", "cpu", does=does)
            house.publish("echo")
            yield house


def order(text: str) -> dict[str, object]:
    return {"script": "echo", "target": {"node": "n1"}, "params": {"text": text}}


def test_all_is_well(house: House) -> None:
    house.wait(lambda: house.api.get("/health").json()["status"] == "ok", "all to be well")


def test_a_job_goes_all_the_way_round(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": SOON}, json=order("hello"))
    assert answer.status_code == 200, answer.text
    job = answer.json()["job"]
    assert (job["state"], job["result"]) == ("succeeded", {"text": "hello"})
    house.wait(lambda: house.api.get(f"/jobs/{job['id']}/output").text == "one\ntwo\n", "the output")


def test_what_does_not_exist_is_refused(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": SOON}, json={**order("x"), "script": "nope"})
    assert (answer.status_code, answer.json()["exists"]) == (404, ["echo"])


def test_an_event_is_read_whole_out_of_the_log(house: House) -> None:
    id = house.api.post("/events", json={"type": "event.billing.paid", "data": {"eur": 3}}).json()["id"]
    found = house.wait(lambda: (r := house.api.get(f"/events/{id}")).status_code == 200 and r.json(), "the index")
    assert (found["event"]["data"], found["user"]) == ({"eur": 3}, "portal")


def test_streams_go_on_after_the_portal_started_anew(house: House) -> None:
    with connect_sse(house.api, "GET", "/events/stream", params={"from": "first", "follow": "false"}) as source:
        everything = [one for one in source.iter_sse() if one.data]
    assert json.loads(everything[0].data)["event"]["type"] == "event.log.created"
    house.restart_portal()
    # it begins where the views are, and what does not follow ends where the portal is
    house.settle()
    resume = {"Last-Event-ID": everything[2].id}
    with connect_sse(house.api, "GET", "/events/stream", params={"follow": "false"}, headers=resume) as source:
        rest = [one for one in source.iter_sse() if one.data]
    assert [one.id for one in rest][: len(everything) - 3] == [one.id for one in everything[3:]]


def test_lines_come_while_the_job_runs(house: House) -> None:
    agent = house.agents["n1"]
    id = house.api.post("/jobs", json=order("sleep")).json()["id"]
    job = house.wait(lambda: next((job for job in agent.jobs if job.job == id), None), "the delivery")
    house.wait(lambda: house.api.get(f"/jobs/{id}").status_code == 200, "the job in the views")
    agent.prints(job, 1, "one")
    lines = []
    with connect_sse(house.api, "GET", f"/jobs/{id}/output/stream") as source:
        for line in source.iter_sse():
            if line.event == "end":
                break
            if line.data:
                lines.append(json.loads(line.data)["text"])
                if len(lines) == 1:
                    agent.finish(job, Doing(lines=("one", "two"), blob=True))
    assert lines == ["one", "two"], "what telemetry did not bring comes out of the blob"


def test_pages_are_there(house: House) -> None:
    with house.browser() as browser:
        for path in ("/", "/nodes/n1", "/jobs", "/batches", "/scripts/echo", "/events", "/health"):
            assert browser.get(path).status_code == 200, path
