"""The adapters of each storage port, one after the other."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from projections.osis.documents import Documents, Namespace
from projections.osis.live import Live
from projections.osis.memory_live import MemoryLive
from projections.osis.mongo_documents import MongoDocuments
from projections.osis.redis_live import RedisLive
from projections.osis.sqlite_documents import SqliteDocuments
from tests.contract.stores import Clock, mongodb_database

ON_DOCUMENTS = ["sqlite", pytest.param("mongodb", marks=pytest.mark.servers)]
ON_LIVE = ["memory", pytest.param("redis", marks=pytest.mark.servers)]


@pytest.fixture(scope="module", params=ON_DOCUMENTS)
def documents_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Storage for documents that only this module knows."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path_factory.mktemp('osis')}/views.db"
        return
    with mongodb_database(request.getfixturevalue("mongodb_url")) as url:
        yield url


@pytest.fixture(scope="module")
def clock() -> Clock:
    """What the module's adapters take for the time; it stands still until it is moved."""
    return Clock()


@pytest.fixture(scope="module")
def documents(documents_url: str, clock: Clock) -> Iterator[Documents]:
    """The adapter of that storage."""
    opened = _documents(documents_url, clock)
    yield opened
    opened.close()


@pytest.fixture
def views(documents: Documents) -> Iterator[Namespace]:
    """A namespace that only this test knows."""
    namespace = documents.namespace(f"test-{uuid.uuid4().hex[:12]}")
    yield namespace
    documents.drop_namespace(namespace.name)


@pytest.fixture(params=ON_LIVE)
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    """Live data that only this test knows."""
    opened: Live = MemoryLive()
    if request.param == "redis":
        opened = RedisLive(request.getfixturevalue("redis_url"), f"test-{uuid.uuid4().hex[:12]}")
    yield opened
    opened.close()


def _documents(url: str, clock: Callable[[], float]) -> Documents:
    if url.startswith("sqlite://"):
        return SqliteDocuments(Path(url.removeprefix("sqlite://")), clock)
    return MongoDocuments(url, clock)
