"""What the agent says all the time: heartbeats, statistics, lines. Never in the log, never in the outbox."""

from collections.abc import Callable

import pytest

from nodeagent import heartbeat as heartbeat_module
from nodeagent import telemetry as telemetry_module
from nodeagent.stats import NAMES
from tests.agents import SOON, AgentThread, Player
from tests.jobscripts import EMPTY, PRINT
from tests.waiting import wait_until

StartAgent = Callable[..., AgentThread]

#: Seconds of silence after which the handlers say that a node is offline (docs/design.md, section 6).
OFFLINE_AFTER = 20.0


def test_a_node_may_miss_three_heartbeats_before_it_counts_as_offline() -> None:
    assert 4 * heartbeat_module.BEAT_EVERY <= OFFLINE_AFTER


def test_heartbeats_count_what_there_is_and_name_the_start(
    player: Player, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "BEAT_EVERY", 0.1)
    start_agent()
    boot = player.connected().data.boot
    first = wait_until(lambda: player.telemetry("heartbeat"), deadline=SOON, what="a heartbeat")[0].data
    assert (first.node, first.boot, first.running) == ("n1", boot, 0)
    player.break_log()
    player.run(EMPTY)
    wait_until(
        lambda: player.telemetry("heartbeat")[-1].data.outbox == 2, deadline=SOON, what="the facts in the outbox"
    )
    player.mend_log()
    wait_until(
        lambda: player.telemetry("heartbeat")[-1].data.outbox == 0, deadline=SOON, what="the facts to be confirmed"
    )


def test_statistics_are_those_of_the_table(
    player: Player, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "BEAT_EVERY", 0.1)
    monkeypatch.setattr(heartbeat_module, "STATS_EVERY", 0.2)
    start_agent()
    (stats, *_) = wait_until(lambda: player.telemetry("stats"), deadline=SOON, what="statistics")
    assert stats.data.node == "n1"
    assert set(stats.data.values) <= set(NAMES)
    assert stats.data.values["memory_total_bytes"] > 0


def test_telemetry_is_not_in_the_log(player: Player, agent: AgentThread) -> None:
    player.finished(player.run(PRINT, {"lines": 100}))
    assert {event.type.split(".")[0] for event in player.facts()} == {"event"}
    assert wait_until(lambda: player.telemetry("output"), deadline=SOON, what="the lines")


def test_a_bus_that_takes_no_telemetry_holds_no_job_up(
    player: Player, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "MAX_UNCONFIRMED", 0)
    start_agent()
    player.connected()
    end = player.finished(player.run(PRINT, {"lines": 20_000}))
    assert end.data.outcome == "succeeded"
    assert player.telemetry("output") == []
