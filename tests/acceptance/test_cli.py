"""The commands against a running fleet of two nodes: what they print, where, and how they end."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bus.embedded import EmbeddedBus
from events.actors import PORTAL
from projections import generation
from projections.osis.open import open_documents
from projections.registry import versions
from projections.replay import digests
from tests.acceptance.house import House
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SECOND = "second"

GREET = """descr = "Greets, line by line."

def action(name: str = "you", times: int = 2, pause: float = 0.0, fail: bool = False) -> str:
    import sys, time
    for n in range(times):
        print(f"hello {name} {n}", flush=True)
        time.sleep(pause)
    if fail:
        print("alas", file=sys.stderr, flush=True)
        raise ValueError("as you wished")
    return f"greeted {name}"
"""

HELD = """descr = "Runs until it is let go."

def action(began: str, go: str) -> str:
    import pathlib, time
    pathlib.Path(began).touch()
    while not pathlib.Path(go).exists():
        time.sleep(0.05)
    return "old"
"""


@pytest.fixture(scope="module")
def fleet(house: House) -> Iterator[House]:
    """The house, with a second node on the same machine that came by an invitation and allows `shell`."""
    house.publish("greet", GREET)
    first = house.json("node", "list")[0]["id"]
    invited = house.json("node", "invite", "--role", "cpu.fast")
    log = (house.folder / "second.log").open("ab")
    command = house.command(
        "agent", "--node", SECOND, "--allow", "shell", "--data", str(house.folder / SECOND), "--join", house.url
    )
    agent = subprocess.Popen(
        command, env={**house.environ, "FLEETBUS_JOIN_TOKEN": invited["token"]}, stdout=log, stderr=log
    )
    try:
        wait_until(lambda: states(house) == {first: "online", SECOND: "online"}, deadline=60, what="the second node")
        yield house
    finally:
        agent.terminate()
        agent.wait(30)
        log.close()


def states(house: House) -> dict[str, str]:
    return {node["id"]: node["state"] for node in house.json("node", "list")}


def wait_until_seen(house: House, job: str) -> None:
    """Until the views show it: they follow the log, out of which commands are answered."""
    wait_until(lambda: house.run("job", "show", job).returncode == 0, deadline=60, what=f"job {job} in the views")


def others(house: House) -> str:
    """The node that `fleetbus up` made of this machine."""
    (first,) = set(states(house)) - {SECOND}
    return first


# run


def test_run_prints_the_result_and_ends_with_0(fleet: House) -> None:
    done = fleet.run("run", "facts", "--node", SECOND, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "succeeded"
    assert answer["result"]["cpu"]["count"] == os.cpu_count()


def test_run_shows_what_is_printed_then_the_result_and_says_how_it_ended_on_stderr(fleet: House) -> None:
    done = fleet.run("run", "greet", "--node", SECOND, "--arg", "name=Ann", "--arg", "times=3")
    assert done.stdout.splitlines() == ["hello Ann 0", "hello Ann 1", "hello Ann 2", "greeted Ann"]
    assert f"greet on {SECOND}: succeeded" in done.stderr


def test_a_large_result_comes_whole(fleet: House) -> None:
    fleet.publish("large", 'descr = "d"\n\ndef action() -> list:\n    return ["x" * 1000] * 300\n')
    answer = fleet.json("run", "large", "--node", SECOND)
    assert answer["result"] == ["x" * 1000] * 300
    assert fleet.json("job", "show", answer["id"])["result"] == answer["result"]


def test_a_script_that_fails_ends_with_1_and_shows_its_traceback_and_not_ours(fleet: House) -> None:
    done = fleet.run("run", "greet", "--node", SECOND, "--arg", "fail=yes")
    assert done.returncode == 1
    assert "ValueError: as you wished" in done.stderr
    assert "in action" in done.stderr
    for ours in ("fleetbus/", "nodeagent", "click", "httpx"):
        assert ours not in done.stderr
    assert fleet.run("run", "greet", "--node", SECOND, "--arg", "fail=yes", "--json").returncode == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "greet", "--node", "secnd"], ["no node 'secnd'", "did you mean second?"]),
        (["run", "gret", "--node", SECOND], ["no script 'gret'", "did you mean greet?"]),
        (["run", "greet", "--role", "gpu"], ["role 'gpu'", "cpu.fast"]),
        (["run", "greet", "--node", SECOND, "--arg", "nam=x"], ["no parameter 'nam'", "name", "times"]),
        (["run", "greet", "--node", SECOND, "--arg", "times=many"], ["times must be an int", "params.times"]),
        (["run", "greet"], ["more than one node", "--node", "--role", "--all", SECOND]),
        (["job", "show", "0190b3f0-0000-7000-8000-000000000000"], ["no job"]),
        (["node", "show", "nobody"], ["no node 'nobody'"]),
        (["script", "show", "nothing"], ["no script 'nothing'"]),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(fleet: House, command: list[str], words: list[str]) -> None:
    done = fleet.run(*command)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [word for word in words if word not in done.stderr] == []


def test_the_next_job_runs_what_was_published_last_and_each_job_shows_what_it_ran(fleet: House) -> None:
    began, go = fleet.folder / "began", fleet.folder / "go"
    before = fleet.publish("version", HELD)
    running = fleet.begin("run", "version", "--node", SECOND, "--json", "--arg", f"began={began}", "--arg", f"go={go}")
    wait_until(began.exists, deadline=60, what="the first version to run")
    after = fleet.publish("version", 'descr = "2"\n\ndef action() -> str:\n    return "new"\n')
    second = fleet.json("run", "version", "--node", SECOND)
    go.touch()
    out, _ = running.communicate(timeout=60)
    first = json.loads(out)
    assert (first["result"], first["hash"]) == ("old", before)
    assert (second["result"], second["hash"]) == ("new", after)
    shown = fleet.run("script", "show", "version", "--version", before, "--source")
    assert 'return "old"' in shown.stdout


def test_a_batch_answers_with_a_line_for_each_job_as_it_ends(fleet: House) -> None:
    done = fleet.run("run", "greet", "--all", "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert {answer["node"] for answer in answers} == set(states(fleet))
    assert {answer["state"] for answer in answers} == {"succeeded"}
    assert len({answer["batch"] for answer in answers}) == 1
    shown = fleet.json("job", "show", answers[0]["batch"])
    assert shown["states"] == {"succeeded": 2}


def test_a_batch_stops_when_too_many_jobs_failed(fleet: House) -> None:
    done = fleet.run("run", "greet", "--all", "--batch", "1", "--max-failures", "0", "--arg", "fail=yes", "--json")
    assert done.returncode == 1
    assert sorted(json.loads(line)["state"] for line in done.stdout.splitlines()) == ["cancelled", "failed"]


def test_all_of_a_role_are_those_that_hold_it_or_one_below(fleet: House) -> None:
    done = fleet.run("run", "greet", "--role", "cpu", "--all", "--json")
    assert [json.loads(line)["node"] for line in done.stdout.splitlines()] == [SECOND]


# exec


def test_exec_runs_a_program_where_it_is_allowed(fleet: House) -> None:
    done = fleet.run("exec", "--node", SECOND, "--", "echo", "-n", "a  b")
    assert done.returncode == 0, done.stderr
    assert "a  b" in done.stdout


def test_exec_is_refused_where_it_is_not_allowed(fleet: House) -> None:
    done = fleet.run("exec", "--node", others(fleet), "--", "id")
    assert done.returncode == 3
    assert "shell" in done.stderr
    assert "uid=" not in done.stdout


# coming and going


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(fleet: House) -> None:
    running = fleet.begin("run", "greet", "--node", SECOND, "--arg", "times=6", "--arg", "pause=0.5")
    assert running.stdout is not None
    assert running.stdout.readline() == "hello you 0\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    id = err.split("left it running: ")[1].split()[0]
    done = fleet.run("job", "wait", id)
    assert done.returncode == 0
    assert f"fleetbus job wait {id}" in err
    assert "succeeded" in done.stdout


def test_ctrl_c_twice_cancels_the_job(fleet: House) -> None:
    running = fleet.begin("run", "greet", "--node", SECOND, "--arg", "times=100", "--arg", "pause=0.5")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.send_signal(signal.SIGINT)
    said = running.stderr.readline() + running.stderr.readline()
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=60)
    said += rest
    assert running.returncode == 1
    id = said.split("left it running: ")[1].split()[0]
    assert f"cancelled: {id}" in said
    assert fleet.run("job", "wait", id).returncode == 1
    assert fleet.json("job", "show", id)["state"] == "cancelled"


def test_a_job_that_nobody_waits_for_can_be_followed_later(fleet: House) -> None:
    id = fleet.json("run", "greet", "--node", SECOND, "--no-wait", "--arg", "pause=0.3", "--arg", "times=5")["id"]
    wait_until_seen(fleet, id)
    lines = fleet.run("job", "logs", "-f", id).stdout.splitlines()
    assert lines == [f"hello you {n}" for n in range(5)]
    assert fleet.run("job", "logs", id).stdout.splitlines() == lines


def test_an_ended_job_can_be_run_again(fleet: House) -> None:
    first = fleet.json("run", "greet", "--node", SECOND, "--arg", "name=Bo")
    again = fleet.json("job", "retry", first["id"])
    assert (again["retry_of"], again["result"]) == (first["id"], "greeted Bo")


# why


def test_why_explains_what_a_job_waits_for(fleet: House) -> None:
    fleet.json("node", "maintenance", SECOND, "on", "--reason", "a test")
    try:
        id = fleet.json("run", "greet", "--node", SECOND, "--no-wait")["id"]
        wait_until_seen(fleet, id)
        why = fleet.run("job", "why", id).stdout
        assert why.startswith("waiting: ")
        assert "maintenance" in why
        assert "job.waiting" in why
    finally:
        fleet.json("node", "maintenance", SECOND, "off")
    assert fleet.run("job", "wait", id).returncode == 0
    assert fleet.run("job", "why", id).stdout.startswith(f"succeeded on {SECOND}")


def test_why_explains_what_was_rejected(fleet: House) -> None:
    assert fleet.run("run", "nothing", "--node", SECOND).returncode == 2
    (event,) = [
        json.loads(line)["event"]
        for line in fleet.run("events", "tail", "--type", "event.command.rejected", "--json").stdout.splitlines()
        if "'nothing'" in line
    ][-1:]
    rejected = "rejected: there is no script 'nothing'"
    command = event["data"]["command"]
    wait_until(lambda: rejected in fleet.run("job", "why", command).stdout, deadline=60, what="the reason")


# nodes and events


def test_roles_are_shown_and_set(fleet: House) -> None:
    assert fleet.json("node", "roles", SECOND)["roles"] == ["cpu.fast"]
    assert fleet.json("node", "roles", SECOND, "cpu.fast", "web")["roles"] == ["cpu.fast", "web"]
    assert [node["id"] for node in fleet.json("node", "list", "--role", "web")] == [SECOND]
    assert fleet.json("node", "roles", SECOND, "cpu.fast")["roles"] == ["cpu.fast"]


def test_an_invitation_works_once(fleet: House) -> None:
    token = fleet.json("node", "invite")["token"]
    third = join(fleet, "third", token)
    wait_until(lambda: states(fleet).get("third") == "online", deadline=60, what="the third node")
    third.terminate()
    _, err = third.communicate(timeout=60)
    assert third.returncode == 0, err
    fourth = join(fleet, "fourth", token)
    _, err = fourth.communicate(timeout=60)
    assert fourth.returncode == 3
    assert "fleetbus node invite" in err
    assert fleet.run("node", "remove", "third").returncode == 0
    wait_until(lambda: "third" not in states(fleet), deadline=60, what="the views to show it")


def join(house: House, node: str, token: str) -> subprocess.Popen[str]:
    folder = str(house.folder / node)
    return house.begin("agent", "--node", node, "--data", folder, "--join", house.url, "--token", token)


def test_a_service_tells_a_fact_and_it_is_in_the_tail(fleet: House) -> None:
    following = fleet.begin("events", "tail", "--follow", "--json", "--type", "event.billing.#")
    try:
        sent = wait_until(lambda: publish_and_see(fleet, following), deadline=60, what="the tail to show a fact")
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    assert following.returncode == 0
    shown = fleet.run("events", "tail", "--from", "first", "--type", "event.billing.#", "--json").stdout
    assert sent in [json.loads(line)["event"]["id"] for line in shown.splitlines()]


def publish_and_see(house: House, following: subprocess.Popen[str]) -> str:
    """Tells a fact; its id once the tail printed something."""
    id = house.json("events", "publish", "event.billing.invoice.paid", "--subject", "7", "--data", '{"sum": 12}')["id"]
    assert following.stdout is not None
    os.set_blocking(following.stdout.fileno(), False)
    return str(id) if following.stdout.readline() else ""


def test_a_fact_that_belongs_to_fleetbus_cannot_be_told(fleet: House) -> None:
    done = fleet.run("events", "publish", "event.job.finished", "--data", "{}")
    assert done.returncode == 2
    assert "event.<service>" in done.stderr
    assert fleet.run("events", "publish", "event.billing.x", "--data", "{").returncode == 2


# logging in


def test_login_makes_a_token_that_other_commands_use(fleet: House, tmp_path: Path) -> None:
    environ = {**fleet.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    master, terminal = pty.openpty()
    login = subprocess.Popen(
        fleet.command("login", fleet.url, "--account", "admin"),
        env=environ,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    while b"password" not in shown:
        shown += os.read(master, 1000)
    os.write(master, fleet.password.encode() + b"\n")
    assert login.wait(60) == 0
    os.close(master)
    assert fleet.password.encode() not in shown
    assert fleet.run("node", "list", XDG_CONFIG_HOME=str(tmp_path)).returncode == 0


def test_without_a_token_or_with_a_wrong_one_nobody_comes_in(fleet: House, tmp_path: Path) -> None:
    done = fleet.run("node", "list", "--url", fleet.url, XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 3
    assert "fleetbus login" in done.stderr
    done = fleet.run("login", fleet.url, "--with-token", input="fb_wrong\n", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 3
    assert not (tmp_path / "fleetbus" / "credentials.json").exists()


# replay


def test_replay_makes_the_same_views_again(fleet: House) -> None:
    while True:  # what is said meanwhile (that a node is late, on a busy machine) is in the later views alone
        end = log_end(fleet)
        report = fleet.json("replay", "--data", str(fleet.data))
        assert report["live"]
        assert report["set_aside"] == 0
        before = live_digests(fleet)
        fleet.json("replay", "--data", str(fleet.data), "--projection", "jobs")
        after = live_digests(fleet)
        if log_end(fleet) == end:
            break
    assert [name for name in before if name not in ("events", "commands") and before[name] != after[name]] == []
    assert fleet.run("run", "greet", "--node", SECOND).returncode == 0


def log_end(house: House) -> int:
    with closing(EmbeddedBus(house.data / "bus", PORTAL)) as bus:
        return bus.stream("log").next_offset()


def live_digests(house: House) -> dict[str, str]:
    with closing(open_documents(f"sqlite://{house.data / 'views.db'}")) as documents:
        name = generation.live(documents)
        assert name is not None
        return digests(documents.namespace(name))


def test_replay_until_makes_the_views_of_an_earlier_time(fleet: House) -> None:
    report = fleet.json("replay", "--data", str(fleet.data), "--until", "1")
    assert (report["live"], report["records"]) == (False, 2)
    with closing(open_documents(f"sqlite://{fleet.data / 'views.db'}")) as documents:
        assert documents.namespace(report["generation"]).count("jobs") == 0


def test_replay_says_what_is_wrong_with_what_it_is_asked_for(fleet: House, tmp_path: Path) -> None:
    for words, options in (
        (["no view jbos", "jobs, batches"], ["--projection", "jbos"]),
        (["right would be a moment"], ["--until", "yesterday"]),
    ):
        done = fleet.run("replay", "--data", str(fleet.data), *options)
        assert done.returncode == 2
        assert [word for word in words if word not in done.stderr] == []
    done = fleet.run("replay", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "no log" in done.stderr


# views check


def test_views_check_ends_with_0_when_equal_and_with_1_and_the_first_difference_when_not(fleet: House) -> None:
    report = fleet.json("views", "check", "--data", str(fleet.data))
    assert report["equal"]
    assert {view["view"] for view in report["views"]} == set(versions())
    with closing(open_documents(f"sqlite://{fleet.data / 'views.db'}")) as documents:
        name = generation.live(documents)
        assert name is not None
        documents.namespace(name).put_many("scripts", [{"_id": "ghost", "_at": 0, "hash": "0" * 300}])
        done = fleet.run("views", "check", "--data", str(fleet.data), "--projection", "scripts")
        documents.namespace(name).delete_many("scripts", ["ghost"])
        left = [one for one in documents.list_namespaces() if one.startswith("check-")]
    assert (done.returncode, left) == (1, [])
    assert "The first is ghost:" in done.stdout
    assert "rebuilt  null" in done.stdout
    assert fleet.run("views", "check", "--data", str(fleet.data), "--projection", "job").returncode == 2
