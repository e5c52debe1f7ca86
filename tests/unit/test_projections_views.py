"""Views of nodes, batches, scripts and commands, and the index of the log: given what was said, then what is seen."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from events.job import Target
from events.registry import TYPES
from events.seat import SeatTick
from projections.events_index import EXCERPT, MAX_AGAIN
from projections.osis.documents import Document
from projections.projection import Projection, moment
from projections.registry import PROJECTIONS, checked, versions
from tests.folding import Collections, fold_log
from tests.stories import Story


def views(story: Story) -> Collections:
    return fold_log(story.records())


def given_script() -> Story:
    story = Story()
    story.script("facts")
    return story


# nodes


def node(story: Story, name: str = "n1") -> Document:
    return views(story)["nodes"][name]


def test_a_machine_that_was_invited_and_never_connected_has_joined() -> None:
    story = Story()
    joined = story.joined("n1", roles=["cpu"])

    seen = node(story)

    assert (seen["state"], seen["roles"], seen["joined_at"]) == ("joined", ["cpu"], moment(joined.time))


def test_a_node_that_connects_is_online_and_tells_about_itself() -> None:
    story = Story()
    connected = story.node("n1", roles=["cpu"], allows=("shell",), version="0.1.0")

    seen = node(story)

    assert (seen["state"], seen["roles"], seen["allows"]) == ("online", ["cpu"], ["shell"])
    assert (seen["hostname"], seen["version"]) == ("n1.example", "0.1.0")
    assert (seen["boot"], seen["journal"]) == (connected.data.boot, connected.data.journal)
    assert seen["connected_at"] == seen["changed_at"] == moment(connected.time)
    assert seen["offline_since"] is None


def test_the_roles_that_an_agent_brings_count_only_the_first_time() -> None:
    story = Story()
    story.node("n1", roles=["cpu"])
    story.node("n1", roles=["gpu"])
    assert node(story)["roles"] == ["cpu"]

    story.roles("n1", ["gpu", "disk"])
    story.node("n1", roles=["cpu"])

    assert node(story)["roles"] == ["gpu", "disk"]


def test_a_node_goes_offline_and_comes_back() -> None:
    story = Story()
    story.node("n1")
    offline = story.offline("n1")
    assert (node(story)["state"], node(story)["offline_since"]) == ("offline", moment(offline.time))

    story.online("n1")

    assert (node(story)["state"], node(story)["offline_since"]) == ("online", None)


def test_an_agent_that_stops_in_good_order_is_offline_at_once() -> None:
    story = Story()
    story.node("n1")
    stopped = story.disconnected("n1")
    story.offline("n1")

    assert (node(story)["state"], node(story)["offline_since"]) == ("offline", moment(stopped.time))


def test_the_farewell_of_an_earlier_start_of_the_agent_does_not_count() -> None:
    story = Story()
    story.node("n1")
    early = story.agent("n1")
    story.node("n1")
    late = story.agent("n1")
    story._agents["n1"] = early
    story.disconnected("n1")
    story._agents["n1"] = late

    assert node(story)["state"] == "online"


def test_maintenance_is_seen_with_its_reason_until_it_is_over() -> None:
    story = Story()
    story.node("n1")
    story.maintenance("n1", reason="new disks")
    assert (node(story)["maintenance"], node(story)["maintenance_reason"]) == (True, "new disks")

    story.maintenance("n1", on=False, reason="done")

    assert (node(story)["maintenance"], node(story)["maintenance_reason"]) == (False, "")


def test_a_removed_node_is_not_listened_to_until_it_joins_again_and_then_begins_anew() -> None:
    story = Story()
    story.node("n1", roles=["cpu"])
    story.maintenance("n1")
    story.removed("n1")
    story.node("n1", roles=["cpu"])
    story.online("n1")
    assert node(story)["state"] == "removed"

    story.joined("n1", roles=["gpu"])
    assert (node(story)["state"], node(story)["roles"], node(story)["maintenance"]) == ("joined", ["gpu"], False)
    story.node("n1", roles=["cpu"])

    assert (node(story)["state"], node(story)["roles"]) == ("online", ["gpu"])


def test_facts_about_a_node_that_nobody_has_seen_make_none() -> None:
    story = Story()
    story.offline("n1")
    story.online("n1")
    story.roles("n1", ["cpu"])
    story.maintenance("n1")
    story.removed("n1")

    assert views(story)["nodes"] == {}


# batches


def test_a_batch_lists_its_jobs_and_what_was_asked_for() -> None:
    story = given_script()
    batch, jobs = story.batch("facts", ["n1", "n2"], size=1)

    seen = views(story)["batches"][batch]

    assert seen["jobs"] == [{"job": jobs[0], "node": "n1"}, {"job": jobs[1], "node": "n2"}]
    assert (seen["script"], seen["by"], seen["total"], seen["size"]) == ("facts", "user:alice", 2, 1)
    assert (seen["target"], seen["correlation"]) == ({"nodes": ["n1", "n2"]}, batch)
    assert not seen["cancel_requested"]


def test_a_batch_that_is_to_end_says_so_and_a_job_of_its_own_does_not_touch_it() -> None:
    story = given_script()
    batch, jobs = story.batch("facts", ["n1", "n2"])
    story.cancelled(jobs[0])
    assert not views(story)["batches"][batch]["cancel_requested"]

    story.cancelled(batch, jobs, reason="enough")

    seen = views(story)["batches"]
    assert (seen[batch]["cancel_requested"], seen[batch]["cancel_reason"]) == (True, "enough")
    assert list(seen) == [batch]


# scripts


def test_a_script_means_its_last_source_and_lists_the_earlier_ones() -> None:
    story = Story()
    first = story.script("facts")
    second = story.script("facts", 'descr = "better"\nperiod = 60\ndef action(path: str = "/"):\n    pass\n')

    seen = views(story)["scripts"]["facts"]

    assert (seen["hash"], seen["by"], seen["retired"]) == (second, "user:alice", False)
    assert [version["hash"] for version in seen["versions"]] == [first, second]
    assert (seen["header"]["descr"], seen["header"]["period"]) == ("better", 60)
    assert [param["name"] for param in seen["header"]["params"]] == ["path"]


def test_a_script_can_be_retired_and_published_again() -> None:
    story = given_script()
    story.retired("facts", "superseded")
    seen = views(story)["scripts"]["facts"]
    assert (seen["retired"], seen["retired_reason"]) == (True, "superseded")

    story.script("facts")

    assert not views(story)["scripts"]["facts"]["retired"]


def test_a_source_is_kept_once_with_all_its_names() -> None:
    story = Story()
    source = 'descr = "x"\ndef action():\n    pass\n'
    hash = story.script("one", source)
    first = story.said[-1].event
    assert first is not None
    story.script("two", source)
    story.script("one", source)

    seen = views(story)["script_versions"]

    assert list(seen) == [hash]
    assert (seen[hash]["names"], seen[hash]["source"]) == (["one", "two"], source)
    assert (seen[hash]["first_published_at"], seen[hash]["by"]) == (moment(first.time), "user:alice")


def test_a_header_that_todays_rules_refuse_is_shown_as_the_reason() -> None:
    story = Story()
    hash = story.script("odd", "def action():\n    pass\n")

    seen = views(story)

    assert "descr: is missing" in seen["scripts"]["odd"]["header"]
    assert seen["script_versions"][hash]["header"] == seen["scripts"]["odd"]["header"]


# commands


def test_a_command_waits_for_its_outcome() -> None:
    story = given_script()
    command = story.submit("facts", Target(node="n1"))

    seen = views(story)["commands"][command.id]

    assert (seen["type"], seen["subject"], seen["actor"]) == ("command.job.submit", "facts", "user:alice")
    assert (seen["time"], seen["offset"], seen["correlation"]) == (moment(command.time), 4, command.id)
    assert (seen["outcome"], seen["outcome_type"], seen["rejection"]) == (None, None, None)


def test_the_outcome_of_a_command_is_the_first_fact_that_names_it_as_its_cause() -> None:
    story = given_script()
    job = story.job("facts", node="n1")
    queued = story.said[-1].event
    assert queued is not None
    story.decide("event.seat.tick", SeatTick(), cause=job)
    story.rejected(next(said.event for said in story.said if said.event and said.event.id == job))

    seen = views(story)["commands"][job]

    assert (seen["outcome"], seen["outcome_type"]) == ("accepted", "event.job.queued")
    assert (seen["outcome_event"], seen["outcome_offset"]) == (queued.id, 5)
    assert seen["rejection"] is None


def test_a_rejected_command_says_why() -> None:
    story = given_script()
    command = story.submit("nothing", Target(node="n1"))
    story.rejected(command, "unknown_script", "there is no script 'nothing'")

    seen = views(story)["commands"][command.id]

    assert seen["outcome"] == "rejected"
    assert seen["rejection"]["reason"] == "unknown_script"
    assert seen["rejection"]["message"] == "there is no script 'nothing'"


def test_what_an_agent_says_is_no_outcome() -> None:
    story = given_script()
    command = story.submit("facts", Target(node="n1"))
    started = TYPES["event.job.started"].payload(job=command.id, node="n1")
    story.report("n1", "event.job.started", started, causationid=command.id)

    assert views(story)["commands"][command.id]["outcome"] is None


def test_facts_whose_cause_is_no_command_make_no_document() -> None:
    story = given_script()
    connected = story.node("n1")
    story.decide("event.node.online", TYPES["event.node.online"].payload(node="n1"), cause=connected)

    assert list(views(story)["commands"]) == [
        said.event.id for said in story.said if said.event and said.event.is_command
    ]


# the index of the log


def test_an_event_that_counts_is_found_by_its_id() -> None:
    story = given_script()
    job = story.job("facts", node="n1")
    queued = story.said[-1].event
    assert queued is not None

    seen = views(story)["events"][queued.id]

    assert (seen["offset"], seen["verdict"], seen["reason"]) == (5, "admitted", "")
    assert (seen["type"], seen["subject"], seen["actor"]) == ("event.job.queued", job, "system:fleet")
    assert (seen["user"], seen["key"]) == ("handlers", "event.job.queued")
    assert (seen["correlation"], seen["causation"]) == (job, job)
    assert seen["time"] == seen["logged_at"] == moment(queued.time)


def test_every_record_of_the_log_has_its_place_in_the_index() -> None:
    story = given_script()
    command = story.submit("facts", Target(node="n1"))
    story.again(command)
    story.decide("event.seat.tick", SeatTick(), seattoken=story.id())
    story.raw(b"not json")

    seen = views(story)["events"]

    assert sorted(one["offset"] for one in seen.values()) == list(range(len(story.said)))
    assert (seen["dup-5"]["verdict"], seen["dup-5"]["subject"]) == ("duplicate", "facts")
    assert seen["void-6"]["verdict"] == "void"
    assert "token" in seen["void-6"]["reason"]
    assert seen["bad-7"]["verdict"] == "bad"
    assert "CloudEvents" in seen["bad-7"]["reason"]


def test_a_bad_record_is_kept_with_its_beginning_and_the_log_time_at_its_place() -> None:
    story = Story()
    story.raw("grüße ".encode() * 2_000, user="service.billing", key="event.billing.paid")
    story.raw(b"\xff\xfe\x00", user="node.n1")

    seen = views(story)["events"]

    text, binary = seen["bad-2"], seen["bad-3"]
    assert (text["excerpt_base64"], text["size"], text["user"]) == (False, 16_000, "service.billing")
    assert len(text["excerpt"].encode()) in range(EXCERPT - 3, EXCERPT + 1)
    assert text["excerpt"].startswith("grüße grüße")
    assert (binary["excerpt_base64"], binary["excerpt"]) == (True, "//4A")
    assert text["time"] == text["logged_at"] == moment(story.now)
    assert text["type"] is None


def test_an_event_under_an_id_that_is_taken_does_not_hide_the_first() -> None:
    story = given_script()
    job = story.job("facts", node="n1")
    for _ in range(MAX_AGAIN + 5):
        story.report("n1", "event.job.started", TYPES["event.job.started"].payload(job=job, node="n1"), id=job)

    seen = views(story)["events"][job]

    assert (seen["type"], seen["actor"]) == ("command.job.submit", "user:alice")
    assert seen["again"][0] == {"offset": 6, "user": "node.n1"}
    assert len(seen["again"]) == MAX_AGAIN


# moments and names


def test_moments_sort_as_texts_whatever_their_zone_and_fraction() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    moments = [noon, noon + timedelta(microseconds=1), noon + timedelta(milliseconds=500), noon + timedelta(seconds=1)]
    elsewhere = [one.astimezone(timezone(timedelta(hours=-7))) for one in moments]

    assert [moment(one) for one in moments] == sorted(moment(one) for one in elsewhere)
    assert moment(noon) == "2026-03-01T12:00:00.000000Z"


def test_moments_at_the_ends_of_the_calendar_are_told_as_near_as_can_be() -> None:
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    late = datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))

    assert (moment(early), moment(late)) == ("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z")


def test_two_projections_of_one_name_are_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="'jobs': the name is taken"):
        checked([*PROJECTIONS, next(one for one in PROJECTIONS if one.name == "jobs")])


def test_a_projection_looks_only_at_types_that_there_are() -> None:
    for projection in PROJECTIONS:
        if isinstance(projection, Projection):
            assert projection.handles <= set(TYPES), projection.name
    assert set(versions()) == {"nodes", "jobs", "batches", "scripts", "script_versions", "commands", "events"}
