"""Settings, credentials and logs: what steers the program, and what must not get out of it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetbus import credentials, logs, settings
from fleetbus.cli import cli
from fleetbus.credentials import Book, Fleet
from fleetbus.datafolder import DataFolder, id_from_hostname
from fleetbus.errors import NotReached, Wrong
from fleetbus.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_an_empty_environment_gives_the_defaults() -> None:
    found = settings.from_environment({})
    assert (found.host, found.port, found.live_url) == ("127.0.0.1", 8000, "memory://")


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("FLEETBUS_BUS_URL", "http://broker", "amqp://"),
        ("FLEETBUS_STREAM_URL", "rabbitmq-stream://user:secret@broker:5552", "rabbitmq-stream://HOST:PORT"),
        ("FLEETBUS_STREAM_URL", "amqp://broker", "rabbitmq-stream://HOST:PORT"),
        ("FLEETBUS_DOCUMENTS_URL", "/var/lib/views.db", "mongodb://"),
        ("FLEETBUS_PORT", "http", "1 to 65535"),
        ("FLEETBUS_PORT", "70000", "1 to 65535"),
        ("FLEETBUS_LOG", "loud", "console or json"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(name: str, value: str, right: str) -> None:
    with pytest.raises(Wrong) as error:
        settings.from_environment({name: value})
    assert name in error.value.message
    assert right in error.value.message


def test_the_password_of_a_url_that_does_not_fit_is_not_repeated() -> None:
    with pytest.raises(Wrong) as error:
        settings.from_environment({"FLEETBUS_BUS_URL": "ampq://handlers:hunter2@broker"})
    assert "hunter2" not in error.value.message + " ".join(error.value.hints)


def test_storage_without_a_url_lies_in_the_data_folder() -> None:
    found = settings.located(Settings(data=Path("/srv/a fleet"), documents_url="mongodb://m/db"))
    assert found.bus_url == "sqlite:///srv/a%20fleet/bus"
    assert found.documents_url == "mongodb://m/db"


def test_a_variable_that_is_nearly_one_of_ours_is_pointed_out() -> None:
    assert settings.likely_typos({"FLEETBUS_BUSURL": "x", "FLEETBUS_JOB_ID": "x", "FLEETBUS_JOIN_TOKEN": "x"}) == {
        "FLEETBUS_BUSURL": "FLEETBUS_BUS_URL"
    }


def test_every_variable_is_in_the_help() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert [variable.name for variable in settings.VARIABLES if variable.name not in shown] == []


def test_every_command_has_a_help_of_its_own() -> None:
    for command in cli.list_commands(None):  # type: ignore[arg-type]
        answer = CliRunner().invoke(cli, [command, "--help"])
        assert answer.exit_code == 0, answer.output


def test_an_unknown_command_is_answered_with_the_one_that_was_meant() -> None:
    answer = CliRunner().invoke(cli, ["nodes"])
    assert answer.exit_code == 2
    assert "did you mean node?" in answer.output


def test_client_commands_import_no_server_library() -> None:
    program = (
        "import sys; from fleetbus.cli import main\n"
        "try: main(['node', 'list', '--url', 'http://127.0.0.1:9'])\n"
        "except SystemExit as end: print(end.code)\n"
        "heavy = {'falcon', 'uvicorn', 'pika', 'pymongo', 'redis', 'influxdb', 'structlog', 'argon2', 'zmq', 'kombu'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["3", "[]"], done.stderr


# credentials


def test_the_credentials_are_for_their_owner_alone(home: Path) -> None:
    credentials.remember(credentials.config_file(), Fleet("http://127.0.0.1:8000", "secret"))
    assert stat.S_IMODE(credentials.config_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials.config_file().parent.stat().st_mode) == 0o700


def test_credentials_that_others_can_read_are_refused() -> None:
    credentials.remember(credentials.config_file(), Fleet("http://127.0.0.1:8000", "secret"))
    credentials.config_file().chmod(0o644)
    with pytest.raises(NotReached, match="others can read"):
        credentials.find(Settings())


def test_the_fleet_that_was_remembered_last_is_where_commands_go() -> None:
    credentials.remember(credentials.config_file(), Fleet("http://one", "1"))
    credentials.remember(credentials.config_file(), Fleet("http://two", "2"))
    assert credentials.find(Settings()) == Fleet("http://two", "2")
    assert credentials.find(Settings(url="http://one")) == Fleet("http://one", "1")
    assert credentials.find(Settings(url="http://one"), token="given") == Fleet("http://one", "given")


def test_a_token_is_never_sent_to_another_address() -> None:
    credentials.remember(credentials.config_file(), Fleet("http://one", "1"))
    assert credentials.find(Settings(), url="http://elsewhere").token == ""


def test_all_names_of_the_loopback_are_one() -> None:
    credentials.remember(credentials.config_file(), Fleet("http://127.0.0.1:8000", "1"))
    assert credentials.find(Settings(url="http://localhost:8000/")).token == "1"
    assert credentials.find(Settings(url="http://localhost:8001")).token == ""


def test_when_a_fleet_ends_commands_go_where_they_went_before() -> None:
    book = Book().with_fleet(Fleet("http://one", "1")).with_fleet(Fleet("http://two", "2"))
    assert book.with_fleet(Fleet("http://two", "2")).without_current("http://two").current == "http://one"
    assert book.without_current("http://one").current == "http://two"


def test_the_data_folder_goes_before_the_persons_own_file(home: Path) -> None:
    credentials.remember(credentials.config_file(), Fleet("http://one", "1"))
    credentials.remember(home / "data" / credentials.FILE, Fleet("http://two", "2"))
    assert credentials.find(Settings(data=home / "data")) == Fleet("http://two", "2")


# the data folder


def test_a_data_folder_is_held_by_one_process_at_a_time(home: Path) -> None:
    first, second = DataFolder(home / "data"), DataFolder(home / "data")
    with first.held(), pytest.raises(NotReached, match=f"process {os.getpid()}"), second.held():
        pass
    with second.held():
        pass


@pytest.mark.parametrize(
    ("hostname", "id"), [("Web_01.example.org", "web-01"), ("-x-", "x"), ("ü", "node"), ("a" * 80, "a" * 63)]
)
def test_a_hostname_becomes_the_id_of_a_node(hostname: str, id: str) -> None:
    assert id_from_hostname(hostname) == id


def test_the_id_of_a_node_stays_when_the_machine_gets_another_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "first")
    with DataFolder(home / "data").held():
        assert DataFolder(home / "data").node() == "first"
        monkeypatch.setattr("socket.gethostname", lambda: "second")
        assert DataFolder(home / "data").node() == "first"


# logs


def test_logs_hold_neither_passwords_of_urls_nor_tokens() -> None:
    found = logs.hide_secrets(
        None, "info", {"event": "at amqp://u:hunter2@host/v", "api_token": "fb_x", "password": "hunter2", "node": "n1"}
    )
    assert "hunter2" not in json.dumps(found)
    assert "fb_x" not in json.dumps(found)
    assert found["node"] == "n1"
    assert "amqp://u:***@host/v" in found["event"]
