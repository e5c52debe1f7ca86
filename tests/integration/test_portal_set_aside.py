"""What the portal says of a document that is set aside: on the health page, on the document's page, in the API."""

from collections.abc import Iterator

import pytest

from projections.admission_store import LIVE
from projections.folding import Trouble
from projections.set_aside import write_markers
from tests.portal_house import House


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1")
        name = house.documents.pointed(LIVE)
        assert name is not None
        # views are written one after the other: the node may be there before the event
        house.settle()
        event = house.api.get("/events", params={"type": "event.node.connected"}).json()["items"][0]
        troubles = [
            Trouble(view="nodes", key=key, offset=event["offset"], event=event["id"], error="KeyError: 'boot' <b>")
            for key in ("n1", "n2")
        ]
        nowhere = Trouble(view="events", key="", offset=7, event=None, error="ValueError: no keys")
        write_markers(house.documents.namespace(name), [*troubles, nowhere])
        yield house


def test_health_names_each_document_with_the_record_and_the_error(house: House) -> None:
    health = house.api.get("/health").json()
    with house.browser() as browser:
        page = browser.get("/health").text

    check = next(one for one in health["checks"] if one["name"] == "folds")
    assert (check["status"], health["views"]["set_aside"]) == ("degraded", 3)
    assert "KeyError: &#39;boot&#39; &lt;b&gt;" in page
    assert '<a href="/nodes/n1">n1</a>' in page
    assert "not known which" in page
    with house.client(house.token) as client:
        assert "fleetbus_views_set_aside 3.0" in client.get(f"{house.url}/metrics").text


def test_the_page_of_the_document_says_that_it_stands_still(house: House) -> None:
    with house.browser() as browser:
        aside, other = browser.get("/nodes/n1").text, browser.get("/nodes").text

    assert "This page stands still" in aside
    assert "fleetbus replay" in aside
    assert "This page stands still" not in other
    found = house.api.get("/nodes/n1").json()["set_aside"]
    assert found["error"] == "KeyError: 'boot' <b>"


def test_a_document_whose_first_record_failed_is_not_said_not_to_exist(house: House) -> None:
    answer = house.api.get("/nodes/n2")

    assert answer.status_code == 404
    assert "set aside" in answer.json()["detail"]
    assert "set aside" not in house.api.get("/nodes/n3").json()["detail"]
