"""The contract of the Live port: tails, fan-out, and small values that may vanish."""

import asyncio
import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from projections.osis.errors import BadName, BadUrl, StorageFailed, Unreachable
from projections.osis.live import Gap, Item, Live, Message, arrivals
from projections.osis.memory_live import SWEEP_SECONDS, MemoryLive
from projections.osis.open import open_live
from projections.osis.redis_live import RedisLive
from tests.servers.redis import Redis
from tests.waiting import wait_until

#: Seconds that anything here may take on a busy machine.
SOON = 30.0


def message(text: str, channel: str = "jobs") -> Message:
    return Message(channel, text.encode())


def test_a_tail_keeps_numbered_lines_in_order_whatever_order_they_came_in(live: Live) -> None:
    assert live.last("job/1") == []
    live.append("job/1", 2, "two")
    live.extend("job/1", [(0, "zero"), (10, "ten"), (1, "one: with colon")])
    assert live.last("job/1") == [(0, "zero"), (1, "one: with colon"), (2, "two"), (10, "ten")]
    assert live.last("job/1", 2) == [(2, "two"), (10, "ten")]
    assert live.last("job/1", 0) == []
    assert live.last("job/2") == []


def test_a_number_that_is_there_keeps_its_line(live: Live) -> None:
    live.extend("job/1", [(1, "a"), (2, "b"), (1, "c")])
    live.append("job/1", 1, "d")
    live.append("job/1", 2**53 - 1, "end")
    assert live.last("job/1") == [(1, "a"), (2, "b"), (2**53 - 1, "end")]


def test_a_tail_keeps_the_highest_numbers(live: Live) -> None:
    live.extend("job/1", [(n, str(n)) for n in range(10)], keep=4)
    assert live.last("job/1") == [(n, str(n)) for n in (6, 7, 8, 9)]
    live.append("job/1", 3, "late")
    live.extend("job/1", [(3, "late")], keep=4)
    assert [n for n, _ in live.last("job/1")] == [6, 7, 8, 9]


@pytest.mark.parametrize("line", ["", "a\nb\r\n", "\0", "ünï\U0001f600", "\ud800", "x" * 100_000, "'; return 1"])
def test_any_text_is_a_line(live: Live, line: str) -> None:
    live.append(line[:256] or "tail", 0, line)
    assert live.last(line[:256] or "tail") == [(0, line.replace("\0", "\u2400").replace("\ud800", "\ufffd"))]


def test_a_tail_goes_when_no_line_has_come_for_long_enough(live: Live) -> None:
    live.extend("job/1", [(0, "a")], seconds=0.05)
    live.extend("job/2", [(0, "a")], seconds=60)
    wait_until(lambda: live.last("job/1") == [], deadline=SOON, what="the tail to go")
    assert live.last("job/2") == [(0, "a")]
    live.append("job/1", 0, "anew")
    assert live.last("job/1") == [(0, "anew")]


@pytest.mark.parametrize("n", [-1, 2**53])
def test_a_line_number_out_of_bounds_is_refused(live: Live, n: int) -> None:
    with pytest.raises(BadName):
        live.append("job/1", n, "line")


def test_values_are_kept_for_a_time(live: Live) -> None:
    assert live.get("page") is None
    live.set("page", b"\x00\xff", seconds=60)
    live.set("brief", b"1", seconds=0.05)
    assert live.get("page") == b"\x00\xff"
    live.set("page", b"2", seconds=60)
    assert live.get("page") == b"2"
    live.delete("page")
    assert live.get("page") is None
    wait_until(lambda: live.get("brief") is None, deadline=SOON, what="the value to go")


def test_a_counter_begins_again_after_its_time_counted_from_the_first(live: Live) -> None:
    assert [live.incr("logins/alice", seconds=60) for _ in range(3)] == [1, 2, 3]
    assert live.incr("logins/bob", seconds=60) == 1
    live.delete("logins/alice")
    assert live.incr("logins/alice", seconds=60) == 1
    assert live.incr("brief", seconds=0.5) == 1
    # Counting on does not put it off.
    wait_until(lambda: live.incr("brief", seconds=0.5) == 1, deadline=SOON, what="the count to begin again")
    live.set("logins/bob", b"text", seconds=60)
    assert live.incr("logins/bob", seconds=60) == 2


def test_counting_from_many_threads_loses_nothing(live: Live) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: live.incr("all", seconds=60), range(200)))
    assert sorted(counts) == list(range(1, 201))


def test_what_is_published_reaches_everyone_who_is_subscribed_and_nobody_else(live: Live) -> None:
    live.publish("jobs", b"too early")
    with live.subscribe("jobs", "nodes") as both, live.subscribe("jobs") as jobs, live.subscribe("other") as other:
        live.publish("jobs", b"1")
        live.publish("nodes", b"\x00\xff")
        assert both.get(SOON) == message("1")
        assert both.get(SOON) == Message("nodes", b"\x00\xff")
        assert jobs.get(SOON) == message("1")
        assert jobs.get(0.05) is None
        assert other.get(0.05) is None


def test_a_closed_subscription_gets_nothing_and_its_reader_goes_on(live: Live) -> None:
    subscription = live.subscribe("jobs")
    live.publish("jobs", b"1")
    assert subscription.get(SOON) == message("1")
    seen: list[Item] = []
    reader = threading.Thread(target=lambda: seen.extend(subscription))
    reader.start()
    subscription.close()
    subscription.close()
    reader.join(SOON)
    assert not reader.is_alive()
    live.publish("jobs", b"2")
    assert seen == []
    assert subscription.closed
    assert subscription.get(0.05) is None


def test_a_channel_can_be_left_and_joined_again_at_once(live: Live) -> None:
    for n in range(30):
        with live.subscribe("jobs") as subscription:
            live.publish("jobs", str(n).encode())
            assert subscription.get(SOON) == message(str(n))


def test_closing_the_storage_ends_all_subscriptions(live: Live) -> None:
    subscription = live.subscribe("jobs")
    live.close()
    live.close()
    assert list(subscription) == []
    assert subscription.closed


def test_a_slow_subscriber_loses_the_oldest_and_sees_how_many(live: Live) -> None:
    with live.subscribe("jobs", waiting=3) as slow, live.subscribe("jobs") as quick:
        for n in range(10):
            live.publish("jobs", str(n).encode())
        assert [quick.get(SOON) for _ in range(10)] == [message(str(n)) for n in range(10)]
        wait_until(lambda: slow._lost == 7, deadline=SOON, what="all messages to be offered")
        assert slow.drain() == [Gap(7), message("7"), message("8"), message("9")]
        live.publish("jobs", b"10")
        assert slow.get(SOON) == message("10")


def test_the_order_of_one_publisher_is_kept(live: Live) -> None:
    with live.subscribe("jobs", waiting=2_000) as subscription:
        publisher = threading.Thread(target=lambda: [live.publish("jobs", b"%d" % n) for n in range(1_000)])
        publisher.start()
        items = list(itertools.islice(subscription, 1_000))
        publisher.join()
    assert items == [message(str(n)) for n in range(1_000)]


def test_the_reader_is_woken_from_another_thread(live: Live) -> None:
    woken = threading.Event()
    with live.subscribe("jobs", wake=woken.set) as subscription:
        assert subscription.drain() == []
        live.publish("jobs", b"1")
        assert woken.wait(SOON)
        assert subscription.drain() == [message("1")]


def test_asyncio_takes_what_arrives_until_it_has_enough(live: Live) -> None:
    async def take() -> list[Item]:
        items: list[Item] = []
        stream = arrivals(live, "jobs")
        publisher = asyncio.create_task(_publish_until_heard(live, items))
        async for item in stream:
            items.append(item)
            if item == message("last"):
                break
        await stream.aclose()
        await publisher
        return items

    items = asyncio.run(asyncio.wait_for(take(), SOON))
    assert items[0] == message("heard?")
    assert items[-1] == message("last")
    with live.subscribe("jobs") as subscription:
        live.publish("jobs", b"after")
        assert subscription.get(SOON) == message("after")


def test_an_asyncio_reader_ends_when_the_storage_is_closed(live: Live) -> None:
    async def take() -> list[Item]:
        items: list[Item] = []
        publisher = asyncio.create_task(_publish_until_heard(live, items, close=True))
        async for item in arrivals(live, "jobs"):
            items.append(item)
            assert item in (message("heard?"), message("last"))
        await publisher
        return items

    assert message("heard?") in asyncio.run(asyncio.wait_for(take(), SOON))


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_bad_name_is_refused(live: Live, name: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: live.append(name, 0, "line"),
        lambda: live.last(name),
        lambda: live.publish(name, b""),
        lambda: live.subscribe("good", name),
        lambda: live.set(name, b"", seconds=1),
        lambda: live.get(name),
        lambda: live.delete(name),
        lambda: live.incr(name, seconds=1),
    ]
    for use in uses:
        with pytest.raises(BadName):
            use()


def test_memory_forgets_what_has_outlived_its_time() -> None:
    now = 0.0
    live = MemoryLive(lambda: now)
    live.extend("tail", [(0, "a")], seconds=1)
    live.set("key", b"", seconds=1)
    live.incr("count", seconds=1)
    now = SWEEP_SECONDS + 1
    live.set("new", b"", seconds=1)
    assert (live._tails, live._counters, list(live._values)) == ({}, {}, ["new"])


@pytest.mark.servers
def test_a_gap_shows_where_redis_was_away_and_what_comes_after_is_whole(
    private_server: Callable[[type[Redis]], Redis],
) -> None:
    server = private_server(Redis)
    live = open_live(server.url)
    assert isinstance(live, RedisLive)
    subscription = live.subscribe("jobs", "nodes")
    live.publish("jobs", b"before")
    assert subscription.get(SOON) == message("before")
    server.kill()
    with pytest.raises(Unreachable) as away:
        live.publish("jobs", b"lost")
    assert server.password not in str(away.value) + repr(live)
    with pytest.raises(Unreachable):
        live.subscribe("other")
    server.start()
    assert subscription.get(SOON) == Gap(None)
    wait_until(lambda: _publishes(live, "nodes", b"after"), deadline=SOON, what="Redis to take a message")
    assert subscription.get(SOON) == Message("nodes", b"after")
    assert subscription.get(0.05) is None
    with live.subscribe("other") as other:
        live.publish("other", b"1")
        assert other.get(SOON) == message("1", "other")
    live.close()


@pytest.mark.servers
def test_while_redis_is_away_calls_fail_at_once_for_a_moment(private_server: Callable[[type[Redis]], Redis]) -> None:
    server = private_server(Redis)
    live = open_live(server.url)
    live.ping()
    server.kill()
    for says in ("Redis at 127.0.0.1", "a moment ago"):
        with pytest.raises(Unreachable, match=says):
            live.get("key")
    server.start()
    wait_until(lambda: _answers(live), deadline=SOON, what="Redis to be found again")
    live.close()


@pytest.mark.servers
def test_a_connection_that_is_cut_is_a_gap_too(redis_url: str) -> None:
    live = RedisLive(redis_url, f"test-{uuid.uuid4().hex[:12]}")
    subscription = live.subscribe("jobs")
    (listening,) = [one for one in live._redis.client_list(_type="pubsub") if one["name"] == live._prefix]
    live._redis.client_kill_filter(_id=listening["id"])
    assert subscription.get(SOON) == Gap(None)
    live.publish("jobs", b"1")
    assert subscription.get(SOON) == message("1")
    live.close()


@pytest.mark.servers
def test_a_wrong_password_is_told_and_not_shown(redis_url: str) -> None:
    live = open_live(redis_url.replace(redis_url.split(":")[2].partition("@")[0], "wr0ng"))
    with pytest.raises(StorageFailed, match="login") as refused:
        live.ping()
    assert "wr0ng" not in str(refused.value) + repr(live)
    live.close()


@pytest.mark.parametrize("url", ["redis://u:secret@h:port/0", "http://u:secret@h", "", "redis://[secret"])
def test_a_url_that_names_no_storage_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadUrl) as refused:
        open_live(url)
    assert "secret" not in str(refused.value)


async def _publish_until_heard(live: Live, items: list[Item], *, close: bool = False) -> None:
    """Publish until something has arrived, then one last message, and perhaps close the storage."""
    while not items:
        await asyncio.to_thread(live.publish, "jobs", b"heard?")
        await asyncio.sleep(0.01)
    await asyncio.to_thread(live.publish, "jobs", b"last")
    if close:
        await asyncio.to_thread(live.close)


def _publishes(live: Live, channel: str, data: bytes) -> bool:
    try:
        live.publish(channel, data)
    except Unreachable:
        return False
    return True


def _answers(live: Live) -> bool:
    try:
        live.ping()
    except Unreachable:
        return False
    return True
