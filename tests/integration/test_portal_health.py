"""What health tells of the consumers, of the broker, and of what is missing; and what a removed node leaves there."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from bus import topology
from bus.admission import AdmissionState
from bus.broker import Broker
from bus.clock import SystemClock
from bus.progress import Progress, Watch
from bus.users import delete_user
from events.actors import HANDLERS, PROJECTIONS, agent_user
from portal.follower import GAP_AFTER, GAPS_EVERY, MAX_GAPS, Gaps
from tests.contract.bus_contract import RabbitEngine, event
from tests.portal_house import SOON, House
from tests.servers.management import Management

CLOCK = SystemClock()


class Site:
    """A house on RabbitMQ, and the broker under it."""

    def __init__(self, house: House, engine: RabbitEngine, management: Management) -> None:
        self.house, self.engine, self.management = house, engine, management

    def check(self, name: str) -> tuple[str, str]:
        checks = {one["name"]: one for one in self.house.api.get("/health").json()["checks"]}
        return checks[name]["status"], checks[name]["detail"]

    def wait_for(self, name: str, status: str) -> str:
        """The check's detail, once it has this status."""
        self.house.wait(lambda: self.check(name)[0] == status, f"{name} to be {status}")
        return self.check(name)[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, rabbitmq_management: Management) -> Iterator[Site]:
    with ExitStack() as stack:
        vhost = f"test-{uuid4().hex[:12]}"
        engine = RabbitEngine(rabbitmq_management, rabbitmq_management.add_vhost(vhost))
        stack.callback(rabbitmq_management.delete_vhost, vhost)
        stack.callback(engine.close)
        url = rabbitmq_management.url
        house = House(
            tmp_path_factory.mktemp("house"),
            open_bus=engine.bus,
            broker=Broker(url, vhost),
            forget_node=lambda node: delete_user(url, vhost, agent_user(node)),
        )
        with house:
            yield Site(house, engine, rabbitmq_management)


def test_a_retention_by_a_policy_is_seen_and_its_end_too(site: Site) -> None:
    assert site.wait_for("retention", "ok") == "no policy and no argument cuts the log or the blobs"
    policy = f"policies/{site.engine.vhost}/tidy"
    site.management.ask("PUT", policy, {"pattern": "^fleetbus", "definition": {"max-age": "1D"}, "apply-to": "queues"})
    detail = site.wait_for("retention", "degraded")
    assert "fleetbus.log: policy 'tidy' sets max-age=1D" in detail
    assert "fleetbus.blobs: policy 'tidy'" in detail
    site.management.ask("DELETE", policy)
    site.wait_for("retention", "ok")


def test_health_says_which_durability_holds(site: Site) -> None:
    site.house.wait(lambda: site.house.api.get("/health").json()["broker"].get("durability") == "stream", "stream")
    topology.make_durable(site.engine.url(HANDLERS), "fsync")
    site.house.wait(lambda: "fsync" in site.check("durability")[1], "fsync")
    topology.make_durable(site.engine.url(HANDLERS), "stream")
    site.house.wait(lambda: site.check("durability")[1].startswith("stream"), "stream")


def test_a_removed_node_leaves_neither_a_user_nor_an_inbox_on_the_broker(site: Site) -> None:
    node = f"n-{uuid4().hex[:8]}"
    site.house.agent(node)
    user, inbox = f"users/{agent_user(node)}", f"queues/{site.engine.vhost}/node.{node}"
    site.management.ask("GET", user)
    site.management.ask("GET", inbox)
    site.house.agents.pop(node).stop()
    answer = site.house.api.delete(f"/nodes/{node}", params={"wait": SOON})
    assert (answer.status_code, answer.json().get("warning")) == (200, None)
    for path in (user, inbox):
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            site.management.ask("GET", path)


def test_consumers_are_listed_with_their_lag_as_their_canaries_tell(site: Site) -> None:
    """One reads, one does not: it is behind in records, and in seconds since there was something to read."""
    place = Progress("projections", CLOCK)
    late = Progress("sleeper", CLOCK)
    place.at(10**9)
    late.at(0)
    bus = site.engine.bus(PROJECTIONS)
    with closing(bus), Watch(bus, [place, late], CLOCK, lambda _why: None, every=0.2):
        bus.publish(event(1, "event.projections.said")).result(SOON)

        def heard() -> dict[str, dict[str, object]]:
            found = {one["name"]: one for one in site.house.api.get("/health").json().get("consumers", ())}
            return found if "sleeper" in found and found["sleeper"]["lag_seconds"] > 1 else {}

        found = site.house.wait(heard, "both")
        assert (found["projections"]["lag_records"], found["projections"]["lag_seconds"]) == (0, 0.0)
        assert found["sleeper"]["lag_records"] == found["sleeper"]["end"]
        assert not found["sleeper"]["silent"]
        metrics = site.house.api.get(site.house.url + "/metrics").text
        assert 'fleetbus_consumer_lag_records{consumer="projections"} 0.0' in metrics
        with site.house.browser() as browser:
            assert "sleeper" in browser.get("/health").text


def test_a_log_that_lost_its_beginning_is_failing(tmp_path: Path) -> None:
    with House(tmp_path, decides=False, views=False) as house:
        for n in range(3):
            house.bus.publish(event(n)).result(SOON)

        def beginning() -> tuple[str, str]:
            (found,) = (one for one in house.api.get("/health").json()["checks"] if one["name"] == "beginning")
            return found["status"], found["detail"]

        assert beginning()[0] == "ok"
        with closing(sqlite3.connect(tmp_path / "bus" / "bus.db")) as db, db:
            db.execute("DELETE FROM log WHERE offset < 2")
        status, detail = beginning()
        assert status == "failing"
        assert "begins at offset 2" in detail


def test_a_gap_is_told_when_it_has_stayed_and_not_while_it_may_close() -> None:
    state, gaps = AdmissionState(), Gaps()
    state.use("node.n1", "p", 1, 0)
    state.use("node.n1", "p", 5, 1)
    assert gaps.look(state, 0.0) == ()
    assert gaps.look(state, GAP_AFTER - 0.1) == ()
    assert gaps.look(state, GAP_AFTER + GAPS_EVERY) == (("node.n1/p", 2, 4),)
    for seq in (2, 3, 4):
        state.use("node.n1", "p", seq, 2)
    assert gaps.look(state, GAP_AFTER + 2 * GAPS_EVERY) == ()


def test_what_is_told_of_gaps_is_bounded() -> None:
    state, gaps = AdmissionState(), Gaps()
    for seq in range(1, 1_000, 2):
        state.use("node.n1", "p", seq, seq)
    gaps.look(state, 0.0)
    assert len(gaps.look(state, GAP_AFTER + GAPS_EVERY)) == MAX_GAPS
