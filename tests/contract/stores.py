"""Where the contract tests of the storage layer keep things: one new place for each use."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pymongo


class Clock:
    """Stands at the moment it was made, in seconds since 1970, until a test moves it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@contextmanager
def mongodb_database(url: str) -> Iterator[str]:
    """Give the address of a new database of the server, dropped at the end."""
    name = f"osis_{uuid.uuid4().hex[:12]}"
    parts = urlsplit(url)
    yield parts._replace(path=f"/{name}").geturl()
    with pymongo.MongoClient[dict[str, object]](url) as client:
        client.drop_database(name)


@contextmanager
def influxdb_database(url: str) -> Iterator[str]:
    """Give the address of a new database of the server, dropped at the end."""
    name = f"osis_{uuid.uuid4().hex[:12]}"
    yield urlsplit(url)._replace(path=f"/{name}").geturl()
    influxdb_say(url, f'DROP DATABASE "{name}"')


def influxdb_say(url: str, statement: str) -> None:
    """Run a statement as the user of the address."""
    parts = urlsplit(url)
    login = (parts.username or "", parts.password or "")
    address = f"http://{parts.hostname}:{parts.port}/query"
    httpx.post(address, data={"q": statement}, auth=login, trust_env=False).raise_for_status()
