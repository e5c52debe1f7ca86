"""The statistics of a node: the names of the table, numbers that can be."""

import math

from nodeagent.stats import NAMES, Agent, Stats

AGENT = Agent(jobs_running=1, jobs_accepted=2, outbox_facts=3, outbox_refused=4, telemetry_dropped=5)


def test_only_names_of_the_table_are_said() -> None:
    values = Stats().measure(AGENT)
    assert set(values) <= set(NAMES)
    # a machine without disks or network cards leaves those out
    assert {name for name in NAMES if "per_second" not in name} <= set(values)


def test_numbers_are_finite_and_not_negative() -> None:
    stats = Stats()
    for values in (stats.measure(AGENT), stats.measure(AGENT)):
        assert all(math.isfinite(value) and value >= 0 for value in values.values())
        assert values["cpu_percent"] <= 100
        assert values["memory_used_bytes"] <= values["memory_total_bytes"]
        assert values["disk_used_bytes"] <= values["disk_total_bytes"]


def test_the_agents_own_numbers_are_passed_on() -> None:
    values = Stats().measure(AGENT)
    assert (values["jobs_running"], values["jobs_accepted"], values["outbox_facts"]) == (1, 2, 3)
    assert (values["outbox_refused"], values["telemetry_dropped"]) == (4, 5)


def test_every_name_that_carries_a_unit_says_it_last() -> None:
    for name in NAMES:
        if any(word in name for word in ("memory", "swap", "disk")):
            assert name.endswith(("_bytes", "_bytes_per_second"))
