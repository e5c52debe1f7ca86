"""Bad records said anew: what becomes of them, and what is refused."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from bus.embedded import EmbeddedBus
from bus.ports import Message
from tests.integration.test_portal_events import event
from tests.portal_house import SOON, House

PAID = "event.billing.paid"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.publish("echo")
        yield house


def say(house: House, body: bytes, key: str = PAID, user: str = "service.billing") -> int:
    """The offset of the record, once the index has it."""
    with closing(EmbeddedBus(house.folder / "bus", user)) as bus:
        bus.publish(Message(key=key, body=body)).result(SOON)
        end = bus.stream("log").next_offset()
        with bus.stream("log").read_from("first") as reader:
            (offset,) = (one.offset for one in reader.read(limit=end) if one.body == body)
    house.wait(lambda: house.api.get("/health").json()["views"]["next_offset"] > offset, "the views")
    return offset


def republish(house: House, offset: int, **body: Any) -> Any:
    return house.api.post(f"/events/bad-{offset}/republish", json=body, params={"wait": SOON})


def test_a_bad_fact_is_said_anew_and_each_is_shown_with_the_other(house: House) -> None:
    offset = say(house, event(actor="user:admin", data={"eur": 3}))
    answer = republish(house, offset)
    assert answer.status_code == 202, answer.text
    new = answer.json()["id"]
    found = house.wait(lambda: (r := house.api.get(f"/events/{new}")).status_code == 200 and r.json(), "the index")
    assert (found["verdict"], found["actor"], found["event"]["data"]) == ("admitted", "user:admin", {"eur": 3})
    assert [one["id"] for one in found["causes"]] == [f"bad-{offset}"]
    bad = house.api.get(f"/events/bad-{offset}").json()
    assert [one["id"] for one in bad["consequences"]] == [new]
    with house.browser() as browser:
        assert f"/events/{new}" in browser.get(f"/events/bad-{offset}").text
        assert f"/events/bad-{offset}" in browser.get(f"/events/{new}").text


def test_garbage_needs_a_type_and_data_and_a_second_time_changes_nothing(house: House) -> None:
    offset = say(house, b"\x00\xffgarbage" + uuid4().bytes)
    assert (republish(house, offset).status_code, republish(house, offset).json()["field"]) == (422, "type")
    assert republish(house, offset, type=PAID).json()["field"] == "data"
    ids = {republish(house, offset, type=PAID, data={"n": n}).json()["id"] for n in range(2)}
    assert len(ids) == 1
    house.wait(lambda: house.api.get(f"/events/bad-{offset}").json().get("consequences"), "the successor")
    assert [one["id"] for one in house.api.get(f"/events/bad-{offset}").json()["consequences"]] == list(ids)


def test_a_bad_command_is_done_when_it_was_put_right(house: House) -> None:
    wrong = event(type="command.script.retire", subject="echo", data={"nmae": "echo"}, actor="service:billing")
    offset = say(house, wrong, "command.script.retire")
    refused = republish(house, offset)
    assert refused.status_code == 422, refused.text
    done = republish(house, offset, data={"name": "echo"})
    assert (done.status_code, done.json()["outcome"]) == (200, "accepted"), done.text


def test_what_is_not_bad_or_not_there_is_refused(house: House) -> None:
    offset = say(house, event())
    refused = republish(house, offset)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:fleetbus:problem:not-bad")
    assert "admitted" in refused.json()["detail"]
    assert republish(house, 10**9).status_code == 404


def test_nobody_says_for_an_agent_what_it_did(house: House) -> None:
    offset = say(house, b"garbage" + uuid4().bytes)
    refused = republish(house, offset, type="event.job.finished", data={})
    assert (refused.status_code, refused.json()["field"]) == (422, "type")
