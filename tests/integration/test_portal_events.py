"""The log over HTTP: what is in it, what led to what, and what does not count and why."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from cloudevents.core.formats.json import JSONFormat

from bus.embedded import EmbeddedBus
from bus.ports import Message
from tests.portal_house import SOON, House

GARBAGE = {
    "not JSON": ("service.billing", "event.billing.paid", b"\x00\xffgarbage"),
    "not an event": ("service.billing", "event.billing.paid", b'{"hello": "world"}'),
    "too large": ("service.billing", "event.billing.paid", b'{"x": "' + b"y" * 1_200_000 + b'"}'),
    "wrong key": ("service.billing", "event.other.paid", b""),
    "forged actor": ("service.billing", "event.billing.paid", b"user:admin"),
    "forged seat fact": ("service.billing", "event.seat.tick", b"seat"),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1")
        house.publish("echo")
        yield house


def event(**changes: Any) -> bytes:
    said = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "test",
        "type": "event.billing.paid",
        "subject": "billing",
        "time": "2026-03-01T08:00:00Z",
        "datacontenttype": "application/json",
        "actor": "service:billing",
        "data": {},
    }
    return json.dumps(said | changes).encode()


def test_a_fact_of_a_service_is_in_the_log_as_a_cloud_event(house: House) -> None:
    body = {"type": "event.billing.invoice.paid", "subject": "invoice-7", "data": {"eur": 12.5, "who": "Zoë"}}
    id = house.api.post("/events", json=body).json()["id"]
    found = house.wait(lambda: (r := house.api.get(f"/events/{id}")).status_code == 200 and r.json(), "the index")
    assert found["verdict"] == "admitted"
    said = JSONFormat().read(None, json.dumps(found["event"]).encode())
    assert (said.get_type(), said.get_subject(), said.get_id()) == (body["type"], body["subject"], id)
    assert said.get_data() == body["data"]


@pytest.mark.parametrize("type", ["event.job.finished", "command.job.submit", "telemetry.stats", "event.billing", "x"])
def test_nobody_tells_facts_of_the_platform_over_http(house: House, type: str) -> None:
    answer = house.api.post("/events", json={"type": type, "data": {}})
    assert answer.status_code == 422
    assert answer.json()["field"] == "type"


def test_an_event_too_large_is_refused(house: House) -> None:
    answer = house.api.post("/events", json={"type": "event.billing.paid", "data": {"x": "y" * 1_100_000}})
    assert answer.status_code == 422
    assert "1,000,000" in answer.json()["detail"]
    answer = house.api.post("/events", json={"type": "event.billing.paid", "data": {"x": "y" * 2_100_000}})
    assert answer.status_code == 413


def test_an_event_shows_its_causes_and_consequences(house: House) -> None:
    job = house.api.post("/jobs", params={"wait": 20}, json={"script": "echo", "target": {"node": "n1"}}).json()
    # views are written one after the other: that of events is behind that of jobs
    house.settle()
    queued = house.job(job["id"])["history"][0]["event"]
    found = house.api.get(f"/events/{queued}").json()
    assert [one["type"] for one in found["causes"]] == ["command.job.submit"]
    assert "event.job.started" in [one["type"] for one in found["consequences"]]
    with house.browser() as browser:
        page = browser.get(f"/events/{queued}").text.partition("Causes and consequences")[2]
        assert page.index("command.job.submit") < page.index("event.job.queued") < page.index("event.job.started")


def test_events_are_found_by_patterns_of_their_type(house: House) -> None:
    for type in ("event.shop.order.made", "event.shop.order.sent", "event.shop.visited", "event.mill.order.made"):
        house.api.post("/events", json={"type": type, "data": {}})
    at = house.wait(lambda: house.api.get("/events", params={"type": "event.mill.order.made"}).json()["items"], "it")
    assert len(at) == 1

    def types(pattern: str, **more: Any) -> list[str]:
        return [one["type"] for one in house.api.get("/events", params={"type": pattern, **more}).json()["items"]]

    assert sorted(types("event.shop.#")) == ["event.shop.order.made", "event.shop.order.sent", "event.shop.visited"]
    assert sorted(types("event.*.order.made")) == ["event.mill.order.made", "event.shop.order.made"]
    assert sorted(types("event.shop.*")) == ["event.shop.visited"]
    assert sorted(types("#.sent")) == ["event.shop.order.sent"]
    assert types("event.nothing.*.here") == []

    pages, cursor = [], ""
    while True:
        answer = house.api.get("/events", params={"type": "event.*.order.*", "limit": 1, "cursor": cursor}).json()
        pages += [one["type"] for one in answer["items"]]
        cursor = answer["next_cursor"] or ""
        if not cursor:
            break
    assert sorted(pages) == ["event.mill.order.made", "event.shop.order.made", "event.shop.order.sent"]


def test_what_does_not_count_is_shown_with_its_reason(house: House) -> None:
    bodies = {
        "wrong key": event(),
        "forged actor": event(actor="user:admin"),
        "forged seat fact": event(type="event.seat.tick", actor="service:billing"),
    }
    with closing(EmbeddedBus(house.folder / "bus", "service.billing")) as bus:
        for what, (_, key, body) in GARBAGE.items():
            bus.publish(Message(key=key, body=bodies.get(what, body))).result(SOON)
        said = event()
        for _ in range(2):
            bus.publish(Message(key="event.billing.paid", body=said)).result(SOON)
    house.wait(lambda: house.api.get("/events", params={"verdict": "duplicate"}).json()["items"], "the duplicate")
    refused = house.api.get("/events", params={"verdict": "bad,void"}).json()["items"]
    assert len(refused) == len(GARBAGE)
    assert all(one["reason"] for one in refused)
    assert {one["verdict"] for one in refused} == {"bad", "void"}
    for one in refused:
        answer = house.api.get(f"/events/{one['id']}")
        assert answer.status_code == 200
        assert answer.json()["body"] is not None or answer.json()["event"] is not None
    with house.browser() as browser:
        page = browser.get("/events?verdict=bad").text
        assert "forged" not in page
        assert "may not speak as" in page
        for one in refused:
            assert browser.get(f"/events/{one['id']}").status_code == 200
        assert "may not speak as" in browser.get("/health").text


def test_garbage_does_not_stop_the_fleet(house: House) -> None:
    answer = house.api.post("/jobs", params={"wait": 20}, json={"script": "echo", "target": {"node": "n1"}})
    assert answer.json()["job"]["state"] == "succeeded"


def test_any_command_can_be_sent_and_its_outcome_read(house: House) -> None:
    body = {"type": "command.node.maintenance", "data": {"node": "n1", "on": True, "reason": "disks"}}
    answer = house.api.post("/commands", params={"wait": 10}, json=body)
    assert answer.status_code == 200
    sent = answer.json()
    assert sent["outcome"] == "accepted"
    assert sent["event"]["type"] == "event.node.maintenance_set"
    assert sent["event"]["causationid"] == sent["id"]
    assert isinstance(sent["offset"], int)
    found = house.api.get(f"/commands/{sent['id']}", params={"at_least": sent["position"]}).json()
    assert (found["outcome"], found["outcome_offset"]) == ("accepted", sent["offset"])
    house.api.post("/commands", params={"wait": 10}, json={**body, "data": {"node": "n1", "on": False}})


def test_a_rejected_command_says_why(house: House) -> None:
    body = {"type": "command.node.remove", "data": {"node": "n9"}}
    sent = house.api.post("/commands", params={"wait": 10}, json=body).json()
    assert sent["outcome"] == "rejected"
    assert sent["event"]["data"]["reason"] == "unknown_node"
    assert "n1" in sent["event"]["data"]["exists"]


def test_a_command_by_its_own_id_is_done_once(house: House) -> None:
    body = {
        "id": str(uuid4()),
        "type": "command.script.publish",
        "data": {"name": "twice", "source": 'descr = "x"\ndef action(): ...\n'},
    }
    first = house.api.post("/commands", params={"wait": 10}, json=body).json()
    again = house.api.post("/commands", params={"wait": 10}, json=body).json()
    assert again == first
    assert first["id"] == body["id"]


def test_without_waiting_a_command_is_answered_by_its_id(house: House) -> None:
    body = {"type": "command.node.maintenance", "data": {"node": "n1", "on": False}}
    answer = house.api.post("/commands", json=body)
    assert answer.status_code == 202
    assert set(answer.json()) == {"id"}
    id = answer.json()["id"]
    house.wait(lambda: house.api.get(f"/commands/{id}").json().get("outcome") == "accepted", "the outcome")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "command.node.paint", "data": {}}, "type"),
        ({"type": "event.node.offline", "data": {}}, "type"),
        ({"type": "command.node.remove", "data": {}}, "data"),
        ({"type": "command.node.remove", "data": {"node": "N 1"}}, "data.node"),
        ({"type": "command.node.remove", "data": {"node": "n1"}, "id": "7"}, "id"),
    ],
)
def test_a_command_that_does_not_fit_is_refused_by_field(house: House, body: dict[str, Any], field: str) -> None:
    answer = house.api.post("/commands", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
