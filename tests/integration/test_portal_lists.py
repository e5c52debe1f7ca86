"""Lists and single documents over HTTP: filters, sorts, pages, and how fresh an answer is."""

from collections.abc import Iterator

import pytest

from tests.portal_house import House


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1", "cpu")
        house.agent("n2", "disk.ssd")
        house.publish("echo")
        house.publish("other", 'descr = "another"\ndef action(): ...\n')
        for text in "abcde":
            order = {"script": "echo", "target": {"node": "n1"}, "params": {"text": text}}
            house.api.post("/jobs", params={"wait": 20}, json=order)
        house.api.post("/jobs", params={"wait": 20}, json={"script": "other", "target": {"node": "n2"}})
        house.api.post("/jobs", json={"script": "nope", "target": {"node": "n1"}})
        house.wait(lambda: items(house, "/commands", outcome="rejected"), "the rejection")
        yield house


def items(house: House, path: str, **params: object) -> list[str]:
    answer = house.api.get(path, params={name: str(value) for name, value in params.items()})
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_every_list_says_how_fresh_it_is(house: House) -> None:
    for path in ("/nodes", "/jobs", "/batches", "/scripts", "/events", "/commands"):
        answer = house.api.get(path).json()
        assert set(answer) == {"items", "next_cursor", "total", "as_of"}
        assert set(answer["as_of"]) == {"log", "next_offset", "time", "lag"}
        assert answer["as_of"]["log"]
        assert answer["as_of"]["next_offset"] > 0


def test_pages_follow_each_other_without_gap_or_repetition(house: House) -> None:
    whole = items(house, "/jobs")
    pages, cursor = [], None
    while True:
        answer = house.api.get("/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        pages.append([item["id"] for item in answer["items"]])
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [id for page in pages for id in page] == whole


def test_filters_narrow_a_list(house: House) -> None:
    assert len(items(house, "/jobs", script="echo")) == 5
    assert len(items(house, "/jobs", script="echo,other")) == 6
    assert len(items(house, "/jobs", node="n2")) == 1
    assert items(house, "/jobs", state="failed") == []
    assert items(house, "/jobs", by="user:nobody") == []
    assert len(items(house, "/jobs", since="-1h")) == 6
    assert items(house, "/jobs", until="-1h") == []
    assert items(house, "/nodes", role="disk") == ["n2"]
    assert items(house, "/nodes", name="1") == ["n1"]
    assert items(house, "/scripts", name="oth") == ["other"]
    assert len(items(house, "/commands", outcome="rejected")) == 1


def test_sorting_works_both_ways(house: House) -> None:
    assert items(house, "/jobs", sort="submitted_at") == items(house, "/jobs", sort="-submitted_at")[::-1]
    assert items(house, "/nodes", sort="-id") == ["n2", "n1"]


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("/jobs", {"sort": "params"}, "sort"),
        ("/jobs", {"limit": "0"}, "limit"),
        ("/jobs", {"limit": "many"}, "limit"),
        ("/jobs", {"cursor": "nonsense"}, "cursor"),
        ("/jobs", {"since": "yesterday"}, "since"),
        ("/jobs", {"stat": "failed"}, "stat"),
        ("/jobs", {"at_least": "nonsense"}, "at_least"),
        ("/nodes", {"maintenance": "perhaps"}, "maintenance"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_by_name(
    house: House, path: str, params: dict[str, str], field: str
) -> None:
    answer = house.api.get(path, params=params)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


def test_a_cursor_of_another_sort_is_refused(house: House) -> None:
    cursor = house.api.get("/jobs", params={"limit": 1}).json()["next_cursor"]
    answer = house.api.get("/jobs", params={"cursor": cursor, "sort": "script"})
    assert answer.status_code == 400


def test_a_read_waits_until_the_views_have_what_was_written(house: House) -> None:
    for on in (True, False):
        sent = house.api.post(
            "/commands",
            params={"wait": 10},
            json={"type": "command.node.maintenance", "data": {"node": "n2", "on": on}},
        ).json()
        node = house.api.get("/nodes/n2", params={"at_least": sent["position"]}).json()
        assert node["maintenance"] is on


def test_a_read_that_waits_has_a_bound(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.views.AT_LEAST_SECONDS", 0.3)
    log = house.api.get("/jobs").json()["as_of"]["log"]
    answer = house.api.get("/jobs", params={"at_least": f"{log}:1000000"})
    assert answer.status_code == 503
    assert "1000000" in answer.json()["detail"]


def test_a_position_of_another_log_is_gone(house: House) -> None:
    answer = house.api.get("/jobs", params={"at_least": "00000000-0000-0000-0000-000000000000:1"})
    assert answer.status_code == 410


def test_views_that_are_behind_say_so(house: House) -> None:
    house.stop_views()
    try:
        house.api.post("/events", json={"type": "event.billing.paid", "data": {}})
        behind = house.wait(lambda: house.api.get("/nodes").json()["as_of"]["lag"], "the lag")
        assert house.api.get("/health").json()["views"]["lag"] >= behind >= 1
    finally:
        house.start_views()
    house.wait(lambda: house.api.get("/nodes").json()["as_of"]["lag"] == 0, "no lag")


def test_one_document_says_how_fresh_it_is(house: House) -> None:
    node = house.api.get("/nodes/n1").json()
    assert (node["id"], node["state"], node["roles"], node["hostname"]) == ("n1", "online", ["cpu"], "n1.example")
    # the seat may have said something just now
    house.wait(lambda: house.api.get("/nodes/n1").json()["as_of"]["lag"] == 0, "no lag")
    assert house.api.get("/nodes/nope").status_code == 404
    assert house.api.get("/batches/nope").status_code == 404
