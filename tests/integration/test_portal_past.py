"""Pages and lists as of an earlier moment: what they show, how one comes there and back; nothing acts there."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portal import past, travel
from portal.pages.then import as_of_then, kept
from projections import generation
from projections import replay as replaying
from projections.replay import replay
from tests.portal_house import Browser, House

PAGES = ["/", "/nodes", "/nodes/n1", "/jobs", "/jobs/{job}", "/batches", "/scripts", "/scripts/echo", "/events"]


class Story:
    """What happened in the house: a job under a node that went into maintenance only afterwards."""

    job: str
    #: The offset of the job's end, and a log time before the maintenance.
    ended: int
    time: datetime


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1", "cpu")
        house.publish("echo")
        yield house


@pytest.fixture(scope="module")
def story(house: House) -> Story:
    story = Story()
    body = {"script": "echo", "target": {"node": "n1"}}
    story.job = house.api.post("/jobs", params={"wait": 20}, json=body).json()["id"]
    ended = house.ended(story.job)["history"][-1]
    story.ended = ended["offset"]
    house.api.patch("/nodes/n1", params={"wait": 20}, json={"maintenance": True, "reason": "new disks"})
    house.settle()
    set_at = house.api.get("/events", params={"type": "event.node.maintenance_set"}).json()["items"][0]["time"]
    story.time = datetime.fromisoformat(set_at) - timedelta(microseconds=1)
    return story


@pytest.fixture(scope="module")
def browser(house: House) -> Iterator[Browser]:
    with house.browser() as browser:
        yield browser


def ask(house: House, path: str, as_of: object) -> Any:
    """The answer of the API, once it has been made."""

    def made() -> Any:
        answer = house.api.get(path, params={"as_of": str(as_of)})
        return answer if answer.status_code != 503 else None

    return house.wait(made, f"{path} as of {as_of}").json()


def test_lists_and_documents_are_as_they_were_at_a_time_or_an_offset(house: House, story: Story) -> None:
    now = house.api.get("/nodes").json()["items"][0]
    for as_of in (story.time.isoformat(), story.ended):
        then = ask(house, "/nodes", as_of)
        assert (now["maintenance"], then["items"][0]["maintenance"]) == (True, False)
        assert then["as_of"]["next_offset"] < house.api.get("/nodes").json()["as_of"]["next_offset"]
        assert ask(house, f"/jobs/{story.job}", as_of)["state"] == "succeeded"
    before = story.ended - 1
    assert ask(house, "/jobs", before)["items"][0]["state"] != "succeeded"
    assert ask(house, "/jobs", before)["as_of"]["next_offset"] == story.ended
    assert ask(house, "/scripts", 0)["items"] == []
    assert ask(house, "/batches", 0)["total"] == 0
    assert ask(house, "/events", 0)["total"] == 1


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_the_past_says_so_leads_back_and_commands_nothing(
    house: House, story: Story, browser: Browser, path: str
) -> None:
    path = path.format(job=story.job)
    ask(house, "/nodes", story.ended)

    page = browser.get(path, params={"as_of": str(story.ended)}).text

    assert f"This is the past:</b> as of offset {story.ended}" in page
    assert f'data-present href="{path}"' in page
    forms = re.findall(r"<form[^>]*>", page)
    assert [form for form in forms if 'method="post"' in form] == ['<form method="post" action="/logout">']
    assert not re.search(r'href="/(run|publish|invite)', page)
    links = re.findall(r'(?<!data-present )href="(/(?:nodes|jobs|batches|scripts|events)?(?:[/?][^"]*)?)"', page)
    assert links
    assert [link for link in links if not link.endswith(f"as_of={story.ended}")] == []
    assert 'data-live=""' in page
    assert "data-position" not in page
    present = browser.get(path).text
    assert "This is the past" not in present
    assert "Look at an earlier time" in present


def test_nothing_can_be_commanded_from_the_past(house: House, story: Story, browser: Browser) -> None:
    before = house.api.get("/events", params={"type": "command.#"}).json()["total"]
    form = {"do": "maintenance", "on": "0"}

    page = browser.send(f"/nodes/n1?as_of={story.ended}", form, form_at="/nodes/n1")
    api = house.api.patch("/nodes/n1", params={"as_of": str(story.ended)}, json={"maintenance": False})
    run = browser.get("/run", params={"as_of": str(story.ended)})

    assert [page.status_code, api.status_code, run.status_code] == [409, 409, 400]
    assert "nothing can be commanded" in api.json()["detail"]
    assert house.api.get("/events", params={"type": "command.#"}).json()["total"] == before


@pytest.mark.parametrize(
    ("as_of", "says"),
    [
        ("yesterday", "is no moment"),
        ("-2h", "is no moment"),
        ("999999999", "no record at offset"),
        ("9999-01-01T00:00:00Z", "has not come yet"),
        ("9" * 30, "is no moment"),
    ],
)
def test_what_is_no_moment_or_has_not_come_is_refused_with_the_reason(house: House, as_of: str, says: str) -> None:
    answer = house.api.get("/jobs", params={"as_of": as_of})

    assert (answer.status_code, answer.json()["field"]) == (400, "as_of")
    assert says in answer.json()["detail"]


def test_while_it_is_made_the_page_shows_how_far_it_is_and_looks_again(
    house: House, story: Story, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    until = replaying._Replay._until

    def slowly(*args: Any) -> Any:
        for entries in until(*args):
            yield entries
            assert go.wait(60)

    monkeypatch.setattr(replaying._Replay, "_until", slowly)
    monkeypatch.setattr(travel, "WAIT", 0.2)
    page = browser.get("/nodes", params={"as_of": "5", "state": "online"})
    api = house.api.get("/nodes", params={"as_of": "5"})
    go.set()

    assert (page.status_code, api.status_code) == (503, 503)
    assert '<meta http-equiv="refresh" content="2">' in page.text
    assert "<progress" in page.text
    assert 'href="/nodes?state=online"' in page.text
    assert api.headers["Retry-After"] == "2"
    assert "are being made" in api.json()["detail"]
    assert ask(house, "/nodes", 5)["as_of"]["next_offset"] == 6


def test_moments_are_bounded_in_number_and_those_of_the_command_line_are_found_and_stay(
    house: House, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "KEPT", 2)
    by_hand = replay(house.bus, house.documents, until=7).generation

    def names() -> set[str]:
        return {one for one in house.documents.list_namespaces() if one.startswith("asof-")}

    for offset in (1, 2, 3, 4):
        ask(house, "/nodes", offset)
    kept_then = names()
    ask(house, "/nodes", 7)

    assert by_hand in names()
    assert names() == kept_then
    assert len(kept_then) == 3


def test_what_nobody_looked_at_for_a_day_is_swept(house: House, story: Story) -> None:
    ask(house, "/nodes", 8)
    later = datetime.now(UTC) + timedelta(hours=25)

    dropped = generation.sweep(house.documents, later)

    assert [name for name in dropped if name.startswith("asof-")]
    assert ask(house, "/nodes", 8)["as_of"]["next_offset"] == 9


def test_links_of_a_page_stay_at_the_moment_and_texts_are_left_alone() -> None:
    page = (
        '<a href="/jobs?state=failed">x</a><a href="/">o</a><a href="/health">h</a><a data-present href="/jobs">b</a>'
        '<p>href=&#34;/jobs&#34;</p><form class="f" method="get"><a class="button" href="/run?node=n1">Run</a></form>'
        '<form method="post"><button>Cancel</button></form><form method="post" action="/logout">out</form>'
    )

    assert as_of_then(page, "7") == (
        '<a href="/jobs?state=failed&amp;as_of=7">x</a><a href="/?as_of=7">o</a><a href="/health">h</a>'
        '<a data-present href="/jobs">b</a><p>href=&#34;/jobs&#34;</p>'
        '<form class="f" method="get"><input type="hidden" name="as_of" value="7"></form>'
        '<form method="post" action="/logout">out</form>'
    )
    assert kept({"as_of": "7", "state": "failed", "node": ["a", "b"], "cursor": "x"}) == [
        ("state", "failed"),
        ("node", "a"),
        ("node", "b"),
    ]
