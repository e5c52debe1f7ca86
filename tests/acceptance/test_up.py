"""`fleetbus up`: one command makes the machine a node; what is killed comes back; what stops leaves nothing behind."""

import json
import signal
import socket
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.house import SERVICES, House
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SLOW = """descr = "Leaves a mark for each time it runs, and takes its time."

def action(mark: str, seconds: float = 1.0) -> str:
    import time
    with open(mark, "a") as file:
        file.write("ran\\n")
    time.sleep(seconds)
    return "slept"
"""


def test_the_first_start_shows_address_and_login_and_makes_this_machine_a_node(own_house: House) -> None:
    own_house.start()
    assert own_house.url in own_house.output
    assert len(own_house.password) >= 16
    (node,) = own_house.json("node", "list")
    assert node["state"] == "online"
    (facts,) = own_house.json("job", "list", "--script", "facts")
    assert facts["by"] == f"node:{node['id']}"
    assert facts["result"]["cpu"]["count"] == psutil.cpu_count()
    assert facts["result"]["memory"]["total_bytes"] == psutil.virtual_memory().total
    page = node_page(own_house, node["id"])
    for words in (facts["result"]["os"]["name"], facts["result"]["hostname"]):
        assert words in page


def node_page(house: House, node: str) -> str:
    """As a person with the login that was shown sees it."""
    with httpx.Client(base_url=house.url, follow_redirects=True, trust_env=False) as browser:
        form = browser.get("/login").text
        csrf = form.split('name="csrf" value="')[1].split('"')[0]
        answer = browser.post("/login", data={"account": "admin", "password": house.password, "csrf": csrf})
        assert answer.status_code == 200, answer.text
        return browser.get(f"/nodes/{node}").text


def test_the_password_is_shown_at_the_first_start_only_and_everything_is_kept(own_house: House) -> None:
    own_house.start()
    first = own_house.password
    known = {job["id"] for job in own_house.json("job", "list")}
    assert own_house.stop() == 0
    own_house.start()
    assert own_house.password == ""
    assert first not in own_house.output
    assert known <= {job["id"] for job in own_house.json("job", "list")}


def test_a_script_that_somebody_made_of_a_bundled_one_stays(own_house: House) -> None:
    own_house.start()
    own = own_house.publish("top", 'descr = "Mine."\n\ndef action() -> int:\n    return 7\n')
    assert own_house.stop() == 0
    own_house.start()
    assert own_house.json("script", "show", "top")["hash"] == own


def test_without_an_agent_there_is_no_node(own_house: House) -> None:
    own_house.start("--no-agent")
    assert own_house.json("node", "list") == []
    assert set(own_house.children()) == set(SERVICES) - {"agent"}
    done = own_house.run("run", "facts")
    assert done.returncode == 2
    assert "fleetbus node invite" in done.stderr


def test_ctrl_c_stops_all_of_it_and_commands_find_nobody(own_house: House) -> None:
    own_house.start()
    children = list(own_house.children().values())
    assert len(children) == len(SERVICES)
    assert own_house.stop() == 0
    assert [child for child in children if child.is_running()] == []
    done = own_house.run("node", "list")
    assert done.returncode == 3
    assert "fleetbus up" in done.stderr


def test_when_up_is_killed_its_services_die_with_it(own_house: House) -> None:
    own_house.start()
    children = list(own_house.children().values())
    own_house.kill()
    wait_until(
        lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children),
        deadline=20,
        what="the services to die",
    )
    own_house.start()
    # the seat of the killed handlers is theirs for some seconds more
    wait_until(lambda: own_house.run("run", "facts").returncode == 0, deadline=60, what="the new ones to work")


@pytest.mark.chaos
@pytest.mark.parametrize("service", ["handlers", "projections", "portal"])
def test_a_service_that_is_killed_comes_back_and_work_goes_on(own_house: House, service: str) -> None:
    own_house.start()
    own_house.publish("slow", SLOW)
    mark = own_house.folder / "mark"
    running = own_house.begin("run", "slow", "--json", "--arg", f"mark={mark}", "--arg", "seconds=4")
    wait_until(mark.exists, deadline=30, what="the job to begin")
    killed = own_house.children()[service]
    killed.kill()
    out, err = running.communicate(timeout=90)
    assert running.returncode == 0, err
    assert json.loads(out)["result"] == "slept"
    wait_until(lambda: comes_back(own_house, service, killed.pid), deadline=60, what=f"{service} to come back")
    # it is there before it does its work
    wait_until(lambda: own_house.run("run", "facts").returncode == 0, deadline=60, what="work to go on")
    assert mark.read_text() == "ran\n"


@pytest.mark.chaos
def test_an_agent_that_is_killed_comes_back_and_says_what_became_of_its_job(own_house: House) -> None:
    own_house.start()
    own_house.publish("slow", SLOW)
    mark = own_house.folder / "mark"
    running = own_house.begin("run", "slow", "--json", "--arg", f"mark={mark}", "--arg", "seconds=60")
    wait_until(mark.exists, deadline=30, what="the job to begin")
    own_house.children()["agent"].kill()
    out, err = running.communicate(timeout=90)
    assert running.returncode == 1, err
    job = json.loads(out)
    assert job["state"] == "failed"
    assert "agent" in job["failure"]["error"]
    assert mark.read_text() == "ran\n"
    assert own_house.run("run", "facts").returncode == 0


def comes_back(house: House, service: str, before: int) -> bool:
    child = house.children().get(service)
    return child is not None and child.pid != before


def test_two_ups_in_one_folder_are_refused(house: House) -> None:
    second = House(house.folder)
    done = second.run("up", "--data", str(house.data), "--port", str(second.port))
    assert done.returncode == 3
    assert f"process {house.process and house.process.pid}" in done.stderr
    assert str(house.data) in done.stderr


def test_a_port_that_is_in_use_is_named_with_who_uses_it(tmp_path: Path) -> None:
    stranger = House(tmp_path)
    with closing(socket.create_server(("127.0.0.1", stranger.port))):
        done = stranger.run("up", "--data", str(stranger.data), "--port", str(stranger.port))
    assert done.returncode == 3
    assert f"port {stranger.port}" in done.stderr
    assert "--port" in done.stderr
    assert "password" not in done.stdout


def test_commands_go_to_the_house_while_it_runs_and_then_where_they_went_before(own_house: House) -> None:
    config = own_house.folder / "config" / "fleetbus" / "credentials.json"
    config.parent.mkdir(mode=0o700, parents=True)
    before = {"fleets": [{"url": "http://production", "token": "t"}], "current": "http://production"}
    config.write_text(json.dumps(before))
    config.chmod(0o600)
    own_house.start("--no-agent")
    assert json.loads(config.read_text())["current"] == own_house.url
    assert own_house.stop() == 0
    assert json.loads(config.read_text())["current"] == "http://production"


def test_no_secret_is_in_the_process_list_or_the_logs(house: House) -> None:
    book = json.loads((house.data / "credentials.json").read_text())
    secrets = [house.password, book["fleets"][0]["token"]]
    processes = [house.process.pid if house.process else 0, *(child.pid for child in house.children().values())]
    shown = "\n".join(" ".join(psutil.Process(pid).cmdline()) for pid in processes)
    shown += "\n".join(path.read_text() for path in (house.data / "logs").iterdir())
    assert [secret for secret in secrets if secret in shown] == []


def test_a_service_that_is_frozen_does_not_keep_up_from_stopping(own_house: House) -> None:
    own_house.start("--no-agent")
    frozen = own_house.children()["handlers"]
    frozen.send_signal(signal.SIGSTOP)
    assert own_house.stop() == 0
    assert not frozen.is_running()
