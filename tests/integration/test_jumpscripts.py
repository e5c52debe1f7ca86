"""The scripts that come with fleetbus, each run by a real worker, as on a node."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from events.header import check_params, parse_header
from jumpscripts import bundled, machines
from nodeagent.outcome import Failed, Outcome, Succeeded
from nodeagent.work import Finished, QueueSpec
from tests.integration.pools import Pool

SOURCES = {script.name: script.source for script in bundled()}
NAMES = [
    "disk_usage",
    "facts",
    "log_tail",
    "machines",
    "network_check",
    "package_upgrades",
    "processes",
    "service_status",
    "shell",
    "top",
]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool({"default": QueueSpec(size=1, limit=60)}) as pool:
        yield pool


def run(pool: Pool, name: str, /, **params: Any) -> Finished:
    header = parse_header(SOURCES[name], name)
    assert check_params(header, params) == []
    return pool.end_of(pool.submit_source(name, SOURCES[name], queue="default", params=params, timeout=header.timeout))


def result(pool: Pool, name: str, /, **params: Any) -> Any:
    finished = run(pool, name, **params)
    assert isinstance(finished.outcome, Succeeded), finished
    return finished.outcome.value


@contextmanager
def background(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def error(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return outcome.error


# ------------------------------------------------------------------------------- headers


def test_all_scripts_of_day_one_are_there() -> None:
    assert [script.name for script in bundled()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_script_has_a_header_that_says_what_it_does(name: str) -> None:
    header = parse_header(SOURCES[name], f"{name}.py")
    assert header.name == name
    assert header.organization == "fleetbus"
    assert all(param.descr for param in header.params), "every parameter is described"


def test_only_shell_needs_to_be_allowed() -> None:
    assert {name for name in NAMES if parse_header(SOURCES[name], name).requires} == {"shell"}
    assert parse_header(SOURCES["shell"], "shell").requires == ("shell",)


def test_facts_runs_by_itself_when_the_agent_starts() -> None:
    header = parse_header(SOURCES["facts"], "facts")
    assert header.startatboot
    assert header.runs_by_itself


# --------------------------------------------------------------------------------- facts


@pytest.fixture(scope="module")
def facts(pool: Pool) -> Any:
    return result(pool, "facts")


def test_facts_tells_the_true_processors_memory_and_system(facts: Any) -> None:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert facts["cpu"]["count"] == os.cpu_count()
    assert facts["cpu"]["usable"] == len(os.sched_getaffinity(0))
    assert facts["memory"]["total_bytes"] == int(memory.split()[1]) * 1024
    assert facts["os"]["name"] == release["PRETTY_NAME"].strip('"')
    assert facts["os"]["kernel"] == os.uname().release
    assert facts["hostname"] == socket.gethostname()
    assert abs(facts["uptime_seconds"] - float(Path("/proc/uptime").read_text().split()[0])) < 60


def test_facts_tells_the_true_disks(facts: Any) -> None:
    listing = subprocess.run(["lsblk", "-Jbo", "NAME,TYPE,SIZE"], capture_output=True, check=True).stdout
    sizes = {row["name"]: row["size"] for row in json.loads(listing)["blockdevices"] if row["type"] == "disk"}
    told = {disk["name"]: disk["size_bytes"] for disk in facts["disks"]}
    assert told == {name: size for name, size in sizes.items() if name in told}
    assert set(sizes) - set(told) <= {name for name in sizes if name.startswith("zram") or not sizes[name]}
    root = next(system for system in facts["filesystems"] if system["mountpoint"] == "/")
    assert root["total_bytes"] == shutil.disk_usage("/").total


def test_facts_tells_the_true_network(facts: Any) -> None:
    nics = {nic["name"]: nic for nic in facts["nics"]}
    assert set(nics) == {place.name for place in Path("/sys/class/net").iterdir() if place.is_dir()}
    assert "127.0.0.1" in nics["lo"]["addresses"]
    for name, nic in nics.items():
        mac = Path(f"/sys/class/net/{name}/address").read_text().strip()
        assert (nic["mac"] or "00:00:00:00:00:00") == mac
        assert nic["mtu"] == int(Path(f"/sys/class/net/{name}/mtu").read_text())


# ---------------------------------------------------------------------------- processes


def test_processes_finds_filters_and_sorts(pool: Pool) -> None:
    found = result(pool, "processes", name="python", sort="pid", limit=1000)
    pids = [row["pid"] for row in found["processes"]]
    assert os.getpid() in pids
    assert pids == sorted(pids)
    assert found["matching"] == len(pids)
    assert all("python" in row["name"] and "arguments" not in row for row in found["processes"])


def test_processes_shows_command_lines_only_when_asked(pool: Pool) -> None:
    with background("sleep", "1234"):
        found = result(pool, "processes", name="sleep", arguments=True, limit=100)
    assert ["sleep", "1234"] in [row["arguments"] for row in found["processes"]]


def test_processes_of_a_user_by_memory(pool: Pool) -> None:
    user = psutil.Process().username()
    found = result(pool, "processes", user=user, sort="memory", limit=5)["processes"]
    assert 0 < len(found) <= 5
    assert [row["memory_bytes"] for row in found] == sorted((row["memory_bytes"] for row in found), reverse=True)
    assert {row["user"] for row in found} == {user}


def test_top_finds_who_keeps_the_machine_busy(pool: Pool) -> None:
    with background(sys.executable, "-c", "while True: pass") as busy:
        found = result(pool, "top", seconds=0.5, limit=1000)
    assert len(found["cpu_percent"]) == os.cpu_count()
    assert next(row for row in found["by_cpu"] if row["pid"] == busy.pid)["cpu_percent"] > 0
    assert found["memory"]["total_bytes"] == psutil.virtual_memory().total
    assert found["processes"] == len(found["by_memory"])


def test_top_refuses_an_interval_without_end(pool: Pool) -> None:
    assert "at most 60" in error(run(pool, "top", seconds=3600).outcome)


# ------------------------------------------------------------------------- disks and logs


def test_disk_usage_is_ok_below_the_threshold_and_warns_above(pool: Pool) -> None:
    calm = result(pool, "disk_usage", warn_percent=101)
    assert calm["state"] == "ok"
    assert "/" in [system["mountpoint"] for system in calm["filesystems"]]
    alarmed = run(pool, "disk_usage", warn_percent=0, mountpoint="/")
    assert isinstance(alarmed.outcome, Succeeded)
    assert alarmed.outcome.value["state"] == "warning"
    assert alarmed.output.head[0].text.startswith("/: ")
    assert alarmed.output.head[0].stream == "e"


def test_disk_usage_agrees_with_df(pool: Pool) -> None:
    (root,) = result(pool, "disk_usage", mountpoint="/")["filesystems"]
    said = subprocess.run(["df", "--output=pcent", "/"], capture_output=True, text=True, check=True).stdout
    assert abs(root["used_percent"] - int(said.split()[-1].rstrip("%"))) <= 2
    assert root["total_bytes"] == shutil.disk_usage("/").total


@pytest.mark.parametrize("count", [1, 5, 100_000])
@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_log_tail_gives_the_last_lines(pool: Pool, tmp_path: Path, count: int, ending: str) -> None:
    log = tmp_path / "app.log"
    log.write_text("\n".join(f"line {n} of the log ä" for n in range(count)) + ending)
    expected = log.read_text().splitlines()
    assert result(pool, "log_tail", path=str(log), lines=7)["lines"] == expected[-7:]
    numbered = [line for line in expected if "3 of" in line]
    assert result(pool, "log_tail", path=str(log), lines=3, pattern=r"\w*3 of")["lines"] == numbered[-3:]


def test_log_tail_of_an_empty_file_is_empty(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert result(pool, "log_tail", path=str(tmp_path / "empty"))["lines"] == []


def test_log_tail_refuses_what_is_no_regular_file(pool: Pool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        assert "is no regular file" in error(run(pool, "log_tail", path=path).outcome)
    assert "must be absolute" in error(run(pool, "log_tail", path="app.log").outcome)
    assert "No such file" in error(run(pool, "log_tail", path="/not/there").outcome)
    assert "1 to 10000" in error(run(pool, "log_tail", path="/not/there", lines=0).outcome)


def test_log_tail_reads_the_journal_where_there_is_one(pool: Pool) -> None:
    finished = run(pool, "log_tail", path="journal", lines=5)
    if shutil.which("journalctl"):
        assert isinstance(finished.outcome, Succeeded)
        assert len(finished.outcome.value["lines"]) <= 5
    else:
        assert "no systemd journal" in error(finished.outcome)


# ------------------------------------------------------------------------------- network


def test_network_check_connects_and_resolves(pool: Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        port, dead = server.getsockname()[1], closed.getsockname()[1]
        closed.close()
        targets = [
            f"127.0.0.1:{port}",
            f"localhost:{port}",
            "localhost",
            f"127.0.0.1:{dead}",
            "no-such-host.invalid",
            "a:b",
        ]
        found = result(pool, "network_check", targets=targets)
    assert not found["ok"]
    assert [check["ok"] for check in found["checks"]] == [True, True, True, False, False, False]
    assert found["checks"][0]["address"] == "127.0.0.1"
    assert "127.0.0.1" in found["checks"][2]["addresses"]
    assert found["checks"][3]["error"] == "Connection refused"
    assert "host:port" in found["checks"][5]["error"]


def test_network_check_takes_ipv6(pool: Pool) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        found = result(pool, "network_check", targets=[f"[::1]:{server.getsockname()[1]}", "::1"])
    assert found["ok"], found


# ---------------------------------------------------------------------- other programs


def test_service_status_asks_systemd_or_says_that_there_is_none(pool: Pool) -> None:
    found = result(pool, "service_status", names=["ssh"])
    state = (
        shutil.which("systemctl")
        and subprocess.run(
            ["systemctl", "is-system-running"], capture_output=True, text=True, check=False
        ).stdout.strip()
    )
    if state in {None, "", "offline", "unknown"}:
        assert found["manager"] is None
        assert "systemd" in found["reason"]
    else:
        assert [service["unit"] for service in found["services"]] == ["ssh.service"]


FAKE_SYSTEMCTL = """#!/bin/sh
case "$1" in
is-system-running) echo degraded; exit 1 ;;
list-units) echo "broken.service loaded failed failed A broken one" ;;
show) shift; while [ "$1" != -- ]; do shift; done
      echo "Id=$2"; echo "ActiveState=failed"; echo "MainPID=0"; echo "NRestarts=3"; echo "Description=A = B" ;;
esac
"""


def test_service_status_lists_what_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text(FAKE_SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Pool({"default": QueueSpec(1, 60)}) as pool:
        found = result(pool, "service_status")
        assert found["ok"] is False
        (service,) = found["services"]
        assert (service["unit"], service["active"], service["restarts"]) == ("broken.service", "failed", 3)
        assert (service["pid"], service["description"]) == (None, "A = B")
        assert "is no name of a service" in error(run(pool, "service_status", names=["--all"]).outcome)


FAKE_APT = """#!/bin/sh
echo 'Listing...'
echo 'curl/oldstable-security,oldstable 7.88.1-10+deb12u12 amd64 [upgradable from: 7.88.1-10+deb12u8]'
echo 'vim-common/oldstable 2:9.0.1378-2+deb12u2 all [upgradable from: 2:9.0.1378-2]'
echo 'WARNING: apt does not have a stable CLI interface.' >&2
"""


def test_package_upgrades_reads_what_apt_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "apt"
    program.write_text(FAKE_APT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Pool({"default": QueueSpec(1, 60)}) as pool:
        found = result(pool, "package_upgrades")
    assert (found["upgrades"], found["security"]) == (2, 1)
    assert found["packages"][0] == {
        "name": "curl",
        "from": "7.88.1-10+deb12u8",
        "to": "7.88.1-10+deb12u12",
        "architecture": "amd64",
        "security": True,
    }


def test_package_upgrades_asks_the_real_apt_or_says_that_there_is_none(pool: Pool) -> None:
    finished = run(pool, "package_upgrades")
    if shutil.which("apt"):
        assert isinstance(finished.outcome, Succeeded)
        assert finished.outcome.value["upgrades"] == len(finished.outcome.value["packages"])
    else:
        assert "no apt" in error(finished.outcome)


@pytest.mark.servers
def test_machines_lists_libvirts_test_machine(pool: Pool) -> None:
    finished = run(pool, "machines", uri="test:///default")
    assert isinstance(finished.outcome, Succeeded), finished
    (machine,) = finished.outcome.value["machines"]
    assert (machine["name"], machine["state"], machine["processors"]) == ("test", "running", 2)
    assert machine["memory_bytes"] == 2 * 1024**3
    assert finished.output.lines == 0


@pytest.mark.servers
def test_machines_says_which_hypervisor_cannot_be_reached(pool: Pool) -> None:
    assert "cannot reach the hypervisor nonsense:///x" in error(run(pool, "machines", uri="nonsense:///x").outcome)


def test_machines_says_what_to_install_where_libvirt_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(SystemExit, match="extra `hypervisor`"):
        machines.action()


# --------------------------------------------------------------------------------- shell


def test_shell_runs_a_program_and_shows_its_output(pool: Pool, tmp_path: Path) -> None:
    finished = run(
        pool, "shell", argv=["sh", "-c", "pwd; cat; echo oops >&2"], directory=str(tmp_path), input="typed\n"
    )
    assert isinstance(finished.outcome, Succeeded)
    assert finished.outcome.value == {"exit_code": 0}
    assert [line.text for line in finished.output.kept() if line.stream == "o"] == [str(tmp_path), "typed"]
    assert [line.text for line in finished.output.kept() if line.stream == "e"] == ["oops"]


def test_shell_puts_no_shell_between(pool: Pool) -> None:
    finished = run(pool, "shell", argv=["echo", "$HOME; ls", "*"])
    assert [line.text for line in finished.output.kept()] == ["$HOME; ls *"]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["sh", "-c", "exit 3"], "sh ended with exit code 3"),
        (["sh", "-c", "kill -9 $$"], "sh ended with signal 9"),
        (["/not/there"], "cannot run /not/there: /not/there: No such file or directory"),
        ([], "must be a list of texts"),
        (["echo", 1], "must be a list of texts"),
    ],
)
def test_shell_fails_with_how_the_program_ended(pool: Pool, argv: list[Any], part: str) -> None:
    finished = run(pool, "shell", argv=argv)
    assert part in error(finished.outcome)


def test_shell_ends_with_its_job(pool: Pool) -> None:
    job = pool.submit_source(
        "shell", SOURCES["shell"], queue="default", params={"argv": ["sh", "-c", "echo $$; sleep 1000"]}
    )
    pid = int(pool.line_of(job).text)
    pool.pool.cancel(job)
    pool.end_of(job)
    assert not psutil.pid_exists(pid)
