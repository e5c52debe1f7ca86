"""SecantusDB: MongoDB's wire protocol over WiredTiger, from a Python package."""

import sys
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from tests.servers.server import Server


class SecantusDB(Server):
    """A SecantusDB server that asks for a login; `user` may do all."""

    name = "secantusdb"
    variable = "FLEETBUS_TEST_MONGODB_URL"

    @property
    def url(self) -> str:
        """The address without a database: tests make their own."""
        return f"mongodb://{self.user}:{self.password}@127.0.0.1:{self.port()}/?authSource=admin&directConnection=true"

    def command(self) -> list[str]:
        command = [sys.executable, "-m", "secantus", "--config", "secantusd.toml"]
        command += ["--host", "127.0.0.1", "--port", str(self.port())]
        command += ["--storage-path", str(self.directory / "data"), "--cache-size", "256M"]
        return command + (["--auth"] if self._has_user else [])

    def write_configuration(self) -> None:
        """Leave an empty file: without one the server would look for one elsewhere."""
        (self.directory / "secantusd.toml").touch()

    def is_ready(self) -> bool:
        try:
            with self._client() as client:
                client.admin.command("ping")
        except OperationFailure:
            raise
        except PyMongoError:
            return False
        return True

    def provision(self) -> None:
        """Make the user, which is possible only while no login is asked for; then ask for it."""
        with self._client() as client:
            client.admin.command("createUser", self.user, pwd=self.password, roles=["root"])
        (self.directory / "provisioned").touch()
        self.restart()

    @property
    def _has_user(self) -> bool:
        return (self.directory / "provisioned").exists()

    def _client(self) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(
            "127.0.0.1",
            self.port(),
            directConnection=True,
            serverSelectionTimeoutMS=2000,
            username=self.user if self._has_user else None,
            password=self.password if self._has_user else None,
        )
