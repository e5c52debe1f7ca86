"""The fleet on RabbitMQ, MongoDB's protocol and InfluxDB: where jobs go, and what survives which death."""

import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from events.job import Target
from projections.generation import live
from projections.osis.documents import Documents
from projections.osis.open import open_documents
from tests.acceptance.servers_fleet import PATIENCE, Fleet
from tests.contract.bus_contract import RabbitEngine
from tests.contract.stores import influxdb_database, mongodb_database
from tests.servers.management import Management
from tests.servers.rabbitmq import RabbitMQ
from tests.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(900)]

ENDINGS = {"succeeded", "failed", "timed_out", "cancelled", "expired", "lost"}


@pytest.fixture
def documents_url(mongodb_url: str) -> Iterator[str]:
    with mongodb_database(mongodb_url) as url:
        yield url


@pytest.fixture
def fleet(private_rabbitmq: RabbitMQ, documents_url: str, influxdb_url: str, tmp_path: Path) -> Iterator[Fleet]:
    management = Management(private_rabbitmq.management_url, private_rabbitmq.url)
    engine = RabbitEngine(management, management.add_vhost(f"fleet-{uuid.uuid4().hex[:8]}"))
    with influxdb_database(influxdb_url) as series_url:
        made = Fleet(engine, tmp_path, documents_url, series_url)
        yield made
        made.close()


@pytest.fixture
def three(fleet: Fleet) -> Fleet:
    """Two nodes of role cpu, one of role application."""
    fleet.begin({"c1": "cpu", "c2": "cpu", "a1": "application"})
    return fleet


def test_a_job_for_a_role_runs_on_one_node_and_with_all_on_every_node_of_it(three: Fleet) -> None:
    one = three.jobs_of(three.submit(Target(role="cpu")))
    every = three.jobs_of(three.submit(Target(role="cpu", all=True)))
    assert set(one.values()) <= {"c1", "c2"}
    assert sorted(every.values()) == ["c1", "c2"]
    assert all(ends == ["succeeded"] for ends in three.wait_for_ends([*one, *every]).values())
    assert three.ran() == dict.fromkeys([*one, *every], 1)


def test_all_jobs_finish_and_are_reported_once_when_the_broker_is_away_for_20_seconds(
    three: Fleet, private_rabbitmq: RabbitMQ
) -> None:
    jobs = [three.submit(Target(role="cpu"), seconds=0.5) for _ in range(60)]
    wait_until(lambda: len(three.started()) >= 5, deadline=PATIENCE, what="a few started jobs")
    private_rabbitmq.stop()
    # the length of the outage is the point of this test, not a wait for something
    threading.Event().wait(20)
    private_rabbitmq.start()
    ends = three.wait_for_ends(jobs)
    assert {job: found for job, found in ends.items() if found != ["succeeded"]} == {}
    assert three.ran() == dict.fromkeys(jobs, 1)


def test_every_job_ends_once_and_runs_at_most_once_while_everything_is_killed(three: Fleet, documents_url: str) -> None:
    jobs: list[str] = []
    victims = ["handlers", "projections", "c1", "standby", "handlers", "projections", "a1"]
    for n in range(500):
        jobs.append(three.submit(Target(role="application" if n % 3 else "cpu")))
        if n % 60 == 59:
            three.services[victims[n // 60 % len(victims)]].kill()
        if n % 100 == 50:
            three.kill_a_worker("c2")
    ends = three.wait_for_ends(jobs)
    assert {job: found for job, found in ends.items() if len(found) != 1 or found[0] not in ENDINGS} == {}
    ran = three.ran()
    assert max(ran.values()) == 1, "an effect happened twice"
    succeeded = {job for job, found in ends.items() if found == ["succeeded"]}
    assert succeeded <= set(ran)
    assert len(succeeded) > 450, "killing a few processes costs a few jobs, not many"
    _views_agree(documents_url, {job: found[0] for job, found in ends.items()})


def _views_agree(url: str, ends: dict[str, str]) -> None:
    """What the portal would show is what the log says."""
    with closing(open_documents(url)) as documents:
        wait_until(lambda: _states(documents, ends) == ends, deadline=PATIENCE, what="views that agree with the log")


def _states(documents: Documents, jobs: Iterable[str]) -> dict[str, str]:
    views = documents.namespace(live(documents) or "none")
    return {job: document["state"] for job, document in views.get_many("jobs", list(jobs)).items()}
