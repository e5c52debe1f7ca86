"""The agent between an inbox and the log, on the embedded bus, with real workers."""

import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from bus.embedded import EmbeddedBus
from events import codec
from events.delivery import RunJob
from events.header import script_hash
from events.job import MAX_INLINE_RESULT
from events.routing import blob_chunk
from nodeagent import agent as agent_module
from tests.agents import SOON, AgentThread, FrozenClock, Player
from tests.jobscripts import ANSWER, EMPTY, FAIL, LARGE, MARK, MARK_AND_WAIT, PRINT, SHELL
from tests.waiting import wait_until

StartAgent = Callable[..., AgentThread]


def blob(player: Player, sha256: str) -> bytes:
    """A blob as it is in the stream by now."""
    with player.bus.stream("blobs").read_from("first") as reader:
        records = reader.read(10_000, 0)
    chunks = {chunk[1]: record.body for record in records if (chunk := blob_chunk(record.key)) and chunk[0] == sha256}
    return b"".join(body for _, body in sorted(chunks.items()))


def seen(marks: Path) -> list[str]:
    return marks.read_text().split()


def hold(player: Player, marks: Path) -> tuple[str, Path]:
    """A job that occupies the only worker of its queue until the file is there; it runs when this returns."""
    gate, name = marks.with_name(f"gate-{uuid4().hex[:6]}"), uuid4().hex
    job = player.run(MARK_AND_WAIT, {"path": str(marks), "text": name, "until": str(gate)})
    wait_until(lambda: name in seen(marks), deadline=SOON, what="the job to run")
    return job, gate


# what it says


def test_a_job_is_started_and_finished_with_its_result(player: Player, agent: AgentThread) -> None:
    job = player.run(ANSWER, {"text": "yes"})
    end = player.finished(job)
    assert end.data.outcome == "succeeded"
    assert end.data.result == {"answer": "yes"}
    assert end.data.failure is None
    assert [event.type for event in player.facts("job", job)] == ["event.job.started", "event.job.finished"]


def test_facts_name_their_cause_their_story_and_the_node(player: Player, agent: AgentThread) -> None:
    delivery = player.run_job(EMPTY)
    player.deliver(delivery)
    player.finished(delivery.job)
    for event in player.facts("job", delivery.job):
        assert event.causationid == delivery.fact
        assert event.correlationid == delivery.correlation
        assert event.actor == "node:n1"
        assert event.data.node == "n1"


def test_every_record_of_an_agent_is_admitted_and_none_is_missing(player: Player, agent: AgentThread) -> None:
    jobs = [player.run(EMPTY) for _ in range(20)]
    player.all_finished(jobs)
    agent.stop()
    assert player.bad() == []
    assert player.gaps() == []
    own = [event for event in player.facts() if event.producer]
    assert [event.seq for event in own] == list(range(1, len(own) + 1))
    assert len({event.producer for event in own}) == 1


def test_a_failing_script_ends_with_its_own_traceback(player: Player, agent: AgentThread) -> None:
    end = player.finished(player.run(FAIL))
    assert end.data.outcome == "failed"
    assert "the disk is on fire" in end.data.failure.error
    assert "in action" in end.data.failure.traceback
    assert "nodeagent" not in end.data.failure.traceback


def test_a_source_that_is_no_script_fails_and_says_why(player: Player, agent: AgentThread) -> None:
    end = player.finished(player.run("def action():\n    return\n"))
    assert (end.data.outcome, end.data.duration) == ("failed", 0)
    assert "descr" in end.data.failure.error


def test_an_agent_connects_with_what_it_is_and_has(player: Player, start_agent: StartAgent) -> None:
    agent = start_agent(roles=("cpu", "storage.ssd"), allows=frozenset({"shell"}))
    first = player.connected().data
    assert (first.node, first.roles, first.allows) == ("n1", ("cpu", "storage.ssd"), ("shell",))
    assert first.scripts == first.open_jobs == ()
    assert first.hostname
    player.finished(player.run(EMPTY))
    agent.stop()
    start_agent()
    second = player.connected(2).data
    assert second.scripts == (script_hash(EMPTY),)
    assert second.journal == first.journal
    assert UUID(second.boot) != UUID(first.boot)


def test_each_start_is_a_new_producer_that_counts_from_one(player: Player, start_agent: StartAgent) -> None:
    for start in range(1, 4):
        agent = start_agent()
        player.connected(start)
        player.finished(player.run(EMPTY))
        agent.stop()
    by_producer: dict[str, list[int]] = {}
    for event in player.facts():
        if event.producer and event.seq:
            by_producer.setdefault(event.producer, []).append(event.seq)
    assert len(by_producer) == 3
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in by_producer.values())


# once


def test_a_job_that_is_delivered_again_and_again_runs_once(player: Player, agent: AgentThread, marks: Path) -> None:
    params = {"path": str(marks), "text": "ran"}
    delivery = player.run_job(MARK, params)
    for _ in range(20):
        player.deliver(delivery)
    player.finished(delivery.job)
    for _ in range(20):
        player.deliver(delivery)
    player.finished(player.run(EMPTY))
    wait_until(lambda: player.inbox_size() == 0, deadline=SOON, what="all deliveries to be acknowledged")
    assert seen(marks) == ["ran"]
    player.finished(delivery.job)


def test_a_job_that_is_delivered_again_after_a_restart_runs_once(
    player: Player, start_agent: StartAgent, marks: Path
) -> None:
    delivery = player.run_job(MARK, {"path": str(marks), "text": "ran"})
    for _ in range(2):
        agent = start_agent()
        player.deliver_when_there(delivery)
        player.finished(delivery.job)
        player.finished(player.run(EMPTY))
        agent.stop()
    assert seen(marks) == ["ran"]


# scripts


def test_a_source_comes_once_and_is_kept(player: Player, agent: AgentThread) -> None:
    player.finished(player.run(ANSWER))
    end = player.finished(player.run(ANSWER, with_source=False))
    assert end.data.outcome == "succeeded"


def test_an_agent_without_the_source_asks_for_it_and_then_runs_the_job(
    player: Player, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "ASK_EVERY", 0.1)
    delivery = player.run_job(ANSWER, with_source=False)
    player.deliver(delivery)
    assert script_hash(ANSWER) not in player.connected(2).data.scripts
    assert player.facts("job", delivery.job) == []
    player.run(ANSWER, job=delivery.job)
    assert player.finished(delivery.job).data.outcome == "succeeded"


def test_asking_for_sources_does_not_become_a_storm(
    player: Player, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "ASK_EVERY", 1.0)
    began = time.monotonic()
    for n in range(50):
        player.run(f"{ANSWER}\n# {n}", with_source=False)
    player.connected(2)
    player.finished(player.run(EMPTY))
    asked = len(player.facts("node.connected")) - 1
    assert 1 <= asked <= 1 + (time.monotonic() - began) / agent_module.ASK_EVERY


def test_a_source_that_does_not_have_the_hash_is_not_run(player: Player, agent: AgentThread, marks: Path) -> None:
    honest = player.run_job(EMPTY)
    forged = RunJob(
        job=honest.job,
        fact=honest.fact,
        correlation=honest.correlation,
        node="n1",
        order=honest.order,
        start_by=honest.start_by,
        source=MARK,
    )
    player.deliver(forged)
    end = player.finished(honest.job)
    assert end.data.outcome == "failed"
    assert "hash" in end.data.failure.error


def test_what_the_owner_did_not_allow_fails_and_says_what_to_switch_on(player: Player, agent: AgentThread) -> None:
    end = player.finished(player.run(SHELL))
    assert end.data.outcome == "failed"
    assert "--allow shell" in end.data.failure.error
    assert [event.type for event in player.facts("job")] == ["event.job.finished"]


def test_what_the_owner_allowed_runs(player: Player, start_agent: StartAgent) -> None:
    start_agent(allows=frozenset({"shell"}))
    player.connected()
    assert player.finished(player.run(SHELL)).data.result == "ran"


# results and output


def test_a_result_is_in_the_fact_up_to_its_limit_and_beyond_it_a_blob(player: Player, agent: AgentThread) -> None:
    fits = player.finished(player.run(LARGE, {"size": MAX_INLINE_RESULT - 2})).data
    assert len(fits.result) == MAX_INLINE_RESULT - 2
    assert fits.result_blob is None
    beyond = player.finished(player.run(LARGE, {"size": 1_000_000})).data
    assert beyond.result is None
    assert blob(player, beyond.result_blob) == b'"' + b"x" * 1_000_000 + b'"'


def test_the_whole_output_is_a_blob_that_is_there_before_the_fact(player: Player, agent: AgentThread) -> None:
    text = "".join(f"line {n}\n" for n in range(1, 50_001))
    end = player.finished(player.run(PRINT, {"lines": 50_000})).data
    # read at once: whoever reads the fact must find the blob
    assert blob(player, end.output.blob).decode() == text
    assert (end.output.lines, end.output.size, end.output.dropped) == (50_000, len(text), 0)
    assert end.output.tail == text[-2_000:]


def test_an_end_that_does_not_fit_into_an_event_is_said_without_what_is_too_much(
    player: Player, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 2_000)
    end = player.finished(player.run(LARGE, {"size": 5_000})).data
    assert end.outcome == "failed"
    assert "fit into one event" in end.failure.error


def test_a_job_that_prints_nothing_has_no_blob(player: Player, agent: AgentThread) -> None:
    end = player.finished(player.run(EMPTY)).data
    assert end.output.blob is None
    assert end.output.tail == ""


def test_lines_can_be_followed_while_the_job_runs(player: Player, agent: AgentThread, marks: Path) -> None:
    gate = marks.with_name("gate")
    source = "print('hello')\n        time.sleep(0.01)"
    job = player.run(
        MARK_AND_WAIT.replace("time.sleep(0.01)", source), {"path": str(marks), "text": "ran", "until": str(gate)}
    )
    heard = wait_until(lambda: player.telemetry("output", job), deadline=SOON, what="lines of the running job")
    assert player.facts("job.finished") == []
    assert heard[0].data.lines[0].text == "hello"
    gate.touch()
    end = player.finished(job)

    def all_lines() -> list[int]:
        lines = [line.n for event in player.telemetry("output", job) for line in event.data.lines]
        return lines if len(lines) >= end.data.output.lines else []

    assert wait_until(all_lines, deadline=SOON, what="all lines") == list(range(1, end.data.output.lines + 1))


def test_many_lines_come_in_messages_of_at_most_a_hundred(player: Player, agent: AgentThread) -> None:
    job = player.run(PRINT, {"lines": 5_000})
    player.finished(job)
    messages = wait_until(lambda: player.telemetry("output", job), deadline=SOON, what="lines")
    assert max(len(event.data.lines) for event in messages) <= 100
    assert len(messages) < 1_000


# ending jobs


def test_a_running_job_is_cancelled(player: Player, agent: AgentThread, marks: Path) -> None:
    job, _ = hold(player, marks)
    stop = player.stop(job)
    end = player.finished(job)
    assert end.data.outcome == "cancelled"
    assert end.causationid == stop.fact


def test_a_job_that_waits_for_a_worker_is_cancelled_and_never_begins(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    first, gate = hold(player, marks)
    waiting = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "waiting", "until": str(gate)})
    player.stop(waiting)
    assert player.finished(waiting).data.outcome == "cancelled"
    gate.touch()
    player.finished(first)
    assert "waiting" not in seen(marks)
    assert player.facts("job.started", waiting) == []


def test_a_job_that_is_cancelled_before_its_order_comes_never_begins(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    delivery = player.run_job(MARK, {"path": str(marks), "text": "ran"})
    stop = player.stop(delivery.job)
    end = player.finished(delivery.job)
    assert (end.data.outcome, end.causationid, end.correlationid) == ("cancelled", stop.fact, stop.correlation)
    player.deliver(delivery)
    player.finished(player.run(EMPTY))
    assert seen(marks) == []
    player.finished(delivery.job)


def test_order_and_cancellation_in_one_breath_end_once(player: Player, agent: AgentThread, marks: Path) -> None:
    jobs = []
    for n in range(30):
        delivery = player.run_job(MARK, {"path": str(marks), "text": str(n)})
        player.deliver(delivery)
        player.stop(delivery.job)
        player.deliver(delivery)
        player.stop(delivery.job)
        jobs.append(delivery.job)
    ends = player.all_finished(jobs)
    ran = seen(marks)
    assert len(ran) == len(set(ran))
    for n, job in enumerate(jobs):
        assert ends[job].data.outcome == "cancelled" or str(n) in ran


def test_cancelling_an_ended_job_says_nothing_more(player: Player, agent: AgentThread) -> None:
    job = player.run(EMPTY)
    player.finished(job)
    player.stop(job)
    player.finished(player.run(EMPTY))
    assert player.finished(job).data.outcome == "succeeded"


# deadlines


def test_a_job_that_comes_after_its_start_by_is_not_run_and_nothing_is_said(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    late = player.run(MARK, {"path": str(marks), "text": "late"}, start_within=-0.001)
    player.finished(player.run(EMPTY))
    assert seen(marks) == []
    assert player.facts("job", late) == []


def test_a_job_that_gets_no_worker_before_its_start_by_never_begins(
    player: Player, start_agent: StartAgent, marks: Path
) -> None:
    clock = FrozenClock(datetime.now(UTC))
    agent = start_agent(clock=clock)
    player.connected()
    _, gate = hold(player, marks)
    params = {"path": str(marks), "text": "late", "until": str(gate)}
    late = player.run(MARK_AND_WAIT, params, start_within=600)
    after = player.run(MARK_AND_WAIT, {**params, "text": "after"}, start_within=7_200)
    wait_until(lambda: agent.marks().get(late) == "accepted", deadline=SOON, what="the late job to be accepted")
    clock.time += timedelta(seconds=3_600)
    wait_until(lambda: agent.marks().get(late) == "expired", deadline=SOON, what="the late job to be let go")
    gate.touch()
    assert player.finished(after).data.outcome == "succeeded"
    assert "late" not in seen(marks)
    assert player.facts("job", late) == []
    # delivered again, it is known
    player.run(MARK_AND_WAIT, job=late, start_within=7_200)
    player.finished(player.run(EMPTY, start_within=7_200))
    assert player.facts("job", late) == []


# what the fleet says of the node


def test_roles_are_bound_as_the_fleet_says_and_unbound_when_taken_away(player: Player, agent: AgentThread) -> None:
    player.finished(player.run(EMPTY, via="cpu"))
    player.stand(10, roles=("storage.ssd",))
    delivery = player.run_job(EMPTY)
    wait_until(lambda: player.try_deliver(delivery, "storage.ssd"), deadline=SOON, what="the new role to be bound")
    player.finished(delivery.job)
    assert not player.try_deliver(player.run_job(EMPTY), "cpu")


def test_an_older_standing_does_not_replace_a_newer(player: Player, agent: AgentThread) -> None:
    player.stand(10, roles=("new",))
    player.stand(9, roles=("old",))
    player.finished(player.run(EMPTY))
    assert player.try_deliver(player.run_job(EMPTY), "new")
    assert not player.try_deliver(player.run_job(EMPTY), "old")


def test_roles_outlive_a_restart(player: Player, start_agent: StartAgent) -> None:
    agent = start_agent(roles=("declared",))
    player.connected()
    player.stand(10, roles=("granted",))
    player.finished(player.run(EMPTY))
    agent.stop()
    start_agent(roles=("declared",))
    player.connected(2)
    player.finished(player.run(EMPTY, via="granted"))
    assert not player.try_deliver(player.run_job(EMPTY), "declared")


def test_a_standing_of_a_new_log_counts_after_a_restart_whatever_its_offset(
    player: Player, start_agent: StartAgent
) -> None:
    agent = start_agent()
    player.connected()
    player.stand(1_000_000, roles=("old",))
    player.finished(player.run(EMPTY))
    agent.stop()
    start_agent()
    player.connected(2)
    player.stand(3, roles=("new",))
    player.finished(player.run(EMPTY))
    assert player.try_deliver(player.run_job(EMPTY), "new")


def test_a_removed_node_stops_and_says_so(
    player: Player, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agent_module, "REMOVED_FOR", 0.2)
    agent = start_agent()
    player.connected()
    player.stand(10, removed=True)
    assert agent.wait() == 3
    assert "removed from the fleet" in capsys.readouterr().out


def test_the_removal_of_a_former_node_does_not_stop_the_one_that_joined_anew(
    player: Player, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "REMOVED_FOR", 4.0)
    start_agent()
    player.connected()
    player.stand(10, removed=True)
    player.stand(20, roles=("cpu",))
    swept = player.run(EMPTY, start_within=60)
    player.finished(swept)
    beats = len(player.telemetry("heartbeat"))
    wait_until(lambda: len(player.telemetry("heartbeat")) >= beats + 2, deadline=SOON, what="the agent to live on")


# what comes that should not


def test_garbage_in_the_inbox_stops_nothing(player: Player, agent: AgentThread) -> None:
    for body in (b"", b"{", b'{"type":"run"}', b"\xff\xfe", b"[" * 100_000, b'{"type":"stop","job":"x"}'):
        assert player.bus.deliver("n1.node", body).result(SOON)
    assert player.finished(player.run(EMPTY)).data.outcome == "succeeded"
    wait_until(lambda: player.inbox_size() == 0, deadline=SOON, what="all deliveries to be acknowledged")


def test_a_delivery_that_is_read_but_cannot_be_taken_stops_nothing(player: Player, agent: AgentThread) -> None:
    without_zone = replace(player.run_job(EMPTY), start_by=datetime(2026, 1, 1))  # noqa: DTZ001 (the mistake)
    player.deliver(without_zone)
    assert player.finished(player.run(EMPTY)).data.outcome == "succeeded"
    wait_until(lambda: player.inbox_size() == 0, deadline=SOON, what="all deliveries to be acknowledged")


def test_the_data_folder_is_closed_to_others(player: Player, start_agent: StartAgent, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    agent = start_agent()
    player.connected()
    assert stat.S_IMODE(agent.data.stat().st_mode) == 0o700


def test_a_delivery_for_another_node_is_not_run(player: Player, agent: AgentThread, marks: Path) -> None:
    other = Player(player.folder, "n2")
    stray = other.run_job(MARK, {"path": str(marks), "text": "stray"})
    player.deliver(stray)
    player.finished(player.run(EMPTY))
    assert seen(marks) == []
    assert player.facts("job", stray.job) == []
    other.close()


# who it is


@pytest.mark.slow
def test_a_clone_with_the_same_identity_is_refused(
    player: Player, agent: AgentThread, start_agent: StartAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = start_agent(data="clone")
    assert clone.wait() == 3
    assert "may not be the node 'n1'" in capsys.readouterr().out
    assert player.finished(player.run(EMPTY)).data.outcome == "succeeded"
    assert len({event.data.boot for event in player.facts("node.connected")}) == 1


def test_two_agents_do_not_share_a_data_folder(
    player: Player, agent: AgentThread, start_agent: StartAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    second = start_agent(bus=EmbeddedBus(player.folder, "node.n2"))
    assert second.wait() == 3
    assert "another agent uses the data folder" in capsys.readouterr().out


def test_a_damaged_journal_is_named_and_the_agent_does_not_start(
    player: Player, start_agent: StartAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal.db").write_bytes(b"damaged" * 10_000)
    assert start_agent().wait() == 1
    assert "journal.db" in capsys.readouterr().out


# stopping


def test_what_runs_when_the_agent_stops_may_end_within_the_grace(
    player: Player, start_agent: StartAgent, marks: Path
) -> None:
    agent = start_agent(grace=SOON)
    player.connected()
    job, gate = hold(player, marks)
    agent.stop_event.set()
    gate.touch()
    assert agent.wait() == 0
    assert player.finished(job).data.outcome == "succeeded"


def test_what_runs_beyond_the_grace_fails_and_what_waits_is_run_at_the_next_start(
    player: Player, start_agent: StartAgent, marks: Path
) -> None:
    agent = start_agent(grace=0.2)
    player.connected()
    running, gate = hold(player, marks)
    waiting = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "waiting", "until": str(gate)})
    wait_until(lambda: agent.marks().get(waiting) == "accepted", deadline=SOON, what="the second job to be accepted")
    assert agent.stop() == 0
    end = player.finished(running)
    assert end.data.outcome == "failed"
    assert "agent was stopped" in end.data.failure.error
    assert player.facts()[-1].type == "event.node.disconnected"
    assert player.facts("job", waiting) == []
    gate.touch()
    start_agent()
    assert waiting in player.connected(2).data.open_jobs
    assert player.finished(waiting).data.outcome == "succeeded"
    assert seen(marks).count("waiting") == 1


def test_the_farewell_is_the_last_fact_of_an_agent(player: Player, agent: AgentThread) -> None:
    jobs = [player.run(EMPTY) for _ in range(10)]
    player.all_finished(jobs)
    agent.stop()
    assert player.facts()[-1].type == "event.node.disconnected"
    assert player.facts()[-1].data.boot == player.connected().data.boot
    beats = player.telemetry("heartbeat")
    assert all(beat.time <= player.facts()[-1].time for beat in beats)


def test_what_comes_after_the_stop_stays_in_the_inbox(player: Player, start_agent: StartAgent) -> None:
    agent = start_agent()
    player.connected()
    agent.stop()
    job = player.run(EMPTY)
    assert player.facts("job", job) == []
    start_agent()
    assert player.finished(job).data.outcome == "succeeded"
