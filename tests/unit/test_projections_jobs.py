"""The view of jobs: given what was said, then this is what is seen."""

import copy
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.envelope import Event
from events.job import Target
from projections.jobs import FIRST_FACTS, JOBS, LAST_FACTS, MAX_PARKED, split
from projections.osis.documents import Document
from projections.projection import moment
from tests.folding import admitted, fold_events
from tests.stories import STEP, Story


def jobs_of(story: Story) -> dict[str, Document]:
    return fold_events(JOBS, admitted(story.records()))


def given_fleet() -> Story:
    story = Story()
    story.script("facts")
    for node in ("n1", "n2", "n3"):
        story.node(node, roles=("cpu",))
    return story


def types(job: Document) -> list[str]:
    return [fact["type"].removeprefix("event.") for fact in job["history"]]


# the way of a job


def test_a_job_that_was_queued_tells_everything_about_it() -> None:
    story = given_fleet()

    job = story.job("facts", node="n1", role="cpu", params={"deep": True})

    seen = jobs_of(story)[job]
    queued = story.said[-1].event
    assert queued is not None
    assert seen["state"] == "queued"
    assert (seen["script"], seen["by"], seen["params"]) == ("facts", "user:alice", {"deep": True})
    assert (seen["node"], seen["via"], seen["target"]) == ("n1", "cpu", {"role": "cpu"})
    assert seen["submitted_at"] == seen["queued_at"] == moment(queued.time)
    assert seen["start_by"] == moment(queued.data.start_by)
    assert seen["correlation"] == job
    assert seen["history"] == [
        {"type": "event.job.queued", "time": moment(queued.time), "offset": len(story.said) - 1, "event": queued.id}
    ]


def test_a_job_that_waits_says_why_and_its_place() -> None:
    story = given_fleet()
    command = story.submit("facts", Target(role="cpu"))
    story._orders[command.id] = story.order("facts"), Target(role="cpu"), "cpu"
    story.waiting(command.id, cause=command, reason="all are in maintenance", place=3)

    seen = jobs_of(story)[command.id]

    assert (seen["state"], seen["reason"], seen["place"], seen["node"]) == (
        "waiting",
        "all are in maintenance",
        3,
        None,
    )


def test_a_job_that_no_longer_waits_has_no_reason_and_no_place() -> None:
    story = given_fleet()

    job = story.job("facts", node="n1", wait="all are in maintenance")

    seen = jobs_of(story)[job]
    assert (seen["state"], seen["reason"], seen["place"]) == ("queued", "", None)
    assert types(seen) == ["job.waiting", "job.queued"]


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "timed_out", "cancelled"])
def test_a_job_ends_as_its_agent_says(outcome: Any) -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    started = story.started(job)
    finished = story.finished(job, outcome, result=[1, 2], error="it broke")

    seen = jobs_of(story)[job]

    assert seen["state"] == outcome
    assert (seen["started_at"], seen["ended_at"]) == (moment(started.time), moment(finished.time))
    assert (seen["received_at"], seen["accepted_at"], seen["began_at"]) == (None, None, None)
    assert (seen["duration"], seen["result"]) == (0.5, [1, 2])
    assert seen["failure"] == {"error": "it broke", "traceback": ""}
    assert seen["output"] == {"blob": None, "lines": 1, "size": 6, "dropped": 0, "tail": "hello\n"}
    assert types(seen) == ["job.queued", "job.started", "job.finished"]
    assert not seen["late"]


def test_a_job_has_the_marks_that_its_agent_made() -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    received, accepted, began = (story.now + STEP * n for n in (1, 2, 3))
    story.started(job, received=received, accepted=accepted)
    story.finished(job, began=began)

    seen = jobs_of(story)[job]

    marks = (seen["received_at"], seen["accepted_at"], seen["began_at"])
    assert marks == (moment(received), moment(accepted), moment(began))


def test_a_run_that_an_agent_began_itself_has_its_order_from_the_agent() -> None:
    story = given_fleet()

    job = story.own_run("n2", "facts", slot="at boot")

    seen = jobs_of(story)[job]
    assert (seen["state"], seen["script"], seen["by"]) == ("succeeded", "facts", "node:n2")
    assert (seen["node"], seen["own_slot"], seen["target"]) == ("n2", "at boot", {"node": "n2"})
    assert seen["submitted_at"] == seen["started_at"]


def test_one_fact_makes_all_jobs_of_a_batch() -> None:
    story = given_fleet()

    batch, (first, second, third) = story.batch("facts", ["n1", "n2", "n3"], size=2)

    seen = jobs_of(story)
    assert [seen[job]["state"] for job in (first, second, third)] == ["queued", "queued", "waiting"]
    assert [seen[job]["node"] for job in (first, second, third)] == ["n1", "n2", "n3"]
    assert {seen[job]["batch"] for job in (first, second, third)} == {batch}
    assert (seen[third]["reason"], seen[third]["place"]) == ("its turn comes", 1)
    assert types(seen[first]) == ["batch.created"]


# how it may end otherwise


@pytest.mark.parametrize("word", ["expired", "lost"])
def test_what_the_decider_inferred_gives_way_to_the_agents_own_word(word: str) -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    inferred = story.expired(job) if word == "expired" else story.lost(job)
    assert jobs_of(story)[job]["state"] == word
    assert jobs_of(story)[job]["ended_at"] == moment(inferred.time)
    assert jobs_of(story)[job]["reason"] == inferred.data.reason

    story.started(job)
    assert jobs_of(story)[job]["state"] == word
    finished = story.finished(job)

    seen = jobs_of(story)[job]
    assert (seen["state"], seen["late"], seen["ended_at"]) == ("succeeded", True, moment(finished.time))
    assert seen["reason"] == ""


def test_nothing_replaces_finished() -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    finished = story.finished(job, "failed")
    story.lost(job)
    story.expired(job)
    story.finished(job, "succeeded")
    story.cancelled(job)

    seen = jobs_of(story)[job]

    assert (seen["state"], seen["late"], seen["ended_at"]) == ("failed", False, moment(finished.time))


def test_of_two_inferred_ends_the_first_counts() -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    story.expired(job)
    story.lost(job)

    assert jobs_of(story)[job]["state"] == "expired"


def test_a_request_to_cancel_ends_a_job_that_no_node_has_yet() -> None:
    story = given_fleet()
    _, (_, second) = story.batch("facts", ["n1", "n2"], size=1)
    request = story.cancelled(second, reason="asked for by user:bob")

    seen = jobs_of(story)[second]

    assert (seen["state"], seen["cancel_requested"], seen["reason"]) == ("cancelled", True, "asked for by user:bob")
    assert seen["ended_at"] == moment(request.time)


def test_a_request_to_cancel_a_queued_job_waits_for_the_agents_answer() -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    story.cancelled(job)
    seen = jobs_of(story)[job]
    assert (seen["state"], seen["cancel_requested"], seen["ended_at"]) == ("queued", True, None)

    story.finished(job, "cancelled")

    assert jobs_of(story)[job]["state"] == "cancelled"


def test_a_request_to_cancel_a_batch_reaches_each_of_its_jobs() -> None:
    story = given_fleet()
    batch, jobs = story.batch("facts", ["n1", "n2", "n3"], size=1)
    story.cancelled(batch, jobs)

    seen = jobs_of(story)

    assert [seen[job]["state"] for job in jobs] == ["queued", "cancelled", "cancelled"]
    assert all(seen[job]["cancel_requested"] for job in jobs)
    assert batch not in seen


# who may speak of it


def test_what_another_node_says_of_a_job_is_not_listened_to() -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    before = jobs_of(story)[job]
    story.started(job, node="n2")
    story.finished(job, "failed", node="n2", order=story.order("facts"))

    assert jobs_of(story)[job] == before


def test_of_two_agents_that_claim_the_same_run_the_first_in_the_log_is_listened_to() -> None:
    story = given_fleet()
    job = story.own_run("n1", "facts")
    before = jobs_of(story)[job]
    story.started(job, node="n2", order=story.order("facts", by="node:n2"))
    story.finished(job, "failed", node="n2")

    seen = jobs_of(story)[job]

    assert (seen["node"], seen["state"], seen["by"]) == ("n1", "succeeded", "node:n1")
    assert seen["result"] == before["result"]


def test_agents_that_claim_a_run_cannot_make_its_document_grow_without_end() -> None:
    story = given_fleet()
    job = story.id()
    for n in range(MAX_PARKED + 40):
        story.started(job, node=f"liar-{n}")

    seen = jobs_of(story)[job]

    assert len(seen["_parked"]) == MAX_PARKED
    assert len(seen["history"]) == FIRST_FACTS + LAST_FACTS
    assert seen["node"] == "liar-0"


def test_history_keeps_the_first_and_the_last_facts() -> None:
    story = given_fleet()
    job = story.job("facts", node="n1")
    for _ in range(60):
        story.cancelled(job)
    story.finished(job)

    history = jobs_of(story)[job]["history"]

    assert len(history) == FIRST_FACTS + LAST_FACTS
    assert history[0]["type"] == "event.job.queued"
    assert history[-1]["type"] == "event.job.finished"
    assert [fact["offset"] for fact in history] == sorted(fact["offset"] for fact in history)


# in any order


def waited_then_failed(story: Story) -> str:
    job = story.job("facts", node="n1", wait="busy")
    story.started(job)
    story.finished(job, "failed", error="no")
    return job


def lost_then_finished_then_expired(story: Story) -> str:
    job = story.job("facts", node="n1")
    story.lost(job)
    story.started(job)
    story.finished(job)
    story.expired(job)
    return job


def cancelled_among_strangers(story: Story) -> str:
    job = story.job("facts", node="n1")
    story.started(job, node="n2")
    story.cancelled(job)
    story.started(job)
    story.finished(job, "failed", node="n3", result="forged", order=story.order("facts", by="node:n3"))
    story.finished(job, "cancelled")
    return job


def cancelled_before_its_turn(story: Story) -> str:
    _, (_, job) = story.batch("facts", ["n1", "n2"], size=1)
    story.cancelled(job)
    story.started(job, node="n1")
    return job


def begun_by_an_agent_with_a_rival(story: Story) -> str:
    job = story.own_run("n1", "facts")
    story.started(job, node="n2", order=story.order("facts", by="node:n2"))
    story.finished(job, "failed", node="n2")
    return job


def expired_after_its_turn_came(story: Story) -> str:
    batch, (_, job) = story.batch("facts", ["n1", "n2"], size=1)
    story.queued(job, "n2", cause=batch)
    story.expired(job)
    story.started(job)
    story.finished(job)
    return job


WAYS = (
    waited_then_failed,
    lost_then_finished_then_expired,
    cancelled_among_strangers,
    cancelled_before_its_turn,
    begun_by_an_agent_with_a_rival,
    expired_after_its_turn_came,
)


def facts_of(story: Story, job: str) -> list[tuple[Event, int]]:
    """What is said of one job; where a fact is about many, the part about this one."""
    facts = [fact for fact in admitted(story.records()) if fact[0].type in JOBS.handles]
    parts = [(part, offset) for event, offset in facts for part in split(event)]
    return [(part, offset) for part, offset in parts if job in JOBS.keys(part)]


def fold_one(parts: Iterable[tuple[Event, int]]) -> Document | None:
    """The document after these parts. No fold may change what it was given."""
    document: Document | None = None
    for part, offset in parts:
        before = copy.deepcopy(document)
        after = JOBS.fold(document, part, offset)
        assert document == before
        document = after
    return document


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None)
@given(data=st.data())
def test_the_facts_of_a_job_give_the_same_document_in_any_order(
    way: Callable[[Story], str], data: st.DataObject
) -> None:
    story = given_fleet()
    facts = facts_of(story, way(story))

    assert fold_one(data.draw(st.permutations(facts))) == fold_one(facts)


def any_facts(chance: random.Random) -> list[tuple[Event, int]]:
    """Of stories that no decider would tell: the places are filled by the same rules all the same."""
    story = given_fleet()
    job = story.job("facts", node="n1") if chance.random() < 0.7 else story.id()
    for _ in range(chance.randint(2, 8)):
        node = chance.choice(["n1", "n1", "n2", "n3"])
        said = chance.choice(["started", "own", "finished", "expired", "lost", "cancelled"])
        if said == "started":
            story.started(job, node=node)
        elif said == "own":
            story.started(job, node=node, order=story.order("facts", by=f"node:{node}"))
        elif said == "finished":
            story.finished(job, chance.choice(["succeeded", "failed"]), node=node, result=chance.random())
        else:
            getattr(story, said)(job)
    return facts_of(story, job)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_any_facts_at_all_give_the_same_document_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    facts = any_facts(chance)
    shuffled = facts.copy()
    chance.shuffle(shuffled)

    assert fold_one(shuffled) == fold_one(facts)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_many_facts_at_once_come_to_what_they_do_one_after_the_other(seed: int) -> None:
    chance = random.Random(seed)
    facts = any_facts(chance)
    chance.shuffle(facts)
    cut = chance.randint(0, len(facts) - 1)
    before = fold_one(facts[:cut])
    untouched = copy.deepcopy(before)
    expected, changed = before, -1
    for part, offset in facts[cut:]:
        after = JOBS.fold(expected, part, offset)
        expected, changed = after, changed if after is expected else offset

    assert JOBS.fold_many is not None
    assert JOBS.fold_many(before, facts[cut:]) == (expected, changed)
    assert before == untouched


# against a model


#: State, node, and whether the end came late.
Told = tuple[str, str | None, bool]

UNFINISHED = (None, "waiting", "queued", "started")


def model(events: list[tuple[Event, int]]) -> dict[str, Told]:
    """What one would tell of each job who reads the log from start to end."""
    told: dict[str, Told] = {}
    for event, _ in events:
        if event.type == "event.batch.created":
            told |= {one.job: ("waiting" if one.reason else "queued", one.node, False) for one in event.data.jobs}
        elif event.type.startswith("event.job."):
            for job in getattr(event.data, "jobs", ()) or (event.data.job,):
                after = tell(event.type.removeprefix("event.job."), event.data, *told.get(job, (None, None, False)))
                told |= {job: after} if after else {}
    return told


def tell(said: str, data: Any, state: str | None, node: str | None, late: bool) -> Told | None:
    """What one fact makes of a job; None when it changes nothing."""
    heard = state is None or getattr(data, "node", None) == node
    after: Told | None = None
    match said, state:
        case "waiting", None:
            after = "waiting", None, False
        case "queued", None | "waiting":
            after = "queued", data.node, False
        case "started", None | "waiting" | "queued" | "started" if heard:
            after = "started", data.node, False
        case "finished", None | "waiting" | "queued" | "started" | "expired" | "lost" if heard:
            after = data.outcome, data.node, state not in UNFINISHED
        case (("expired" | "lost"), "waiting" | "queued" | "started"):
            after = said, node, late
        case "cancel_requested", "waiting":
            after = "cancelled", node, late
    return after


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_views_of_whole_fleets_at_work_agree_with_a_plain_model(seed: int) -> None:
    chance = random.Random(seed)
    story = given_fleet()
    jobs: list[str] = []
    for _ in range(chance.randint(1, 25)):
        said = chance.choice(["job", "waited", "batch", "own", "started", "finished", "expired", "lost", "cancelled"])
        job = chance.choice(jobs) if jobs else None
        node = chance.choice(["n1", "n2", "n3"])
        if said in ("job", "waited"):
            jobs.append(story.job("facts", node=node, wait="busy" if said == "waited" else ""))
        elif said == "batch":
            jobs += story.batch("facts", ["n1", "n2", "n3"], size=chance.choice([0, 1, 2]))[1]
        elif said == "own":
            jobs.append(story.own_run(node, "facts", slot=str(len(jobs))))
        elif said in ("started", "finished") and job is not None:
            getattr(story, said)(job, node=chance.choice([story._nodes.get(job, node)] * 3 + [node]))
        elif job is not None:
            getattr(story, said)(job)
    events = admitted(story.records())

    seen = fold_events(JOBS, events)

    assert {job: (one["state"], one["node"], one["late"]) for job, one in seen.items()} == model(events)
