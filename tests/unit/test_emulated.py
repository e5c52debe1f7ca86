"""A node that is only played says what an agent would say, and its facts count."""

from datetime import UTC, datetime, timedelta

from bus.admission import AdmissionState, Admitted, admit
from bus.ports import Message, Record
from events.actors import agent_user
from events.delivery import RunJob, StopJob, encode_delivery
from events.header import script_hash
from events.job import JobFinished, Order
from nodeagent.emulated import REMEMBERED, Counts, EmulatedNode, total
from tests.stories import Story

NOW = datetime(2100, 3, 1, 9, tzinfo=UTC)


def id_of(n: int) -> str:
    return f"00000000-0000-7000-8000-{n:012}"


def node() -> EmulatedNode:
    return EmulatedNode("e-1", ("cpu",), boot=id_of(1), journal=id_of(2))


def run(n: int, *, start_by: datetime = NOW + timedelta(minutes=1)) -> bytes:
    order = Order(script="empty", hash=script_hash("x"), by="user:alice")
    delivery = RunJob(job=id_of(n), fact=id_of(n + 1), correlation=None, node="e-1", order=order, start_by=start_by)
    return encode_delivery(delivery)


def facts(*messages: Message) -> list[object]:
    """What readers of the log make of the messages, behind a valid beginning."""
    story = Story(begin=NOW - timedelta(minutes=1))
    state = AdmissionState()
    for record in story.records():
        admit(state, record)
    at = len(story.said)
    verdicts = [admit(state, Record(at + n, one.body, one.key, agent_user("e-1"))) for n, one in enumerate(messages)]
    return [verdict.event.data for verdict in verdicts if isinstance(verdict, Admitted)]


def test_what_it_says_is_admitted_in_its_order() -> None:
    played = node()
    said = [played.connected(NOW, id_of(3)), *played.answer(run(10), NOW), played.disconnected(NOW, id_of(4))]
    assert [type(fact).__name__ for fact in facts(*said)] == [
        "NodeConnected",
        "JobStarted",
        "JobFinished",
        "NodeDisconnected",
    ]


def test_a_job_succeeds_once_however_often_it_is_delivered() -> None:
    played = node()
    first = played.answer(run(10), NOW)
    assert played.answer(run(10), NOW) == []
    assert played.ended == 1
    end = facts(played.connected(NOW, id_of(3)), *first)[-1]
    assert isinstance(end, JobFinished)
    assert (end.outcome, end.result) == ("succeeded", {"emulated": True})


def test_a_job_that_comes_too_late_is_not_begun() -> None:
    assert node().answer(run(10, start_by=NOW), NOW) == []


def test_a_cancelled_job_that_was_not_seen_ends_and_never_runs() -> None:
    played = node()
    (said,) = played.answer(encode_delivery(StopJob(job=id_of(10), fact=id_of(11), correlation=None)), NOW)
    assert said.type == "event.job.finished"
    assert played.answer(run(10), NOW) == []


def test_it_remembers_only_so_many_jobs() -> None:
    played = node()
    for n in range(REMEMBERED + 1):
        played.answer(run(100 + n), NOW)
    assert played.answer(run(100), NOW) != []
    assert played.answer(run(100 + REMEMBERED), NOW) == []


def test_counts_are_added_up() -> None:
    found = total([Counts(agents=2, connected=1, jobs=3, lost=1), Counts(agents=1, connected=1, jobs=1, trouble="no")])
    assert found == Counts(agents=3, connected=2, jobs=4, lost=1, trouble="no")
