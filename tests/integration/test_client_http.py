"""The client over HTTP: against a real portal on the embedded bus, and against what stands between the two."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

from fleetbus_client import Closed, HttpClient, Misuse, Problem, Refused, Unconfirmed, new_id
from fleetbus_client import http_client as module
from portal.accounts import Accounts
from tests.portal_house import SOON, Doing, House
from tests.proxy import Proxy
from tests.tls import Tls

PAID = "event.billing.invoice.paid"
FAILS = Doing(outcome="failed", error="no disk")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as found:
        found.agent("n1", "cpu")
        found.agent("n2", "cpu")
        found.publish("echo")
        yield found


@pytest.fixture(scope="module")
def token(house: House) -> str:
    """Of the service billing."""
    return Accounts(house.documents).make_token("admin", "billing", "billing")


@pytest.fixture
def client(house: House, token: str) -> Iterator[HttpClient]:
    with HttpClient(house.url, token) as made:
        yield made


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    with Proxy(urlsplit(house.url).port or 80) as between:
        yield between


@pytest.fixture
def behind(proxy: Proxy, token: str) -> HttpClient:
    """A client behind a network that fails on demand."""
    return HttpClient(f"http://127.0.0.1:{proxy.port}", token)


# ---------------------------------------------------------------- facts and commands


def test_a_fact_is_in_the_log_with_what_was_said_and_by_whom(house: House, client: HttpClient) -> None:
    id = client.publish(PAID, "invoice 17", {"amount": 12.5})
    house.wait(lambda: house.api.get(f"/events/{id}").status_code == 200, "the fact in the views")
    event = house.api.get(f"/events/{id}").json()["event"]
    assert (event["type"], event["subject"], event["data"]) == (PAID, "invoice 17", {"amount": 12.5})
    assert event["actor"] == "service:billing"


def test_an_id_that_is_said_again_counts_once(house: House, client: HttpClient) -> None:
    id = new_id()
    assert [client.publish(PAID, "invoice 17", {}, id=id) for _ in range(2)] == [id, id]
    position = client.ask("command.node.maintenance", "n1", {"node": "n1", "on": False}, wait=SOON).position
    found = house.api.get("/events", params={"type": PAID, "subject": "invoice 17", "at_least": position}).json()
    assert [item["verdict"] for item in found["items"] if item["id"] == id] == ["admitted"]


def test_what_comes_of_a_command_is_an_outcome(client: HttpClient) -> None:
    outcome = client.ask("command.node.maintenance", "n1", {"node": "n1", "on": True, "reason": "disk"}, wait=SOON)
    assert outcome.accepted
    assert outcome.event is not None
    assert outcome.event["type"] == "event.node.maintenance_set"
    assert outcome.message == ""
    assert client.ask("command.node.maintenance", "n1", {"node": "n1", "on": False}, wait=SOON).accepted


def test_a_rejection_is_an_outcome_too_and_says_why(client: HttpClient) -> None:
    outcome = client.ask("command.node.maintenance", "n9", {"node": "n9", "on": True}, wait=SOON)
    assert outcome.accepted is False
    assert "n9" in outcome.message


def test_a_command_of_the_same_id_has_the_same_outcome(client: HttpClient) -> None:
    id = client.command("command.node.maintenance", "n2", {"node": "n2", "on": False})
    first = client.ask("command.node.maintenance", "n2", {"node": "n2", "on": False}, id=id, wait=SOON)
    again = client.ask("command.node.maintenance", "n2", {"node": "n2", "on": False}, id=id, wait=SOON)
    assert (first.id, first) == (id, again)


def test_while_nobody_decides_nothing_has_come_of_a_command(tmp_path: Path) -> None:
    with House(tmp_path, decides=False, views=False) as house:
        client = HttpClient(house.url, house.token)
        outcome = client.ask("command.node.maintenance", "n1", {"node": "n1", "on": True}, wait=0.2)
        assert (outcome.accepted, outcome.event, outcome.message) == (None, None, "")


# ---------------------------------------------------------------- runs


def test_a_script_is_run_and_its_result_comes_back(client: HttpClient) -> None:
    run = client.run("echo", {"node": "n1"}, {"text": "hello", "times": 2}, wait=SOON)
    assert run.ended
    assert run.succeeded
    assert run.job is not None
    assert run.job["result"] == {"node": "n1", "params": {"text": "hello", "times": 2}}


def test_a_batch_comes_back_with_its_jobs(client: HttpClient) -> None:
    run = client.run("echo", {"role": "cpu", "all": True}, wait=SOON)
    assert run.succeeded
    assert sorted(job["node"] for job in run.jobs) == ["n1", "n2"]


def test_a_run_that_fails_has_ended_and_not_succeeded(house: House, client: HttpClient) -> None:
    house.agent("bad", "bad", does=lambda job: FAILS)
    run = client.run("echo", {"node": "bad"}, wait=SOON)
    assert (run.ended, run.succeeded) == (True, False)


def test_a_run_that_nobody_waited_for_has_not_ended(house: House, client: HttpClient) -> None:
    house.agent("slow", "slow", does=lambda job: None)
    run = client.run("echo", {"node": "slow"}, timeout=30.0)
    assert (run.ended, run.succeeded) == (False, False)
    jobs = house.wait(lambda: house.agents["slow"].jobs, "the job")
    assert jobs[0].order.timeout == 30.0


def test_a_run_that_the_fleet_rejects_says_what_exists(client: HttpClient) -> None:
    with pytest.raises(Problem, match=r"there is: .*echo") as caught:
        client.run("ehco", {"node": "n1"}, wait=SOON)
    problem = caught.value
    assert (problem.status, problem.reason) == (404, "unknown_script")
    assert "echo" in problem.exists


def test_what_does_not_fit_is_said_with_its_place(client: HttpClient) -> None:
    with pytest.raises(Problem, match=r"data\.on") as caught:
        client.command("command.node.maintenance", "n1", {"node": "n1", "on": "yes"})
    assert (caught.value.status, caught.value.field) == (422, "data.on")


# ---------------------------------------------------------------- who may


def test_the_token_of_a_service_says_facts_of_that_service(client: HttpClient) -> None:
    with pytest.raises(Problem, match="belongs to service:shop") as caught:
        client.publish("event.shop.order.made", "order", {})
    assert caught.value.status == 403


def test_without_a_token_the_portal_says_how_to_get_one(house: House) -> None:
    with pytest.raises(Problem, match=r"answered 401: .*fleetbus login"):
        HttpClient(house.url).publish(PAID, "invoice", {})


def test_the_token_may_be_in_the_environment(house: House, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETBUS_TOKEN", token)
    client = HttpClient(house.url + "/")
    assert client.publish(PAID, "invoice", {})
    assert token not in repr(client) + str(vars(client).get("url"))


@pytest.mark.parametrize("url", ["", "fleet.example", "ftp://x", "http://me:pw@x", "http://x/?a=1", "http://x:y"])
def test_an_address_that_cannot_be_right_is_refused(url: str) -> None:
    with pytest.raises(Misuse, match="no address of a portal"):
        HttpClient(url)


def test_what_cannot_be_said_is_not_sent(client: HttpClient) -> None:
    for said in (
        lambda: client.publish("command.job.submit", "x", {}),
        lambda: client.command(PAID, "x", {}),
        lambda: client.publish(PAID, "", {}),
        lambda: client.publish(PAID, "x", {"when": object()}),
        lambda: client.run("echo", {"node": "n1"}, {"x": object()}),
        lambda: client.publish(PAID, "x", {}, id="17"),
        lambda: client.ask("command.job.submit", "x", {}, wait=-1),
        lambda: HttpClient("http://x", "a\nb"),
        lambda: HttpClient("http://x", give_up_after=61),
    ):
        with pytest.raises(Misuse):
            said()


def test_a_closed_client_says_so(house: House, token: str) -> None:
    client = HttpClient(house.url, token)
    client.close()
    with pytest.raises(Closed):
        client.publish(PAID, "x", {})


# ---------------------------------------------------------------- a network that fails


def test_a_portal_that_is_away_is_waited_for(proxy: Proxy, behind: HttpClient) -> None:
    proxy.refuse()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(behind.publish, PAID, "invoice", {})
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        proxy.thaw()
        assert waiting.result(SOON)


def test_when_the_answer_is_lost_the_job_runs_once_and_its_end_comes_back(
    house: House, proxy: Proxy, behind: HttpClient
) -> None:
    agent = house.agent("lost", "lost", does=lambda job: None)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(behind.run, "echo", {"node": "lost"}, wait=SOON)
        house.wait(lambda: agent.jobs, "the job")
        proxy.cut()
        house.wait(lambda: house.api.get("/health").status_code == 200, "the portal")
        agent.finish(agent.jobs[0], Doing(result=1))
        run = waiting.result(SOON)
    assert run.succeeded
    assert [job.job for job in agent.jobs] == [run.id]


def test_a_request_that_never_left_is_known_not_to_be_in_the_log(token: str) -> None:
    client = HttpClient("http://127.0.0.1:1", token, give_up_after=0.5)
    with pytest.raises(Unconfirmed, match="it is not in the log: nothing was sent") as caught:
        client.publish(PAID, "invoice", {}, id=(id := new_id()))
    assert (caught.value.id, caught.value.reached) == (id, False)


def test_a_request_without_an_answer_may_be_in_the_log(
    proxy: Proxy, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.3)
    client = HttpClient(f"http://127.0.0.1:{proxy.port}", token, give_up_after=1.0)
    proxy.freeze()
    with pytest.raises(Unconfirmed, match="it may be in the log or not") as caught:
        client.publish(PAID, "invoice", {})
    assert caught.value.reached
    proxy.thaw()
    monkeypatch.undo()
    patient = HttpClient(f"http://127.0.0.1:{proxy.port}", token)
    assert patient.publish(PAID, "invoice", {}, id=caught.value.id) == caught.value.id


# ---------------------------------------------------------------- what stands before a portal


Answer = tuple[int, dict[str, str], str]


class Gateway:
    """Answers as it is told, whatever it is asked: status, headers, body. Remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[tuple[str, str | None]] = []
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(this) -> None:  # noqa: N805  # the library's name; `self` is the gateway
                this.rfile.read(int(this.headers["Content-Length"]))
                self.asked.append((this.path, this.headers["Idempotency-Key"]))
                status, headers, body = left.pop(0)
                this.send_response(status)
                for name, value in headers.items():
                    this.send_header(name, value)
                this.end_headers()
                this.wfile.write(body.encode())

            def log_message(this, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(SOON)


DONE: Answer = (201, {}, '{"id": "1"}')


@pytest.mark.parametrize(
    "answer",
    [
        (503, {"Retry-After": "1"}, '{"title": "Not reachable", "status": 503}'),
        (502, {}, "<html>bad gateway</html>"),
        (504, {"Retry-After": "soon"}, ""),
        (429, {}, "{}"),
    ],
)
def test_what_passes_is_sent_again_under_the_same_key(answer: Answer) -> None:
    with Gateway(answer, DONE) as gateway:
        began = time.monotonic()
        HttpClient(gateway.url, "t").publish(PAID, "invoice", {})
        paths, keys = zip(*gateway.asked, strict=True)
        assert paths == ("/api/v1/events", "/api/v1/events")
        assert len(set(keys)) == 1
        assert answer[1] != {"Retry-After": "1"} or time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"Location": "http://127.0.0.1:1/"}, ""),
        (500, {}, '{"title": "Defect"}'),
        (502, {}, '{"title": "Refused by bus"}'),
        (404, {}, "not here"),
        (200, {}, "<html>welcome</html>"),
    ],
)
def test_what_does_not_pass_is_not_sent_again(answer: Answer) -> None:
    with Gateway(answer) as gateway:
        with pytest.raises(Problem) as caught:
            HttpClient(gateway.url, "t").publish(PAID, "invoice", {})
        assert caught.value.status == answer[0]
        assert len(gateway.asked) == 1


def test_a_gateway_that_stays_unwell_is_given_up_with_what_it_said() -> None:
    with Gateway(*[(503, {}, '{"detail": "the bus is away"}')] * 50) as gateway:
        client = HttpClient(gateway.url, "t", give_up_after=3.0)
        with pytest.raises(Unconfirmed, match=r"answered 503: the bus is away\); it may be in the log or not"):
            client.publish(PAID, "invoice", {})


@pytest.mark.servers
def test_a_portal_over_tls_is_told_nothing_unless_its_certificate_is_known(
    house: House, token: str, tmp_path: Path
) -> None:
    with Tls(tmp_path, urlsplit(house.url).port or 80) as tls:
        url = f"https://localhost:{tls.port}"
        assert HttpClient(url, token, ca=str(tls.certificate)).publish(PAID, "invoice", {})
        with pytest.raises(Refused, match="is not trusted"):
            HttpClient(url, token).publish(PAID, "invoice", {})
        with pytest.raises(Refused, match="is not trusted"):
            HttpClient(f"https://127.0.0.1:{tls.port}", token, ca=str(tls.certificate)).publish(PAID, "invoice", {})


def test_threads_share_a_client(house: House, client: HttpClient) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda n: client.publish(PAID, f"shared {n}", {}), range(40)))
    assert len(ids) == 40

    def seen() -> set[str]:
        items = house.api.get(f"/events?type={PAID}&limit=200").json()["items"]
        return {item["id"] for item in items}

    house.wait(lambda: ids <= seen(), "40 facts in the views")
