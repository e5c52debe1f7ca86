"""The runner on RabbitMQ and documents on MongoDB's protocol: the same views, to the last byte, as on one machine."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from events.actors import PROJECTIONS as USER
from projections.admission_store import AdmissionStore, load_admission
from projections.freshness import view_status, wait_at_least
from projections.osis.documents import Documents
from projections.osis.mongo_documents import MongoDocuments
from projections.osis.sqlite_documents import SqliteDocuments
from projections.replay import digests, replay
from tests.contract.bus_contract import RabbitEngine
from tests.contract.stores import mongodb_database
from tests.folding import fold_log
from tests.projecting import live, running, seen
from tests.servers.management import Management
from tests.stories import Story
from tests.waiting import wait_until


@pytest.fixture
def engine(rabbitmq_management: Management, amqp_vhost: str) -> Iterator[RabbitEngine]:
    made = RabbitEngine(rabbitmq_management, amqp_vhost)
    yield made
    made.close()


@pytest.fixture
def documents(mongodb_url: str) -> Iterator[Documents]:
    with mongodb_database(mongodb_url) as url, closing(MongoDocuments(url)) as opened:
        yield opened


def story_of(jobs: int) -> Story:
    """With some garbage that a broker lets through."""
    story = Story()
    story.script("facts")
    nodes = ["n1", "n2"]
    for node in nodes:
        story.node(node, roles=("cpu",))
    for n in range(jobs):
        job = story.job("facts", node=nodes[n % 2], params={"n": n})
        story.started(job)
        story.finished(job, result={"n": n, "huge": 2**63 + n})
        story.raw(b"not json \x00\xff", user="portal")
        story.again(story.tick())
        story.batch("facts", nodes, size=1)
        story.later(100)
    return story


def test_what_is_on_the_broker_is_seen_and_replay_gives_the_same(
    engine: RabbitEngine, documents: Documents, tmp_path: Path
) -> None:
    story = story_of(jobs=12)
    whole, story.said = story.said, story.said[:40]
    story.publish(engine.bus)
    with running(engine.bus(USER), documents):
        wait_until(lambda: view_status(documents).next_offset >= 40, deadline=30, what="the first half")
        first = live(documents)
        story.said = whole
        story.publish(engine.bus)
        assert wait_at_least(documents, view_status(documents).log, len(whole), timeout=30)
        followed = digests(live(documents))
        assert live(documents).name == first.name

    report = replay(engine.bus(USER), documents)
    with closing(SqliteDocuments(tmp_path / "views.db")) as on_sqlite:
        replay(engine.bus(USER), on_sqlite)
        there = digests(live(on_sqlite))
        assert seen(live(documents)) == seen(live(on_sqlite))

    # what no storage can keep is tamed, so whole documents are those of the storage
    jobs, expected = seen(live(documents))["jobs"], fold_log(story.records())["jobs"]
    assert {id: (job["state"], job["_at"]) for id, job in jobs.items()} == {
        id: (job["state"], job["_at"]) for id, job in expected.items()
    }
    assert digests(documents.namespace(report.generation)) == followed == there
    found = load_admission(documents)
    assert found is not None
    assert found[1].next_offset == len(whole)
    assert AdmissionStore(live(documents)).load() is not None
