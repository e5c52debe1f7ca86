"""Where a job's time went: hops from what the view has, also when clocks differ or marks are missing."""

from datetime import UTC, datetime, timedelta
from typing import Any

from portal.pages.hops import brief, rows_of
from portal.timeline import HANDLERS, NODE, SENDER, Hop, hops

BEGIN = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
FINISHED = [{"type": "event.job.finished"}]


def at(milliseconds: float) -> str:
    return (BEGIN + timedelta(milliseconds=milliseconds)).isoformat().replace("+00:00", "Z")


def whole(**more: Any) -> dict[str, Any]:
    """A job with all its marks; `node_ahead`: milliseconds that the node's clock is ahead."""
    ahead = more.pop("node_ahead", 0)
    return {
        "submitted_at": at(5),
        "queued_at": at(5),
        "received_at": at(12 + ahead),
        "accepted_at": at(15 + ahead),
        "started_at": at(40 + ahead),
        "began_at": at(43 + ahead),
        "duration": 0.5,
        "ended_at": at(545 + ahead),
        "history": FINISHED,
        **more,
    }


def told(found: list[Hop]) -> list[tuple[str, float | None]]:
    return [(hop.name, hop.seconds) for hop in found]


def test_each_hop_goes_from_one_mark_to_the_next() -> None:
    assert told(hops(whole(), at(0))) == [
        ("decide", 0.005),
        ("deliver", 0.007),
        ("write the journal", 0.003),
        ("wait for a worker", 0.025),
        ("start the script", 0.003),
        ("run", 0.5),
        ("tell the end", 0.002),
    ]


def test_a_job_that_waited_for_a_node_says_so() -> None:
    found = hops(whole(submitted_at=at(2), queued_at=at(5)), at(0))
    assert told(found)[:3] == [("decide", 0.002), ("wait for a node", 0.003), ("deliver", 0.007)]


def test_what_nobody_marked_goes_on_to_the_next_mark() -> None:
    bare = whole(received_at=None, accepted_at=None, began_at=None)
    assert told(hops(bare, None)) == [("deliver", 0.035), ("run", 0.505)]


def test_a_run_of_the_nodes_own_begins_with_its_start() -> None:
    own = whole(submitted_at=at(40), queued_at=None, received_at=None, accepted_at=None, own_slot="period x")
    assert told(hops(own, None)) == [("start the script", 0.003), ("run", 0.5), ("tell the end", 0.002)]


def test_a_hop_is_never_negative_and_the_clocks_are_blamed() -> None:
    deliver = hops(whole(node_ahead=-60), at(0))[1]
    assert (deliver.seconds, deliver.differ, deliver.clocks) == (0.0, 0.053, (HANDLERS, NODE))
    row = rows_of([deliver], BEGIN)[0]
    assert row.note == "the clocks of the handlers and the node differ by at least 53 ms; shown as 0"


def test_a_senders_clock_may_be_ahead_and_a_nodes_may_be_set_back() -> None:
    decide = hops(whole(), at(1_000))[0]
    assert (decide.seconds, decide.differ, decide.clocks) == (0.0, 0.995, (SENDER, HANDLERS))
    journal = hops(whole(accepted_at=at(2)), at(0))[2]
    assert (journal.seconds, journal.differ) == (0.0, 0.01)
    assert rows_of([journal], BEGIN)[0].note.startswith("the clock of the node was set back by at least 10 ms")


def test_the_last_hop_of_an_unfinished_job_lasts() -> None:
    running = whole(ended_at=None, duration=None, history=[])
    assert told(hops(running, at(0)))[-1] == ("run", None)
    queued = {"submitted_at": at(5), "queued_at": at(5), "ended_at": None}
    assert told(hops(queued, at(0))) == [("decide", 0.005), ("deliver", None)]
    assert rows_of(hops(queued, at(0)), BEGIN + timedelta(seconds=3))[-1].took == "3 s so far"


def test_what_the_fleet_inferred_has_the_handlers_clock() -> None:
    lost = whole(began_at=None, duration=None, ended_at=at(120_000), history=[{"type": "event.job.lost"}])
    assert hops(lost, at(0))[-1].clocks == (NODE, HANDLERS)


def test_nothing_is_told_of_a_job_that_nobody_has_spoken_of() -> None:
    assert hops({}, None) == []
    assert rows_of([], BEGIN) == []


def test_bars_stand_one_after_the_other_in_the_picture() -> None:
    bars = [row.bar for row in rows_of(hops(whole(node_ahead=-60), at(0)), BEGIN)]
    assert all('x="-' not in bar for bar in bars)
    assert 'x="0.0"' in bars[0]


def test_short_times_have_tenths_of_milliseconds() -> None:
    assert (brief(0.0004), brief(0.0072), brief(0.25), brief(200)) == ("0.4 ms", "7.2 ms", "250 ms", "3 min 20 s")
