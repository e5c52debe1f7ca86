"""Scripts that the node starts by itself: at boot and on the clock, never twice, never over each other."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from events.header import script_hash
from nodeagent import agent as agent_module
from nodeagent.schedule import run_id
from tests.agents import SOON, AgentProcess, AgentThread, FrozenClock, Player
from tests.jobscripts import EMPTY
from tests.waiting import wait_until

StartAgent = Callable[..., AgentThread]


def script(marks: Path, name: str, header: str, body: str = "") -> tuple[str, str]:
    """A script that leaves its name as a mark when it runs."""
    source = f"""
import time

name = {name!r}
descr = "Runs by itself."
{header}

def action():
    with open({str(marks)!r}, "a") as file:
        file.write({name!r} + "\\n")
    {body or "return 7"}
"""
    return name, source


def seen(marks: Path, name: str) -> int:
    return marks.read_text().split().count(name)


def own_runs(player: Player, name: str) -> list[str]:
    """Ids of the runs that were said to have started."""
    return [event.data.job for event in player.facts("job.started") if event.data.order.script == name]


def test_a_boot_script_runs_once_when_the_agent_starts(player: Player, start_agent: StartAgent, marks: Path) -> None:
    boot = script(marks, "atboot", "startatboot = True")
    for start in (1, 2):
        agent = start_agent()
        id = player.connected(start).data.boot
        for offset in range(3):
            player.stand(offset, boot)
        job = run_id("n1", script_hash(boot[1]), f"boot {id}")
        assert player.finished(job).data.result == 7
        player.stand(9, boot)
        player.finished(player.run(EMPTY))
        agent.stop()
        assert seen(marks, "atboot") == start


def test_a_new_version_of_a_boot_script_waits_for_the_next_start(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    name, source = script(marks, "atboot", "startatboot = True")
    player.stand(1, (name, source))
    wait_until(lambda: seen(marks, "atboot"), deadline=SOON, what="the script to run")
    player.stand(2, (name, source + "# changed\n"), script(marks, "other", "startatboot = True"))
    wait_until(lambda: seen(marks, "other"), deadline=SOON, what="the one that is new to run")
    assert seen(marks, "atboot") == 1


def test_a_run_of_the_agents_own_is_a_job_that_begins_at_started(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    boot = script(marks, "atboot", "startatboot = True\ntimeout = 33")
    player.stand(1, boot)
    (started,) = wait_until(lambda: player.facts("job.started"), deadline=SOON, what="the start")
    assert started.data.own.slot.startswith("boot ")
    order = started.data.order
    assert (order.script, order.hash, order.by, order.timeout) == ("atboot", script_hash(boot[1]), "node:n1", 33)
    ended = player.finished(started.data.job)
    assert (started.correlationid, started.causationid) == (started.data.job, None)
    assert (ended.correlationid, ended.causationid) == (started.data.job, started.id)


def test_boot_scripts_begin_in_their_order(player: Player, agent: AgentThread, marks: Path) -> None:
    scripts = [
        script(marks, "third", "startatboot = True\norder = 3\nqueue = 'one'"),
        script(marks, "first", "startatboot = True\norder = -1\nqueue = 'one'"),
        script(marks, "second", "startatboot = True\norder = 2\nqueue = 'one'"),
    ]
    player.stand(1, *scripts)
    wait_until(lambda: len(marks.read_text().split()) == 3, deadline=SOON, what="the three to run")
    assert marks.read_text().split() == ["first", "second", "third"]


def test_a_periodic_script_runs_at_each_slot_of_the_clock_once(player: Player, agent: AgentThread, marks: Path) -> None:
    player.stand(1, script(marks, "often", "period = 1"))
    wait_until(lambda: seen(marks, "often") >= 3, deadline=SOON, what="three runs")
    agent.stop()
    slots = [event.data.own.slot for event in player.facts("job.started")]
    assert len(slots) == len(set(slots)) == seen(marks, "often")
    player.all_finished(own_runs(player, "often"))


def test_runs_of_a_periodic_script_never_overlap(player: Player, agent: AgentThread, marks: Path) -> None:
    body = f"time.sleep(2.2); open({str(marks)!r}, 'a').write('end\\n')"
    player.stand(1, script(marks, "slow", "period = 1", body))
    wait_until(lambda: seen(marks, "end") >= 2, deadline=SOON, what="two runs")
    words = marks.read_text().split()
    assert words[:4] == ["slow", "end", "slow", "end"]


def test_a_quiet_script_leaves_telemetry_only(player: Player, agent: AgentThread, marks: Path) -> None:
    player.stand(1, script(marks, "quiet", "startatboot = True\nlog = False", "print('hush'); return 7"))
    (said,) = wait_until(lambda: player.telemetry("run"), deadline=SOON, what="telemetry of the run")
    assert (said.data.script, said.data.node, said.data.result) == ("quiet", "n1", 7)
    player.finished(player.run(EMPTY))
    assert player.facts("job", said.data.job) == []
    assert player.telemetry("output", said.data.job) == []


def test_a_quiet_script_that_fails_is_logged_whole(player: Player, agent: AgentThread, marks: Path) -> None:
    quiet = script(marks, "quiet", "startatboot = True\nlog = False", "raise ValueError('no')")
    player.stand(1, quiet)
    (end,) = wait_until(lambda: player.facts("job.finished"), deadline=SOON, what="the end")
    assert end.data.outcome == "failed"
    assert end.data.order.script == "quiet"
    assert end.data.own.slot.startswith("boot ")
    assert end.correlationid == end.data.job
    assert player.facts("job.started") == []
    assert player.telemetry("run") == []


def test_in_maintenance_health_checks_rest_and_others_run(player: Player, agent: AgentThread, marks: Path) -> None:
    check = script(marks, "check", "period = 1\ncategory = 'monitor.healthcheck'")
    other = script(marks, "other", "period = 1")
    player.stand(1, check, other, maintenance=True)
    wait_until(lambda: seen(marks, "other") >= 3, deadline=SOON, what="the other script to run")
    assert seen(marks, "check") == 0
    player.stand(2, check, other)
    wait_until(lambda: seen(marks, "check"), deadline=SOON, what="the check to run again")


def test_a_script_that_is_taken_off_the_list_runs_no_more(player: Player, agent: AgentThread, marks: Path) -> None:
    # one worker: what was begun of the old one has ended when the new one runs
    player.stand(1, script(marks, "old", "period = 1\nqueue = 'one'"))
    wait_until(lambda: seen(marks, "old"), deadline=SOON, what="the script to run")
    player.stand(2, script(marks, "new", "period = 1\nqueue = 'one'"))
    wait_until(lambda: seen(marks, "new"), deadline=SOON, what="the new one to run")
    before = seen(marks, "old")
    wait_until(lambda: seen(marks, "new") >= 3, deadline=SOON, what="the new one to go on")
    assert seen(marks, "old") == before


def test_a_disabled_script_and_one_that_is_not_allowed_are_not_started(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    player.stand(
        1,
        script(marks, "disabled", "period = 1\nenable = False"),
        script(marks, "forbidden", "period = 1\nrequires = ['shell']"),
        script(marks, "fine", "period = 1"),
    )
    wait_until(lambda: seen(marks, "fine") >= 2, deadline=SOON, what="the allowed one to run")
    assert set(marks.read_text().split()) == {"fine"}


def test_a_script_without_its_source_is_asked_for(
    player: Player, agent: AgentThread, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "ASK_EVERY", 0.1)
    name, source = script(marks, "atboot", "startatboot = True")
    player.stand_without_sources(1, (name, source))
    player.connected(2)
    player.stand(2, (name, source))
    wait_until(lambda: seen(marks, "atboot"), deadline=SOON, what="the script to run")


def test_one_unusable_script_does_not_keep_the_others_from_running(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    player.stand(1, ("broken", "this is no Python"), script(marks, "fine", "startatboot = True"))
    wait_until(lambda: seen(marks, "fine"), deadline=SOON, what="the other to run")


def test_while_the_bus_does_not_confirm_scripts_run_on_the_clock(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    player.stand(1, script(marks, "often", "period = 1"))
    wait_until(lambda: seen(marks, "often"), deadline=SOON, what="the script to run")
    player.break_log()
    before = seen(marks, "often")
    wait_until(lambda: seen(marks, "often") >= before + 2, deadline=SOON, what="it to run on")
    player.mend_log()
    wait_until(lambda: len(own_runs(player, "often")) > before + 2, deadline=SOON, what="the facts to arrive")
    agent.stop()
    player.all_finished(own_runs(player, "often"))
    assert player.gaps() == []


def test_without_word_from_the_handlers_the_list_of_the_last_time_counts(
    player: Player, start_agent: StartAgent, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start_agent()
    player.connected()
    player.stand(1, script(marks, "often", "period = 1"))
    wait_until(lambda: seen(marks, "often"), deadline=SOON, what="the script to run")
    agent.stop()
    before = seen(marks, "often")
    monkeypatch.setattr(agent_module, "STANDING_WITHIN", 0.5)
    start_agent()
    wait_until(lambda: seen(marks, "often") > before, deadline=SOON, what="it to run again")


def test_a_slot_that_was_run_is_not_run_again_by_the_next_start(
    player: Player, start_agent: StartAgent, marks: Path
) -> None:
    clock = FrozenClock(datetime.now(UTC).replace(microsecond=0))
    hourly = script(marks, "hourly", "period = 3600")
    agent = start_agent(clock=clock)
    player.connected()
    player.stand(1, hourly)
    player.finished(player.run(EMPTY, start_within=7_200))
    slot = clock.time.replace(minute=0, second=0) + timedelta(hours=1)
    for start in (2, 3):
        clock.time = slot + timedelta(seconds=1)
        wait_until(lambda: seen(marks, "hourly") == 1, deadline=SOON, what="the run of the slot")
        agent.stop()
        clock.time = slot - timedelta(seconds=1)
        agent = start_agent(clock=clock)
        player.connected(start)
        player.stand(start, hourly)
        player.finished(player.run(EMPTY, start_within=7_200))
    clock.time = slot + timedelta(seconds=1)
    player.finished(player.run(EMPTY, start_within=7_200))
    assert seen(marks, "hourly") == 1


@pytest.mark.chaos
@pytest.mark.slow
def test_a_run_that_a_crash_interrupts_is_failed_and_its_slot_is_not_repeated(
    player: Player, start_process: Callable[[], AgentProcess], marks: Path
) -> None:
    agent = start_process()
    player.connected()
    quiet = script(marks, "quiet", "startatboot = True\nlog = False", "time.sleep(1000)")
    player.stand(1, quiet)
    wait_until(lambda: seen(marks, "quiet"), deadline=SOON, what="the script to run")
    agent.kill()
    start_process()
    (end,) = wait_until(lambda: player.facts("job.finished"), deadline=SOON, what="the end of the interrupted run")
    assert (end.data.outcome, end.data.order.script) == ("failed", "quiet")
    assert "started anew" in end.data.failure.error
