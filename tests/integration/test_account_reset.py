"""`fleetbus account reset`: the way back in for whoever may touch the portal's storage."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from portal.accounts import Accounts
from projections.osis.open import open_documents
from tests.cli import invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with closing(open_documents(f"sqlite://{tmp_path}/views.db")) as documents:
        Accounts(documents).first_start()
    return tmp_path


def reset(*args: str) -> Result:
    return invoke("account", "reset", *args)


def test_a_new_password_is_printed_and_is_the_accounts_and_its_sessions_end(folder: Path) -> None:
    with closing(open_documents(f"sqlite://{folder}/views.db")) as documents:
        accounts = Accounts(documents)
        secret = accounts.open_session("admin").secret
        token = accounts.make_token("admin", "a program")
        done = reset("--data", str(folder))
        assert done.exit_code == 0, done.output
        assert accounts.check_password("admin", done.output.strip())
        assert accounts.by_session(secret) is None
        assert accounts.by_token(token) is not None


def test_another_account_is_made(folder: Path) -> None:
    done = reset("alice", "--data", str(folder), "--json")
    said = json.loads(done.output)
    with closing(open_documents(f"sqlite://{folder}/views.db")) as documents:
        assert Accounts(documents).check_password(said["account"], said["password"])
        assert said["account"] == "alice"


def test_a_name_that_cannot_be_and_a_folder_without_accounts_are_said(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wrong = reset("no such name", "--data", str(folder))
    assert (wrong.exit_code, "no name for an account" in wrong.output) == (2, True)
    empty = reset("--data", str(tmp_path_factory.mktemp("empty")))
    assert (empty.exit_code, "there are no accounts" in empty.output) == (2, True)
