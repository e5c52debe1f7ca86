"""The examples are run as a reader would run them: against a real portal, and over AMQP against a real broker."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.actors import PORTAL, service_user
from portal.accounts import Accounts
from tests.contract.bus_contract import RabbitEngine, read_some
from tests.portal_house import Doing, House
from tests.servers.management import Management

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "client" / "examples"
HOW_TO = (ROOT / "docs/how-to/publish-from-a-service.md").read_text()
PAID = "event.billing.invoice.paid"

#: How each example is run.
SHELL, NODE, PYTHON = ["sh"], ["node"], [sys.executable]

# they run programs of the distribution that only the whole test suite installs
pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as found:
        found.agent("n1", does=lambda job: Doing(result={"cpus": 4}))
        found.publish("facts")
        yield found


def run(program: list[str], file: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("FLEETBUS_")}
    return subprocess.run(
        [*program, str(EXAMPLES / file), *args],
        env={**mine, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def at(house: House) -> dict[str, str]:
    """Where the portal is, and a token of the service billing."""
    token = Accounts(house.documents).make_token("admin", "example", "billing")
    return {"FLEETBUS_URL": house.url, "FLEETBUS_TOKEN": token}


@pytest.mark.parametrize(("program", "file", "args"), [(SHELL, "publish.sh", []), (NODE, "fleetbus.mjs", ["publish"])])
def test_a_fact_is_told(house: House, program: list[str], file: str, args: list[str]) -> None:
    done = run(program, file, *args, **at(house))
    assert (done.returncode, done.stderr) == (0, "")
    (id,) = re.findall(r"[0-9a-f-]{36}", done.stdout)
    house.wait(lambda: house.api.get(f"/events/{id}").status_code == 200, "the fact in the views")
    event = house.api.get(f"/events/{id}").json()["event"]
    assert (event["type"], event["actor"], event["data"]) == (PAID, "service:billing", {"amount": 12.5})


@pytest.mark.parametrize(
    ("program", "file", "args"), [(SHELL, "run.sh", []), (NODE, "fleetbus.mjs", ["run"]), (PYTHON, "run.py", [])]
)
def test_a_script_is_run_and_its_result_comes_back(
    house: House, program: list[str], file: str, args: list[str]
) -> None:
    done = run(program, file, *args, "facts", "n1", **at(house))
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    result = answer.get("job", answer).get("result", answer)
    assert result == {"cpus": 4}


@pytest.mark.parametrize(
    ("program", "file", "args"), [(SHELL, "run.sh", []), (NODE, "fleetbus.mjs", ["run"]), (PYTHON, "run.py", [])]
)
def test_what_the_fleet_rejects_is_said_and_ends_with_an_error(
    house: House, program: list[str], file: str, args: list[str]
) -> None:
    done = run(program, file, *args, "fcats", "n1", **at(house))
    assert done.returncode != 0
    assert "fcats" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_fact_is_told_over_amqp(rabbitmq_management: Management, amqp_vhost: str) -> None:
    engine = RabbitEngine(rabbitmq_management, amqp_vhost)
    try:
        done = run(PYTHON, "publish.py", FLEETBUS_BUS_URL=engine.url(service_user("billing")))
        assert (done.returncode, done.stderr) == (0, "")
        with engine.bus(PORTAL).stream("log").read_from("first") as reader:
            records = read_some(reader, 2)
        assert [json.loads(record.body)["id"] for record in records if record.key == PAID] == [done.stdout.strip()]
    finally:
        engine.close()


@pytest.mark.parametrize("file", sorted(path.name for path in EXAMPLES.iterdir() if path.is_file()))
def test_the_page_shows_what_is_run_here(file: str) -> None:
    text = (EXAMPLES / file).read_text()
    if file == "fleetbus.mjs":
        assert f"client/examples/{file}" in HOW_TO
    else:
        assert text in HOW_TO
