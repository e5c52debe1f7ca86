"""The pages, as a person without JavaScript uses them: everything can be read, and every form does what it says."""

import re
import time
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from uuid import uuid4

import httpx
import pytest

from events.delivery import RunJob
from projections.osis.series import SECOND, Point
from tests.portal_house import Browser, Doing, House

GREET = """descr = "Says a greeting, as often as it is told to."
params = {"tone": {"descr": "how it sounds", "choices": ["warm", "cold"]}}

def action(who: str, times: int = 1, tone: str = "warm", extras: dict = {}):
    return who * times
"""
NASTY = '<script>alert("x")</script>'
FACTS = {
    "hostname": "n1.example",
    "os": {"name": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.1.0-28-amd64"},
    "cpu": {"model": "EPYC 7302P", "count": 16},
    "memory": {"total_bytes": 67_318_542_336, "available_bytes": 20_000_000_000},
    "disks": [{"name": "sda", "model": "S4510", "size_bytes": 480_000_000_000, "used_bytes": None}],
    "filesystems": [
        {"mountpoint": "/", "fstype": "ext4", "total_bytes": 100_000_000_000, "used_bytes": 43_000_000_000}
    ],
    "nics": [{"name": "eno1", "mac": "3c:ec:ef:12:9a:01", "addresses": ["10.12.0.11"], "up": True}],
}


def does(job: RunJob) -> Doing | None:
    if job.order.script == "facts":
        return Doing(result=FACTS)
    match job.order.params.get("who"):
        case "never":
            return None
        case "fail":
            trace = 'Traceback (most recent call last):\n  File "greet.py", line 5, in action\nValueError: no\n'
            return Doing(outcome="failed", error="ValueError: no", traceback=trace, lines=("about to fail",))
        case who:
            return Doing(result={"said": who}, lines=("line one", NASTY))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1", "cpu", "disk.ssd", does=does, allows=("shell",))
        house.agent("n2", "cpu", does=does)
        house.publish("greet", GREET)
        house.publish("facts", 'descr = "What this machine is."\ndef action(): ...\n')
        house.api.post("/jobs", params={"wait": 20}, json={"script": "facts", "target": {"node": "n1"}})
        yield house


@pytest.fixture
def browser(house: House) -> Iterator[Browser]:
    with house.browser() as browser:
        yield browser


def run(house: House, **params: object) -> str:
    order = {"script": "greet", "target": {"node": "n1"}, "params": params}
    answer = house.api.post("/jobs", params={"wait": 20}, json=order)
    assert answer.status_code == 200, answer.text
    # views are written one after the other: that of events is behind that of jobs
    house.settle()
    return str(answer.json()["id"])


class Seen(HTMLParser):
    """What a page is made of, as far as these tests look at it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.inline: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.unlabelled: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.links: set[str] = set()
        self._labelled: set[str] = set()
        self._depth = {"label": 0, "style": 0, "script": 0, "form": 0}
        self._ids: dict[str, str] = {}
        self.feed(page)
        self.unlabelled += [name for id, name in self._ids.items() if id not in self._labelled]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.inline += [name for name in found if name.startswith("on") or name == "style"]
        if tag in self._depth:
            self._depth[tag] += 1
        if tag == "script":
            self.scripts.append(found)
        elif tag == "form":
            self.forms.append({"method": (found.get("method") or "get").lower()})
        elif tag == "label" and found.get("for"):
            self._labelled.add(str(found["for"]))
        elif tag == "a" and found.get("href"):
            self.links.add(str(found["href"]))
        elif tag in {"h1", "h2"}:
            self.headings.append(tag)
        elif tag in {"input", "select", "textarea"}:
            self._field(found)

    def _field(self, found: dict[str, str | None]) -> None:
        name = str(found.get("name"))
        if self._depth["form"]:
            self.forms[-1][name] = found.get("value") or ""
        if found.get("type") == "hidden" or found.get("aria-label") or self._depth["label"]:
            return
        if found.get("id"):
            self._ids[str(found["id"])] = name
        else:
            self.unlabelled.append(name)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._depth:
            self._depth[tag] -= 1

    def handle_data(self, data: str) -> None:
        if self._depth["script"] or self._depth["style"]:
            self.inline.append(data)
        self.text += data


def test_every_page_can_be_read_without_javascript_and_is_labelled(house: House, browser: Browser) -> None:
    job = run(house, who="you")
    batch = house.api.post(
        "/jobs", params={"wait": 20}, json={"script": "greet", "target": {"all": True}, "params": {"who": "all"}}
    ).json()["id"]
    event = house.job(job)["history"][0]["event"]
    paths = [
        *("/", "/nodes", "/nodes/n1", "/invite", "/jobs", f"/jobs/{job}", "/run", "/run?script=greet", "/batches"),
        *(f"/batches/{batch}", "/scripts", "/scripts/greet", "/publish", "/events", f"/events/{event}", "/health"),
        *("/account", "/nodes/nope", "/jobs/nope"),
    ]
    for path in paths:
        page = browser.get(path)
        assert page.status_code in (200, 404), path
        seen = Seen(page.text)
        assert seen.headings[0] == "h1", path
        assert seen.headings.count("h1") == 1, path
        assert [script for script in seen.scripts if not (script["src"] or "").startswith("/static/")] == [], path
        assert seen.inline == [], path
        assert seen.unlabelled == [], path
        assert [form for form in seen.forms if form["method"] == "post" and not form.get("csrf")] == [], path
        assert "http://" not in page.text.replace(house.url, ""), f"{path} loads something from elsewhere"
        assert "https://" not in page.text, path


def test_every_link_of_the_pages_leads_somewhere(house: House, browser: Browser) -> None:
    run(house, who="you")
    left, seen = {"/"}, set[str]()
    while left and len(seen) < 150:
        path = left.pop()
        seen.add(path)
        page = browser.get(path)
        if "as_of=" in path:
            # the views of that moment may still have to be made
            house.wait(partial(_is_there, browser, path), path)
            continue
        assert page.status_code == 200, path
        if page.headers["content-type"].startswith("text/html"):
            left |= {link for link in Seen(page.text).links if link.startswith("/")} - seen


def _is_there(browser: Browser, path: str) -> bool:
    return browser.get(path).status_code == 200


def test_every_list_says_as_of_which_offset(browser: Browser) -> None:
    for path in ("/", "/nodes", "/jobs", "/batches", "/scripts", "/events"):
        assert re.search(r"As of offset <b>[\d,]+</b>", browser.get(path).text), path


def test_the_overview_shows_nodes_jobs_failures_and_health(house: House, browser: Browser) -> None:
    run(house, who="fail")
    text = Seen(browser.get("/").text).text
    for words in ("Nodes", "/ 2 online", "n1", "n2", "Went wrong lately", "failed", "greet", "OK"):
        assert words in text


def test_a_node_shows_what_the_machine_is(browser: Browser) -> None:
    page = browser.get("/nodes/n1").text
    text = " ".join(Seen(page).text.split())
    for words in ("count 16", "67.3 GB", "Debian GNU/Linux 12 (bookworm)", "43.0 GB of 100 GB", "10.12.0.11", "sda"):
        assert words in text, words
    assert 'aria-label="/ 43 % full"' in page


def test_a_node_shows_what_it_measured(house: House, browser: Browser) -> None:
    assert "Nothing was measured" in browser.get("/nodes/n2").text
    now = int(time.time())
    values = {"cpu_percent": 44.0, "load1": 1.5, "memory_used_bytes": 31e9, "memory_total_bytes": 67e9}
    house.series.write([Point("node", {"node": "n2"}, values, time=(now - 60 * n) * SECOND) for n in range(1, 30)])
    page = browser.get("/nodes/n2?range=1h").text
    assert page.count('<svg class="chart"') == 3
    assert "busy 44 %" in page
    assert "used 31.0 GB" in page
    assert browser.get("/nodes/n2?range=nonsense").status_code == 200


def test_a_job_shows_its_result_output_and_history(house: House, browser: Browser) -> None:
    id = run(house, who="you", times=2)
    seen = Seen(page := browser.get(f"/jobs/{id}").text)
    for words in ("succeeded", "line one", "event.job.queued", "event.job.finished", "Run again", '"said"', '"times"'):
        assert words in seen.text, words
    assert NASTY in seen.text
    assert "<script>alert" not in page


def test_a_failed_job_shows_the_scripts_own_traceback(house: House, browser: Browser) -> None:
    page = browser.get(f"/jobs/{run(house, who='fail')}").text
    text = Seen(page).text
    assert 'File "greet.py", line 5, in action' in text
    assert "ValueError: no" in text
    assert "site-packages" not in text


def test_jobs_before_and_after_a_change_show_the_source_that_ran(house: House, browser: Browser) -> None:
    house.publish("version", 'descr = "first"\n\ndef action(who: str):\n    return "one"\n')
    order = {"script": "version", "target": {"node": "n1"}, "params": {"who": "never"}}
    before = house.api.post("/jobs", json=order).json()["id"]
    house.publish("version", 'descr = "second"\n\ndef action(who: str):\n    return "two"\n')
    order["params"] = {"who": "you"}
    after = house.api.post("/jobs", params={"wait": 20}, json=order).json()["id"]
    old, new = Seen(browser.get(f"/jobs/{before}").text).text, Seen(browser.get(f"/jobs/{after}").text).text
    assert 'return "one"' in old
    assert 'return "two"' not in old
    assert 'return "two"' in new
    hashes = [version["hash"] for version in house.api.get("/scripts/version").json()["versions"]]
    changes = Seen(browser.get(f"/scripts/version?hash={hashes[1]}&against={hashes[0]}").text).text
    assert '-    return "one"' in changes
    assert '+    return "two"' in changes
    house.api.post(f"/jobs/{before}/cancel")


def test_the_run_form_is_made_from_the_header_and_runs(house: House, browser: Browser) -> None:
    page = browser.get("/run?script=greet&node=n1").text
    for words in ("Says a greeting", "how it sounds", "<option selected>warm</option>", 'name="p.who"', 'value="1"'):
        assert words in page, words
    form = {**Seen(page).forms[-1], "p.who": "page", "p.times": "3", "where": "nodes", "p.tone": "cold"}
    del form["method"]
    answer = browser.http.post("/run", data=form)
    assert answer.status_code == 303, answer.text
    path = answer.headers["location"].partition("?")[0]
    house.ended(path.rpartition("/")[2])
    text = Seen(browser.get(path).text).text
    assert '"cold"' in text
    assert "succeeded" in text
    again = browser.http.post("/run", data=form)
    assert again.headers["location"].startswith(path), "sending the form twice makes one job"


def test_the_run_form_says_what_does_not_fit_beside_the_field(browser: Browser) -> None:
    form = {"script": "greet", "where": "nodes", "nodes": "n1", "p.who": "", "p.times": "many", "p.tone": "loud"}
    answer = browser.send("/run", form, form_at="/run?script=greet")
    assert answer.status_code == 422
    text = Seen(answer.text).text
    assert "times must be an int" in text
    assert "tone must be one of" in text
    assert 'value="many"' in answer.text, "what was typed is still there"


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"where": "nodes", "nodes": "n9"}, 404, "there are: n1, n2"),
        ({"where": "nodes", "nodes": ""}, 422, "name a node"),
        ({"where": "role", "role": ""}, 422, "choose a role"),
        ({"where": "nodes", "nodes": "n1", "timeout": "-3"}, 422, "timeout must be a number"),
        ({"where": "all", "size": "half"}, 422, "no size of a batch"),
    ],
)
def test_the_run_form_says_what_would_be_right(browser: Browser, form: dict[str, str], status: int, said: str) -> None:
    answer = browser.send("/run", {"script": "greet", "p.who": "x", **form}, form_at="/run?script=greet")
    assert answer.status_code == status
    assert said in Seen(answer.text).text


def test_a_run_on_every_node_of_a_role_becomes_a_batch_with_a_grid(house: House, browser: Browser) -> None:
    form = {"script": "greet", "p.who": "role", "where": "role-all", "role": "cpu", "size": "50%"}
    answer = browser.send("/run", form, form_at="/run?script=greet")
    path = answer.headers["location"].partition("?")[0]
    assert path.startswith("/batches/")
    id = path.rpartition("/")[2]
    house.wait(lambda: house.api.get(f"/batches/{id}").json().get("states") == {"succeeded": 2}, "the end")
    page = browser.get(path).text
    assert page.count('class="cell s-succeeded"') == 2
    assert "2 of 2 ended" in " ".join(Seen(page).text.split())


def test_a_running_job_can_be_cancelled_and_an_ended_one_run_again(house: House, browser: Browser) -> None:
    order = {"script": "greet", "target": {"node": "n1"}, "params": {"who": "never"}}
    id = house.api.post("/jobs", json=order).json()["id"]
    house.wait(lambda: house.job(id).get("state") == "started", "the start")
    assert browser.send(f"/jobs/{id}", {"do": "cancel"}).status_code == 303
    house.ended(id)
    assert "cancelled" in browser.get(f"/jobs/{id}").text
    answer = browser.send(f"/jobs/{id}", {"do": "retry"})
    new = answer.headers["location"].partition("?")[0].rpartition("/")[2]
    house.wait(lambda: house.job(new).get("retry_of") == id, "the new job")
    house.api.post(f"/jobs/{new}/cancel")


def test_a_waiting_job_says_why(house: House, browser: Browser) -> None:
    browser.send("/nodes/n2", {"do": "maintenance", "on": "1", "reason": "new disks"})
    order = {"script": "greet", "target": {"node": "n2"}, "params": {"who": "later"}}
    id = house.api.post("/jobs", json=order).json()["id"]
    house.wait(lambda: house.job(id).get("state") == "waiting", "it waits")
    text = Seen(browser.get(f"/jobs/{id}").text).text
    assert "Waits:" in text
    assert "maintenance" in text
    browser.send("/nodes/n2", {"do": "maintenance", "on": "0"})
    assert house.ended(id)["state"] == "succeeded"


def test_a_node_is_changed_from_its_page_and_shows_it_at_once(house: House, browser: Browser) -> None:
    answer = browser.send("/nodes/n2", {"do": "maintenance", "on": "1", "reason": "new disks"})
    assert "new disks" in browser.get(answer.headers["location"]).text
    answer = browser.send("/nodes/n2", {"do": "maintenance", "on": "0"})
    assert "new disks" not in browser.get(answer.headers["location"]).text
    answer = browser.send("/nodes/n2", {"do": "roles", "roles": "cpu, gpu.a100"})
    assert "gpu.a100" in browser.get(answer.headers["location"]).text
    assert browser.send("/nodes/n2", {"do": "roles", "roles": "GPU!"}).status_code == 422
    browser.send("/nodes/n2", {"do": "roles", "roles": "cpu"})


def test_a_machine_is_invited_joins_once_and_can_be_removed(house: House, browser: Browser) -> None:
    page = browser.send("/invite", {"roles": "storage.ceph"}).text
    token = re.search(r"FLEETBUS_JOIN_TOKEN=(\S+)", page)
    assert token is not None
    assert f"--join {house.url}" in page
    with httpx.Client(base_url=f"{house.url}/api/v1") as stranger:
        joined = stranger.post("/nodes/join", json={"token": token[1], "node": "n3"})
        assert joined.status_code == 200
        assert joined.json() == {
            "node": "n3",
            "roles": ["storage.ceph"],
            "bus_url": f"sqlite://{house.folder}/bus?for=n3",
        }
        again = stranger.post("/nodes/join", json={"token": token[1], "node": "n4"})
        assert (again.status_code, again.json()["reason"]) == (403, "not_allowed")
        guess = stranger.post("/nodes/join", json={"token": "x" * 43, "node": "n4"})
        assert guess.status_code == 403
    log = [house.api.get(f"/events/{one['id']}").text for one in house.api.get("/events").json()["items"]]
    assert token[1] not in "".join(log), "the log has the token's hash only"
    house.wait(lambda: house.api.get("/nodes/n3").status_code == 200, "the node")
    assert "joined" in browser.get("/nodes/n3").text
    browser.send("/nodes/n3", {"do": "remove"})
    house.wait(lambda: house.api.get("/nodes/n3").json().get("state") == "removed", "its removal")


def test_a_script_is_published_from_its_page_and_a_bad_one_is_refused(browser: Browser) -> None:
    answer = browser.send(
        "/publish", {"name": "fresh", "source": 'descr = "New."\r\n\r\ndef action():\r\n    return 1\r\n'}
    )
    assert answer.status_code == 303, answer.text
    assert "New." in browser.get(answer.headers["location"]).text
    answer = browser.send("/publish", {"name": "bad", "source": "def action(): ...\n"})
    assert answer.status_code == 422
    assert "descr" in Seen(answer.text).text
    assert "def action" in answer.text, "what was typed is still there"
    answer = browser.send("/scripts/fresh", {"do": "retire"})
    assert "retired" in browser.get(answer.headers["location"]).text


def test_a_token_is_shown_once_and_can_be_revoked(house: House, browser: Browser) -> None:
    page = browser.send("/account", {"do": "token", "name": NASTY, "service": ""}).text
    found = re.search(r"fb_[\w-]{43}", page)
    assert found is not None
    assert "<script>alert" not in page
    assert found[0] not in browser.get("/account").text
    with house.client(found[0]) as client:
        assert client.get("/nodes").status_code == 200
        id = next(one["id"] for one in client.get("/tokens").json()["items"] if one["name"] == NASTY)
        browser.send("/account", {"do": "revoke", "id": id})
        assert client.get("/nodes").status_code == 401


def test_events_are_searched_from_their_page(house: House, browser: Browser) -> None:
    run(house, who="story")
    page = browser.get("/events?type=event.job.%23&since=-1h").text
    assert "event.job.queued" in page
    assert "command.job.submit</a>" not in page
    assert "No record fits." in browser.get("/events?subject=nothing").text
    assert browser.get("/events?since=yesterday").status_code == 400


def test_pages_of_a_list_follow_each_other(house: House, browser: Browser) -> None:
    run(house, who="you")
    seen: list[int] = []
    path = "/events?limit=7"
    while path and len(seen) < 500:
        page = browser.get(path).text
        seen += [int(found.replace(",", "")) for found in re.findall(r'data-label="Offset"><a [^>]+>([\d,]+)<', page)]
        link = re.search(r'rel="next" href="([^"]+)"', page)
        path = link[1].replace("&amp;", "&") if link else ""
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 0
    assert len(set(seen)) == len(seen)


def test_what_does_not_exist_is_said_on_a_page(browser: Browser) -> None:
    for path in ("/nodes/nope", f"/jobs/{uuid4()}", "/scripts/nope", "/batches/nope", "/events/nope", "/nothing/here"):
        answer = browser.get(path)
        assert answer.status_code == 404
        assert "<h1>" in answer.text
        assert "Traceback" not in answer.text


def test_pages_name_what_to_watch_and_from_where(browser: Browser) -> None:
    page = browser.get("/jobs").text
    live = re.search(r'data-position="([0-9a-f-]{36}:\d+)" data-live="event.#"', page)
    assert live is not None
    assert 'data-region="list"' in page
