"""Live streams over HTTP: the log and the output of jobs, from any place on, without gap or repetition."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from events.delivery import RunJob
from portal.hub import Hub
from projections.admission_store import LIVE, META
from tests.portal_house import SOON, Doing, House

SLEEPS = {"script": "echo", "target": {"node": "n1"}}


def never(job: RunJob) -> Doing | None:
    return None


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1", "cpu", does=never)
        house.publish("echo")
        yield house


def tell(house: House, word: str, **data: Any) -> str:
    answer = house.api.post("/events", json={"type": f"event.billing.{word}", "data": data})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def position(house: House) -> str:
    """The end of the log now, as far as anybody said something."""
    return house.settle()


def stream(house: House, path: str = "/events/stream", **params: Any) -> Iterator[ServerSentEvent]:
    headers = {"Last-Event-ID": params.pop("resume")} if "resume" in params else {}
    with connect_sse(house.api, "GET", path, params=params, headers=headers, timeout=SOON) as source:
        assert source.response.status_code == 200, source.response.read()
        yield from (one for one in source.iter_sse() if one.data)


def take(events: Iterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    return [next(events) for _ in range(count)]


def ids(events: list[ServerSentEvent]) -> list[str]:
    return [json.loads(one.data)["event"]["id"] for one in events]


def test_events_come_as_they_are_admitted(house: House) -> None:
    begin = position(house)
    said = [tell(house, "paid", n=n) for n in range(3)]
    events = take(stream(house, type="event.billing.#", resume=begin), 3)
    assert ids(events) == said
    last = json.loads(events[-1].data)
    assert last["event"]["actor"] == "user:admin"
    assert events[-1].id == f"{begin.partition(':')[0]}:{last['offset'] + 1}"


def test_a_stream_that_is_open_hears_what_comes(house: House) -> None:
    heard: list[str] = []
    opened = threading.Event()

    def listen() -> None:
        with connect_sse(house.api, "GET", "/events/stream", params={"type": "event.billing.#"}) as source:
            for one in source.iter_sse():
                opened.set()
                if one.data:
                    heard.extend(ids([one]))
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    assert opened.wait(SOON), "a stream says at once that it is open"
    said = tell(house, "sent")
    thread.join(SOON)
    assert heard == [said]


def test_a_stream_resumes_at_the_next_record(house: House) -> None:
    begin = position(house)
    said = [tell(house, "paid", n=n) for n in range(6)]
    first = take(stream(house, type="event.billing.#", resume=begin), 2)
    rest = take(stream(house, type="event.billing.#", resume=first[-1].id), 4)
    assert ids(first) + ids(rest) == said


def test_a_stream_begins_where_it_is_told_to(house: House) -> None:
    everything = list(stream(house, follow="false", **{"from": "first"}))
    assert json.loads(everything[0].data)["event"]["type"] == "event.log.created"
    third = json.loads(everything[2].data)["offset"]
    later = list(stream(house, follow="false", **{"from": str(third)}))
    assert ids(later)[: len(everything) - 2] == ids(everything)[2:]
    assert list(stream(house, follow="false")) == []
    assert ids(list(stream(house, follow="false", **{"from": "-1h"})))[: len(everything)] == ids(everything)


def test_filters_leave_out_what_does_not_fit(house: House) -> None:
    begin = position(house)
    house.api.post("/events", json={"type": "event.shop.sold", "subject": "shoes", "data": {}})
    house.api.post("/events", json={"type": "event.shop.sold", "subject": "hats", "data": {}})
    tell(house, "paid")
    # what does not follow ends where the portal is
    house.settle()
    sold = list(stream(house, type="event.*.sold", follow="false", resume=begin))
    assert len(sold) == 2
    hats = list(stream(house, subject="hats", follow="false", resume=begin))
    assert [json.loads(one.data)["event"]["subject"] for one in hats] == ["hats"]


def test_a_story_can_be_followed_by_its_correlation(house: House) -> None:
    sent = house.api.post("/jobs", json=SLEEPS).json()
    story = stream(house, correlation=sent["id"], **{"from": "first"})
    types = [json.loads(one.data)["event"]["type"] for one in take(story, 3)]
    assert types == ["command.job.submit", "event.job.queued", "event.job.started"]
    house.api.post(f"/jobs/{sent['id']}/cancel")


def test_what_is_older_than_the_memory_comes_out_of_the_log(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.hub.RECENT_EVENTS", 3)
    monkeypatch.setattr("portal.stream.PAGE", 4)
    begin = position(house)
    said = [tell(house, "paid", n=n) for n in range(20)]
    assert ids(take(stream(house, type="event.billing.#", resume=begin), 20)) == said


def test_a_portal_that_starts_anew_loses_nothing_for_those_who_resume(tmp_path_factory: pytest.TempPathFactory) -> None:
    with House(tmp_path_factory.mktemp("house")) as house:
        begin = position(house)
        said = [tell(house, "paid", n=n) for n in range(3)]
        first = take(stream(house, type="event.billing.#", resume=begin), 1)
        house.restart_portal()
        said += [tell(house, "paid", n=n) for n in range(3, 5)]
        rest = take(stream(house, type="event.billing.#", resume=first[-1].id), 4)
        assert ids(first + rest) == said


def test_a_portal_that_stops_ends_its_streams_and_does_not_wait_for_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with House(tmp_path_factory.mktemp("house")) as house:
        opened, ended = threading.Event(), threading.Event()

        def listen() -> None:
            with house.client(house.token) as client, connect_sse(client, "GET", "/events/stream") as source:
                for _ in source.iter_sse():
                    opened.set()
            ended.set()

        thread = threading.Thread(target=listen)
        thread.start()
        assert opened.wait(SOON)
        house.restart_portal()
        assert ended.wait(SOON)
        thread.join(SOON)


@pytest.mark.parametrize(
    ("resume", "status"),
    [("00000000-0000-0000-0000-000000000000:3", 410), ("{log}:100000", 410), ("nonsense", 400), ("{log}:-1", 400)],
)
def test_a_place_that_is_not_in_this_log_is_refused(
    house: House, resume: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.api.events.CATCH_UP_SECONDS", 0.2)
    log = house.api.get("/nodes").json()["as_of"]["log"]
    answer = house.api.get("/events/stream", headers={"Last-Event-ID": resume.format(log=log)})
    assert answer.status_code == status, answer.text


def test_output_comes_line_by_line_and_ends_with_the_job(house: House) -> None:
    agent = house.agents["n1"]
    id = house.api.post("/jobs", json=SLEEPS).json()["id"]
    job = house.wait(lambda: next((job for job in agent.jobs if job.job == id), None), "the delivery")
    house.wait(lambda: house.api.get(f"/jobs/{id}").status_code == 200, "the job in the views")
    agent.prints(job, 1, "one", "two")
    lines = stream(house, f"/jobs/{id}/output/stream")
    first = take(lines, 2)
    assert [(one.id, json.loads(one.data)["text"]) for one in first] == [("1", "one"), ("2", "two")]
    agent.prints(job, 3, "three")
    assert json.loads(next(lines).data) == {"n": 3, "stream": "o", "text": "three"}
    agent.finish(job, Doing(lines=("one", "two", "three")))
    last = next(lines)
    assert (last.event, json.loads(last.data)) == ("end", {"state": "succeeded"})
    assert list(lines) == []


def test_output_resumes_after_the_last_line_that_came(house: House) -> None:
    agent = house.agents["n1"]
    id = house.api.post("/jobs", json=SLEEPS).json()["id"]
    job = house.wait(lambda: next((job for job in agent.jobs if job.job == id), None), "the delivery")
    house.wait(lambda: house.api.get(f"/jobs/{id}").status_code == 200, "the job in the views")
    agent.prints(job, 1, "one", "two", "three")
    assert json.loads(next(stream(house, f"/jobs/{id}/output/stream", resume="2")).data)["text"] == "three"
    assert house.api.get(f"/jobs/{id}/output").text == "one\ntwo\nthree\n"
    agent.finish(job, Doing(lines=("one", "two", "three")))
    house.ended(id)
    again = list(stream(house, f"/jobs/{id}/output/stream", after=1))
    assert [one.event for one in again] == ["message", "message", "end"]


def test_output_ends_with_the_job_however_late_the_views_show_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.job_lines.VIEW_SECONDS", 0.1)
    with House(tmp_path) as house, ThreadPoolExecutor(1) as pool:
        agent = house.agent("n1", does=never)
        house.publish("echo")
        id = house.api.post("/jobs", json=SLEEPS).json()["id"]
        house.wait(lambda: house.job(id).get("state") == "started", "the start")
        lines = stream(house, f"/jobs/{id}/output/stream")
        agent.prints(agent.jobs[0], 1, "one")
        assert json.loads(next(lines).data)["text"] == "one"
        house.stop_views()
        agent.finish(agent.jobs[0], Doing(lines=("one",)))
        # long enough for more patience than the portal had
        threading.Event().wait(0.5)
        house.start_views()
        # who passes over it hears of nothing, and looks again after a minute
        assert pool.submit(list, lines).result(45)[-1].event == "end"


def test_a_job_that_has_printed_nothing_ends_its_stream_at_once(house: House) -> None:
    id = house.api.post("/jobs", json=SLEEPS).json()["id"]
    house.wait(lambda: house.job(id).get("state") == "started", "the start")
    house.api.post(f"/jobs/{id}/cancel")
    house.ended(id)
    events = list(stream(house, f"/jobs/{id}/output/stream"))
    assert [one.event for one in events] == ["end"]
    assert house.api.get(f"/jobs/{id}/output").text == ""


def test_many_watch_at_once_and_none_holds_up_another(house: House) -> None:
    """Not a figure of speed: 200 streams that are not read at all, and one that is."""
    begin = position(house)
    limits = httpx.Limits(max_connections=300, max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {house.token}"}
    with httpx.Client(base_url=f"{house.url}/api/v1", headers=headers, limits=limits, timeout=SOON) as client:
        idle = [client.send(client.build_request("GET", "/events/stream"), stream=True) for _ in range(200)]
        try:
            said = [tell(house, "paid", n=n) for n in range(20)]
            assert ids(take(stream(house, type="event.billing.#", resume=begin), 20)) == said
            house.wait(lambda: watchers(house) >= 200, "all to be counted")
        finally:
            for one in idle:
                one.close()

    house.wait(lambda: tell(house, "paid") and watchers(house) == 0, "those who went away to be forgotten")


def watchers(house: House) -> int:
    """Streams that are open, as the portal measures it."""
    metrics = httpx.get(f"{house.url}/metrics", headers={"Authorization": f"Bearer {house.token}"}).text
    return int(float(metrics.partition("\nfleetbus_portal_stream_watchers ")[2].partition("\n")[0]))


def test_nothing_comes_twice_while_the_index_is_ahead_of_its_checkpoint(tmp_path: Path) -> None:
    """Documents are written before the checkpoint: for a moment the index knows more than it says."""
    with House(tmp_path) as house:
        namespace = house.documents.namespace(house.documents.pointed(LIVE) or "")
        position(house)
        before = namespace.get(META, "checkpoint")
        assert before is not None
        for n in range(5):
            tell(house, "paid", n=n)
        end = int(position(house).rpartition(":")[2])
        house.stop_views()
        namespace.delete_many(META, ["checkpoint"])
        namespace.put_many(META, [before])
        house.restart_portal()
        house.wait(lambda: house.api.get("/health").json()["log"]["next_offset"] >= end, "the log")
        said = ids(list(stream(house, follow="false", **{"from": "first"})))
        assert len(said) > 5
        assert sorted(said) == sorted(set(said))


def test_a_place_that_a_portal_does_not_know_yet_is_not_gone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hears 410 begins anew; one that hears 503 asks again, and goes on where it was."""
    monkeypatch.setattr("portal.api.events.CATCH_UP_SECONDS", 0.0)
    place = position(house)
    monkeypatch.setattr(Hub, "begin", lambda hub, state: None)
    monkeypatch.setattr(Hub, "take", lambda hub, entries, state: None)
    house.restart_portal()
    answer = house.api.get("/events/stream", headers={"Last-Event-ID": place})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), answer.text
    monkeypatch.undo()
    house.restart_portal()
    said = tell(house, "paid")
    assert ids(take(stream(house, type="event.billing.#", resume=place), 1)) == [said]
