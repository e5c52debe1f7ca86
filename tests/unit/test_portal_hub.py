"""The loop's side of the log: waits, watchers that are slow, and what is kept for those who resume."""

import asyncio
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from events.envelope import Event
from events.job import CancelRequested, JobExpired
from portal.feed import Entry, Watcher
from portal.hub import Hub, LogState, Place, keys_of, parse_position, position

TIME = datetime(2026, 3, 1, tzinfo=UTC)


def entry(offset: int, type: str = "event.billing.paid", data: object = None, causationid: str | None = None) -> Entry:
    event = Event(
        id=str(uuid4()),
        source="test",
        type=type,
        subject="s",
        time=TIME,
        actor="system:fleet",
        data=data or {},
        causationid=causationid,
    )
    return Entry(offset, offset + 1, event, 100)


def state(next_offset: int, log: str = "log") -> LogState:
    return LogState(log=log, next_offset=next_offset)


def started(next_offset: int = 0) -> Hub:
    hub = Hub()
    hub.begin(state(next_offset))
    return hub


def everything(event: Event) -> bool:
    return True


async def offsets(watcher: Watcher) -> list[int]:
    """What waits for it now."""
    return [json.loads(line[6:])["offset"] for line in (await watcher.next(0.1)).splitlines() if line[:5] == b"data:"]


def test_an_outcome_wakes_who_waits_for_it_and_nobody_else() -> None:
    async def run() -> None:
        hub, command = started(), str(uuid4())
        with hub.watch(("outcome", command)) as mine, hub.watch(("outcome", str(uuid4()))) as other:
            outcome = entry(5, "event.job.expired", JobExpired(job=str(uuid4()), reason="x"), causationid=command)
            hub.take([outcome], state(6))
            assert await mine.next(1.0) is outcome
            assert await other.next(0.0) is None
        assert hub.outcome(command) is outcome

    asyncio.run(run())


def test_a_request_to_cancel_is_about_every_job_that_it_lists() -> None:
    jobs = [str(uuid4()) for _ in range(3)]
    said = entry(1, "event.job.cancel_requested", CancelRequested(job=jobs[0], jobs=tuple(jobs)))
    assert [key for key in keys_of(said.event) if key[0] == "job"] == [("job", job) for job in jobs]


def test_nothing_is_kept_of_a_wait_that_is_over() -> None:
    hub = started()
    with hub.watch(("job", "a"), ("job", "b")), hub.watch(("job", "a")):
        assert len(hub._waiting) == 2
    assert not hub._waiting


def test_a_slow_watcher_is_closed_where_it_can_resume_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.feed.KEPT_EVENTS", 10)
    monkeypatch.setattr("portal.feed.PAUSE_PER_WATCHER", 0.0)

    async def run() -> None:
        hub, seen = started(), list[int]()
        with hub.watcher(everything, "all") as slow, hub.watcher(everything, "all") as quick:
            for offset in range(20):
                hub.take([entry(offset)], state(offset + 1))
                seen += await offsets(quick)
                if offset == 4:
                    assert await offsets(slow) == [0, 1, 2, 3, 4]
            assert seen == list(range(20))
            assert (slow.closed, quick.closed) == ("slow", "")
            assert slow.position == 5
            assert await slow.next(0.1) == b""
            assert (hub.watchers, hub.slow_watchers) == (1, 1)

    asyncio.run(run())


def test_large_events_are_not_kept_in_thousands_for_those_who_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.feed.KEPT_BYTES", 1_000)

    async def run() -> None:
        hub = started()
        with hub.watcher(everything) as watcher:
            for offset in range(10):
                hub.take([entry(offset, data={"text": "x" * 400})], state(offset + 1))
            assert await watcher.next(0.1) == b""
            assert (watcher.closed, watcher.position) == ("slow", 0)

    asyncio.run(run())


def test_streams_of_the_same_are_given_the_same_bytes_and_others_their_own() -> None:
    async def run() -> None:
        hub = started()
        with (
            hub.watcher(everything, "all") as one,
            hub.watcher(everything, "all") as other,
            hub.watcher(lambda event: event.type == "event.shop.sold", "sold") as sold,
        ):
            hub.take([entry(0), entry(1, "event.shop.sold"), entry(2)], state(3))
            assert await one.next(0.1) is (piece := await other.next(0.1))
            assert piece.startswith(b'id: log:1\ndata: {"offset":0,')
            assert await offsets(sold) == [1]
            assert (one.position, sold.position) == (3, 2)

    asyncio.run(run())


def test_watchers_are_woken_at_once_after_a_rest_and_then_with_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.feed.PAUSE_PER_WATCHER", 2.0)
    monkeypatch.setattr("portal.feed.LONGEST_PAUSE", 2.0)

    async def run() -> None:
        hub = started()
        with hub.watcher(everything) as watcher:
            waiting = asyncio.create_task(watcher.next(30.0))
            await asyncio.sleep(0)
            hub.take([entry(0)], state(1))
            assert (await waiting).count(b"data:") == 1
            waiting = asyncio.create_task(watcher.next(30.0))
            for offset in (1, 2):
                await asyncio.sleep(0)
                hub.take([entry(offset)], state(offset + 1))
            assert (await waiting).count(b"data:") == 2

    asyncio.run(run())


def test_what_all_watchers_have_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.feed.PAUSE_PER_WATCHER", 0.0)

    async def run() -> None:
        hub = started()
        with hub.watcher(everything, "all") as one, hub.watcher(everything, "all") as other:
            for offset in range(6):
                hub.take([entry(offset)], state(offset + 1))
                await one.next(0.1)
                if offset == 3:
                    assert await offsets(other) == [0, 1, 2, 3]
            assert one._feed.kept == 2
            assert await offsets(other) == [4, 5]

    asyncio.run(run())


def test_a_long_backlog_is_given_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.feed.PIECE_BYTES", 500)

    async def run() -> None:
        hub = started()
        with hub.watcher(everything) as watcher:
            hub.take([entry(offset) for offset in range(9)], state(9))
            pieces = [await offsets(watcher) for _ in range(9)]
        assert [offset for piece in pieces for offset in piece] == list(range(9))
        assert 1 < len([piece for piece in pieces if piece]) < 9

    asyncio.run(run())


def test_a_position_moves_on_while_nothing_fits() -> None:
    async def run() -> None:
        hub = started(3)
        with hub.watcher(lambda event: False) as watcher:
            assert watcher.position == 3
            hub.take([entry(3), entry(4)], state(5))
            assert await watcher.next(0.01) == b""
            assert watcher.position == 5

    asyncio.run(run())


def test_what_comes_again_after_a_new_beginning_is_not_shown_twice() -> None:
    async def run() -> None:
        hub = started()
        with hub.watcher(everything) as watcher:
            hub.take([entry(0), entry(1)], state(2))
            hub.begin(state(0))
            hub.take([entry(0), entry(1), entry(2)], state(3))
            assert await offsets(watcher) == [0, 1, 2]

    asyncio.run(run())


def test_another_log_ends_the_streams_of_the_one_before() -> None:
    hub = started()
    with hub.watcher(everything) as watcher:
        hub.begin(state(0, log="another"))
        assert watcher.closed == "another log"


def test_a_stop_ends_all_streams_and_those_that_come_later() -> None:
    hub = started()
    with hub.watcher(everything) as watcher:
        hub.stop()
        assert watcher.closed == "stop"
    with hub.watcher(everything) as late:
        assert late.closed == "stop"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.hub.RECENT_EVENTS", 5)
    monkeypatch.setattr("portal.hub.RECENT_OUTCOMES", 3)
    hub = started()
    commands = [str(uuid4()) for _ in range(10)]
    for offset, command in enumerate(commands):
        said = entry(offset, "event.job.expired", JobExpired(job=str(uuid4()), reason="x"), causationid=command)
        hub.take([said], state(offset + 1))
    recent = hub.recent(5)
    assert recent is not None
    assert [one.offset for one in recent] == [5, 6, 7, 8, 9]
    assert hub.recent(4) is None
    assert [hub.outcome(command) is not None for command in commands] == [False] * 7 + [True] * 3


def test_a_few_large_events_are_remembered_instead_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.hub.RECENT_BYTES", 250)
    hub = started()
    for offset in range(10):
        hub.take([entry(offset)], state(offset + 1))
    assert hub.recent(7) is None
    assert hub.recent(8) is not None


def test_positions_are_read_as_they_are_written() -> None:
    assert parse_position(position("a-log", 17)) == Place("a-log", 17)


@pytest.mark.parametrize("text", ["", "17", ":17", "log:", "log:x", "log:-1", "log:1.5", "log:" + "9" * 40])
def test_what_is_no_position_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="no position; one looks like"):
        parse_position(text)
