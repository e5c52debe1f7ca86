"""Commands against a small server that says what the test wants: errors, answers that get lost, streams that end."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import Result

from fleetbus import api as api_module
from fleetbus.api import Api, Problem
from fleetbus.credentials import Fleet
from fleetbus.errors import NotReached
from tests.cli import invoke


class Request:
    """What came in."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method = handler.command
        self.path, _, self.query = handler.path.removeprefix("/api/v1").partition("?")
        self.headers = handler.headers
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


#: (status, body): a str is a stream of events, None ends the connection without an answer.
Answer = tuple[int, Any] | None
Answers = Callable[[Request], Answer]


class Portal:
    """Answers each request as `answer` says."""

    def __init__(self) -> None:
        self.answer: Answers = lambda request: (404, {"title": "Not found"})
        self.requests: list[Request] = []
        portal = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                portal.serve(self)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return self.do_GET
                raise AttributeError(name)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(handler)
        self.requests.append(request)
        found = self.answer(request)
        if found is None:
            handler.close_connection = True
            return
        status, body = found
        stream = isinstance(body, str)
        raw = body.encode() if stream else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    monkeypatch.setattr(api_module, "PAUSE", 0.01)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    found = Portal()
    monkeypatch.setenv("FLEETBUS_URL", found.url)
    monkeypatch.setenv("FLEETBUS_TOKEN", "fb_test")
    yield found
    found.close()


def fleetbus(*args: str) -> Result:
    return invoke(*args)


def nodes(*names: str) -> dict[str, Any]:
    items = [{"id": name, "state": "online"} for name in names]
    return {"items": items, "next_cursor": None, "total": len(items), "as_of": {}}


# errors


def test_a_problem_is_told_with_its_detail_its_field_and_what_exists(portal: Portal) -> None:
    problem = {"title": "Unknown script", "detail": "there is no script 'fcts'", "field": "script"}
    portal.answer = lambda request: (404, {**problem, "exists": ["facts", "top"]})
    done = fleetbus("run", "fcts", "--node", "n1")
    assert done.exit_code == 2
    for words in ("Unknown script", "no script 'fcts'", "where: script", "did you mean facts?", "there is: facts, top"):
        assert words in done.stderr


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 2), (422, 2), (401, 3), (403, 3), (429, 3), (409, 1)])
def test_the_exit_code_follows_from_the_kind_of_the_problem(portal: Portal, status: int, code: int) -> None:
    portal.answer = lambda request: (status, {"title": "No", "detail": "no"})
    assert fleetbus("node", "list").exit_code == code


def test_what_is_no_portal_is_said_to_be_none(portal: Portal) -> None:
    portal.answer = lambda request: (200, "hello")
    done = fleetbus("node", "list")
    assert done.exit_code == 3
    assert "is it a portal" in done.stderr


def test_a_portal_that_is_not_there_is_named(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "REFUSED_SECONDS", 0.05)
    for command in (["node", "list"], ["run", "facts", "--node", "n1"]):
        done = fleetbus(*command, "--url", "http://127.0.0.1:9")
        assert done.exit_code == 3
        assert "http://127.0.0.1:9" in done.stderr
        assert "fleetbus up" in done.stderr


# sending again


def test_a_command_whose_answer_was_lost_is_sent_again_under_the_same_id(portal: Portal) -> None:
    def answer(request: Request) -> Answer:
        return None if len(portal.requests) < 4 else (200, {"id": request.headers["Idempotency-Key"]})

    portal.answer = answer
    with Api(Fleet(portal.url, "t")) as api:
        sent = api.send("POST", "/jobs/x/cancel", id="7d0d4bdc-0000-7000-8000-000000000000")
    keys = {request.headers["Idempotency-Key"] for request in portal.requests}
    assert keys == {sent["id"]} == {"7d0d4bdc-0000-7000-8000-000000000000"}
    assert len(portal.requests) == 4


def test_a_request_without_an_id_is_sent_once(portal: Portal) -> None:
    portal.answer = lambda request: None
    with Api(Fleet(portal.url, "t")) as api, pytest.raises(NotReached):
        api.send("POST", "/nodes/invitations", {})
    assert len(portal.requests) == 1


def test_a_command_that_was_refused_is_not_sent_again(portal: Portal) -> None:
    portal.answer = lambda request: (409, {"title": "Conflict"})
    with Api(Fleet(portal.url, "t")) as api, pytest.raises(Problem):
        api.send("POST", "/jobs/x/retry", id="7d0d4bdc-0000-7000-8000-000000000000")
    assert len(portal.requests) == 1


def test_a_job_that_nobody_has_decided_on_is_asked_for_again_under_the_same_id(portal: Portal) -> None:
    def answer(request: Request) -> Answer:
        sent = {"id": request.headers["Idempotency-Key"]}
        return 202, sent if len(portal.requests) < 3 else {**sent, "event": {"type": "event.job.queued"}}

    portal.answer = answer
    with Api(Fleet(portal.url, "t")) as api:
        sent = api.submit({"script": "facts"}, id="7d0d4bdc-0000-7000-8000-000000000000")
    assert sent["event"] == {"type": "event.job.queued"}
    assert {request.headers["Idempotency-Key"] for request in portal.requests} == {sent["id"]}
    assert [request.json for request in portal.requests] == [{"script": "facts"}] * 3


def test_when_nobody_decides_a_run_says_so_and_how_to_come_back(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "DECIDE_SECONDS", 0.05)
    portal.answer = lambda request: (202, {"id": "x"})
    done = fleetbus("run", "facts", "--node", "n1")
    assert done.exit_code == 1
    for words in ("nobody has decided", "are the handlers running", "fleetbus job wait x"):
        assert words in done.stderr


# streams


def test_a_stream_that_ended_goes_on_behind_the_last_event(portal: Portal) -> None:
    frames = ["id: L:1\ndata: 1\n\nid: L:2\ndata: 2\n\n", ": here\nid: L:5\n\n", "id: L:6\ndata: 3\n\n"]

    def answer(request: Request) -> Answer:
        return 200, frames[len(portal.requests) - 1]

    portal.answer = answer
    got: list[str] = []
    with Api(Fleet(portal.url, "t")) as api:
        for message in api.stream("/events/stream", resume_at="L:0"):
            if message.data:
                got.append(message.data)
            if len(got) == 3:
                break
    assert got == ["1", "2", "3"]
    assert [request.headers["Last-Event-ID"] for request in portal.requests] == ["L:0", "L:2", "L:5"]


# where to run


def test_without_a_target_the_only_node_is_meant(portal: Portal) -> None:
    sent: list[Any] = []

    def answer(request: Request) -> Answer:
        if request.path == "/nodes":
            return 200, nodes("n1")
        sent.append(request.json)
        return 202, {"id": request.headers["Idempotency-Key"]}

    portal.answer = answer
    assert fleetbus("run", "facts", "--no-wait").exit_code == 0
    assert sent == [{"script": "facts", "target": {"node": "n1"}}]


def test_without_a_target_and_with_several_nodes_the_ways_to_choose_are_named(portal: Portal) -> None:
    portal.answer = lambda request: (200, nodes("n1", "n2"))
    done = fleetbus("run", "facts")
    assert done.exit_code == 2
    for words in ("--node", "--role", "--all", "n1, n2"):
        assert words in done.stderr


@pytest.mark.parametrize(
    ("options", "target"),
    [
        (["--node", "n1"], {"node": "n1"}),
        (["--node", "n1", "--node", "n2", "--node", "n1"], {"nodes": ["n1", "n2"]}),
        (["--role", "cpu"], {"role": "cpu"}),
        (["--role", "cpu", "--all"], {"role": "cpu", "all": True}),
        (["--all"], {"all": True}),
    ],
)
def test_options_become_the_target(portal: Portal, options: list[str], target: dict[str, Any]) -> None:
    portal.answer = lambda request: (202, {"id": "x"})
    fleetbus("run", "facts", "--no-wait", *options)
    assert portal.requests[-1].json["target"] == target


def test_batch_and_max_failures_become_the_rollout(portal: Portal) -> None:
    portal.answer = lambda request: (202, {"id": "x"})
    fleetbus("run", "facts", "--no-wait", "--all", "--batch", "20%", "--max-failures", "2")
    assert portal.requests[-1].json["rollout"] == {"percent": 20.0, "max_failures": 2}
    fleetbus("run", "facts", "--no-wait", "--all", "--batch", "5")
    assert portal.requests[-1].json["rollout"] == {"size": 5}
    assert fleetbus("run", "facts", "--all", "--batch", "many").exit_code == 2


# parameters


def test_parameters_become_what_the_header_says_and_json_stays_as_it_is(portal: Portal) -> None:
    params = [{"name": "n", "type": "int"}, {"name": "names", "type": "list"}, {"name": "x", "type": "any"}]
    header = {"name": "s", "descr": "d", "params": params}

    def answer(request: Request) -> Answer:
        return (200, {"header": header}) if request.method == "GET" else (202, {"id": "x"})

    portal.answer = answer
    fleetbus("run", "s", "--node", "n1", "--no-wait", "--arg", "n=7", "--arg", "names=a,b", "--arg", 'x:={"k": [1]}')
    assert portal.requests[-1].json["params"] == {"n": 7, "names": ["a", "b"], "x": {"k": [1]}}


@pytest.mark.parametrize("arg", ["n", "=7", "n:={", ":=1"])
def test_a_parameter_that_cannot_be_read_is_wrong_usage(portal: Portal, arg: str) -> None:
    done = fleetbus("run", "s", "--node", "n1", "--arg", arg)
    assert done.exit_code == 2
    assert "--arg" in done.stderr
    assert portal.requests == []


# forms


def test_lists_are_tables_json_or_yaml(portal: Portal) -> None:
    node = {"id": "n1", "state": "online", "roles": ["cpu"], "maintenance": False, "allows": []}
    when = {"offline_since": None, "connected_at": "2026-01-01T00:00:00.000000Z", "joined_at": None}
    portal.answer = lambda request: (200, {"items": [node | when], "next_cursor": None})
    table = fleetbus("node", "list").stdout
    assert table.splitlines()[0].split() == ["NODE", "STATE", "ROLES", "MAINTENANCE", "ALLOWS", "SINCE"]
    assert json.loads(fleetbus("node", "list", "--json").stdout)[0]["id"] == "n1"
    assert fleetbus("node", "list", "-o", "yaml").stdout.startswith("- id: n1\n")


def test_there_are_no_colours_when_nobody_looks(portal: Portal) -> None:
    portal.answer = lambda request: (404, {"title": "Unknown node"})
    done = fleetbus("node", "show", "n1")
    assert "\x1b" not in done.stdout + done.stderr


def on_a_terminal(*args: str, **environ: str) -> bytes:
    """What a command shows to a person."""
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "fleetbus", *args]
    shown = b""
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm", **environ}
    ):
        os.close(terminal)
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
            while part := os.read(master, 4096):
                shown += part
    os.close(master)
    return shown


def test_there_are_colours_on_a_terminal_unless_the_person_wants_none(portal: Portal) -> None:
    job = dict.fromkeys(("hash", "node", "by", "batch", "retry_of", "submitted_at", "started_at", "ended_at"))
    more = {"params": {}, "late": False, "reason": "", "duration": None}
    known = {"id": "j", "script": "s", "state": "failed", **job, **more}
    portal.answer = lambda request: (200, known) if request.path == "/jobs/j" else (404, {"title": "Unknown job"})
    for id in ("j", "k"):
        assert b"\x1b[" in on_a_terminal("job", "show", id)
        assert b"\x1b[" not in on_a_terminal("job", "show", id, NO_COLOR="1")


def test_exec_runs_the_script_shell_with_the_arguments_as_they_are(portal: Portal) -> None:
    portal.answer = lambda request: (202, {"id": "x"})
    assert fleetbus("exec", "--node", "n1", "--no-wait", "--", "ls", "-l", "a b").exit_code == 0
    assert portal.requests[-1].json["params"] == {"argv": ["ls", "-l", "a b"]}
    assert portal.requests[-1].json["script"] == "shell"
