"""The door for services on the agent's machine."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import zmq

from nodeagent import journal as journal_module
from tests.agents import SOON, AgentThread, Player
from tests.waiting import wait_until

EVENT: dict[str, Any] = {"type": "event.billing.invoice_paid", "subject": "invoice/42", "data": {"amount": 12}}

#: Hands an event in, as any program may that a job starts.
HAND_IN = """
import json, os
import zmq

descr = "Tells of a backup."

def action():
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect("ipc://" + os.environ["FLEETBUS_AGENT_SOCKET"])
    socket.send(json.dumps({"type": "event.backup.done", "subject": "disk1", "data": {"bytes": 7}}).encode())
    answer = json.loads(socket.recv())
    socket.close()
    return answer
"""


class Service:
    """A program beside the agent. It may send without waiting, unlike one with a REQ socket."""

    def __init__(self, path: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")

    def send(self, body: bytes) -> None:
        self._socket.send_multipart([b"", body])

    def answer(self) -> dict[str, Any]:
        assert self._socket.poll(int(SOON * 1000)), "no answer"
        answer: dict[str, Any] = json.loads(self._socket.recv_multipart()[-1])
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(json.dumps(request).encode())
        return self.answer()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def service(agent: AgentThread) -> Iterator[Service]:
    path = agent.data / "agent.sock"
    wait_until(path.exists, deadline=SOON, what="the agent's socket")
    service = Service(path)
    yield service
    service.close()


def test_an_event_is_published_as_the_services_own_with_the_agents_producer_and_seq(
    player: Player, service: Service
) -> None:
    answer = service.ask(**EVENT)
    (event,) = wait_until(lambda: player.facts("billing"), deadline=SOON, what="the event")
    assert event.id == answer["id"]
    assert (event.actor, event.type, event.subject, event.data) == (
        "service:billing",
        "event.billing.invoice_paid",
        "invoice/42",
        {"amount": 12},
    )
    assert event.producer == player.connected().data.boot
    assert event.seq is not None
    assert player.bad() == []


def test_story_and_cause_are_passed_on(player: Player, service: Service) -> None:
    story, cause = str(uuid4()), str(uuid4())
    service.ask(**EVENT, correlationid=story, causationid=cause)
    (event,) = wait_until(lambda: player.facts("billing"), deadline=SOON, what="the event")
    assert (event.correlationid, event.causationid) == (story, cause)


def test_an_event_that_is_handed_in_twice_counts_once(player: Player, service: Service) -> None:
    id = str(uuid4())
    for _ in range(3):
        assert service.ask(**EVENT, id=id) == {"id": id}
    for _ in range(10):  # in one breath
        service.send(json.dumps({**EVENT, "id": id}).encode())
    assert [service.answer() for _ in range(10)] == [{"id": id}] * 10
    service.ask(**{**EVENT, "type": "event.billing.last"})
    wait_until(lambda: player.facts("billing.last"), deadline=SOON, what="the last event")
    assert len(player.facts("billing.invoice_paid")) == 1
    assert player.gaps() == []


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        ({**EVENT, "type": "event.job.finished"}, "no type of a service"),
        ({**EVENT, "type": "command.job.submit"}, "no type of a service"),
        ({**EVENT, "type": "event.node.connected"}, "no type of a service"),
        ({**EVENT, "type": "telemetry.stats"}, "no type of a service"),
        ({**EVENT, "type": "event.billing"}, "no type of a service"),
        ({**EVENT, "type": "event.Billing.x"}, "type"),
        ({**EVENT, "id": "42"}, "id"),
        ({**EVENT, "subject": ""}, "subject"),
        ({**EVENT, "data": "text"}, "data"),
        ({**EVENT, "actor": "user:root"}, "actor"),
        ({**EVENT, "data": {"text": "x" * 1_010_000}}, "fit into one event"),
        ({"type": "event.billing.x"}, "subject"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_published(
    player: Player, service: Service, request_: dict[str, Any], wrong: str
) -> None:
    assert wrong in service.ask(**request_)["error"]
    service.ask(**{**EVENT, "type": "event.billing.last"})
    wait_until(lambda: player.facts("billing.last"), deadline=SOON, what="the last event")
    assert len(player.facts("billing")) == 1
    assert player.bad() == []


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"[" * 100_000])
def test_what_is_no_request_is_answered_and_stops_nothing(player: Player, service: Service, body: bytes) -> None:
    service.send(body)
    assert service.answer()["error"]
    assert "id" in service.ask(**EVENT)


def test_while_the_bus_is_away_events_are_taken_and_arrive_later(player: Player, service: Service) -> None:
    player.break_log()
    ids = [service.ask(**EVENT)["id"] for _ in range(20)]
    player.mend_log()
    wait_until(lambda: len(player.facts("billing")) == 20, deadline=SOON, what="the events")
    # each once; what was on its way when the bus came back may be before what had failed by then
    assert sorted(event.id for event in player.facts("billing")) == sorted(ids)
    assert player.gaps() == []


def test_a_full_outbox_is_said(player: Player, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    player.break_log()
    monkeypatch.setattr(journal_module, "MAX_ROWS", 3)
    answers = [service.ask(**EVENT) for _ in range(5)]
    assert "outbox is full" in answers[-1]["error"]
    player.mend_log()


def test_the_socket_is_for_the_agents_own_user_only(agent: AgentThread, service: Service) -> None:
    path = agent.data / "agent.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_job_finds_the_socket_in_its_environment(player: Player, agent: AgentThread) -> None:
    end = player.finished(player.run(HAND_IN))
    (event,) = wait_until(lambda: player.facts("backup"), deadline=SOON, what="the event")
    assert (event.actor, event.id) == ("service:backup", end.data.result["id"])


def test_the_socket_goes_with_the_agent(agent: AgentThread, service: Service) -> None:
    agent.stop()
    assert not (agent.data / "agent.sock").exists()


def test_an_agent_whose_folder_has_a_long_path_does_without_the_socket(
    player: Player, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = AgentThread(player, tmp_path / ("long" * 30))
    player.connected()
    assert agent.stop() == 0
    assert "choose a shorter data folder" in capsys.readouterr().out
