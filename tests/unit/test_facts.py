"""What the agent says of a run's end fits the bus and its readers, whatever the script returned, printed or raised."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.codec import decode, encode
from events.job import MAX_INLINE_RESULT, JobFinished, Order, OwnRun
from events.telemetry import Line
from nodeagent.facts import MAX_TAIL, Speaker
from nodeagent.outcome import Cancelled, Failed, Outcome, Succeeded, TimedOut
from nodeagent.output import Output
from nodeagent.run import Run, decode_run, encode_run
from nodeagent.work import Finished

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SPEAKER = Speaker("n1")


def a_run(*, own: OwnRun | None = None, quiet: bool = False) -> Run:
    order = Order(script="s", hash="a" * 64, by="user:alice")
    cause = None if own else str(uuid4())
    return Run(job=str(uuid4()), order=order, queue="default", cause=cause, story=cause, own=own, quiet=quiet)


def finished(run: Run, outcome: Outcome, output: Output | None = None) -> JobFinished:
    """What a reader gets of the fact, through the bytes."""
    end = Finished(job_id=run.job, outcome=outcome, duration=1.5, output=output or Output())
    said: JobFinished = decode(encode(SPEAKER.finished(run, end, NOW).event)).data
    return said


def printed(*texts: str) -> Output:
    lines = tuple(Line(n=n, stream="o", text=text) for n, text in enumerate(texts, 1))
    return Output(lines=len(lines), size=sum(len(text.encode()) + 1 for text in texts), head=lines)


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Succeeded(b"1"), "succeeded"),
        (Failed("no", "Traceback"), "failed"),
        (TimedOut(3.0), "timed_out"),
        (Cancelled(), "cancelled"),
    ],
)
def test_each_outcome_has_its_word(outcome: Outcome, word: str) -> None:
    said = finished(a_run(), outcome)
    assert said.outcome == word
    assert (said.failure is None) == (word == "succeeded")


@given(st.text(alphabet=st.characters(codec=None), max_size=200), st.sampled_from([1, 100, 5_000]))
def test_whatever_a_script_raises_the_fact_can_be_read(text: str, times: int) -> None:
    said = finished(a_run(), Failed(text * times, text * times))
    assert said.failure is not None


@pytest.mark.parametrize("text", ["\x00", "\U0001f525", "\ud800", "é", '"'])
def test_the_longest_traceback_of_the_widest_characters_fits_into_an_event(text: str) -> None:
    said = finished(a_run(), Failed(text * 300_000, text * 300_000), printed(*[text.replace("\ud800", "?")] * 10_000))
    assert said.failure is not None
    assert len(said.failure.error) <= 20_000
    assert len(said.failure.traceback) <= 200_000


def test_a_large_result_and_the_output_are_blobs_and_equal_ones_are_one() -> None:
    run, result = a_run(), b'"' + b"x" * MAX_INLINE_RESULT + b'"'
    end = Finished(job_id=run.job, outcome=Succeeded(result), output=printed("hello"))
    fact = SPEAKER.finished(run, end, NOW)
    assert [(blob.sha256, blob.content_type) for blob in fact.blobs] == [
        (sha256(result).hexdigest(), "application/json"),
        (sha256(b"hello\n").hexdigest(), "text/plain; charset=utf-8"),
    ]
    text = result.decode()
    same = Finished(job_id=run.job, outcome=Succeeded(result + b"\n"), output=printed(text))
    assert len(SPEAKER.finished(run, same, NOW).blobs) == 1


def test_the_tail_is_the_last_of_the_output() -> None:
    said = finished(a_run(), Succeeded(b"null"), printed(*[f"line {n}" for n in range(1_000)]))
    assert len(said.output.tail) == MAX_TAIL
    assert said.output.tail.endswith("line 998\nline 999\n")


def test_the_same_run_has_the_same_ids_for_ever() -> None:
    run = a_run()
    end = Finished(job_id=run.job, outcome=Succeeded(b"1"))
    first, second = SPEAKER.finished(run, end, NOW), SPEAKER.finished(run, end, NOW)
    assert first.event.id == second.event.id != SPEAKER.started(run, NOW).event.id


def test_a_run_of_the_agents_own_begins_its_own_story() -> None:
    run = a_run(own=OwnRun(slot="boot x"))
    started = SPEAKER.started(run, NOW).event
    ended = SPEAKER.finished(run, Finished(job_id=run.job, outcome=Succeeded(b"1")), NOW).event
    assert (started.correlationid, started.causationid) == (run.job, None)
    assert (ended.correlationid, ended.causationid) == (run.job, started.id)
    assert (started.data.order, started.data.own) == (run.order, run.own)
    assert (ended.data.order, ended.data.own) == (None, None)


def test_a_quiet_run_that_failed_says_everything_at_its_end() -> None:
    run = a_run(own=OwnRun(slot="boot x"), quiet=True)
    said = finished(run, Failed("no"))
    assert (said.order, said.own) == (run.order, run.own)


def test_a_run_survives_the_journal() -> None:
    run = a_run(own=OwnRun(slot="boot x"), quiet=True)
    assert decode_run(encode_run(run)) == run


def test_the_facts_of_a_job_tell_when_it_came_was_taken_and_was_let_go() -> None:
    run, later = a_run(), NOW + timedelta(seconds=1)
    started = decode(encode(SPEAKER.started(run, later, received=NOW, accepted=NOW).event)).data
    assert (started.received, started.accepted) == (NOW, NOW)
    end = Finished(job_id=run.job, outcome=Succeeded(b"1"), duration=1.5)
    assert decode(encode(SPEAKER.finished(run, end, later, began=NOW).event)).data.began == NOW


def test_what_nobody_knows_of_a_jobs_time_is_left_out() -> None:
    run = a_run()
    end = Finished(job_id=run.job, outcome=Cancelled())
    for fact in (SPEAKER.started(run, NOW), SPEAKER.finished(run, end, NOW)):
        assert not {"received", "accepted", "began"} & msgspec.to_builtins(fact.event.data).keys()
