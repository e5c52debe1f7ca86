"""Live data in Redis 6 or later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from projections.osis.codec import tame_text
from projections.osis.errors import BadUrl, StorageFailed, Unreachable
from projections.osis.live import TAIL_LINES, TAIL_SECONDS, WAITING, Live, Subscription
from projections.osis.names import check_prefix, check_tail_number, check_text
from projections.osis.redis_listener import Listener

#: Seconds one call may wait for the server.
CALL_SECONDS = 3.0
#: Seconds during which calls fail at once after one found the server away.
REST_SECONDS = 1.0
#: Seconds after which an idle connection is checked before it is used.
HEALTH_SECONDS = 10

# A sorted set of "number:line". A number that is there keeps its line.
_EXTEND = """
local tail, keep, milliseconds = KEYS[1], tonumber(ARGV[1]), ARGV[2]
for i = 3, #ARGV, 2 do
    if redis.call('ZCOUNT', tail, ARGV[i], ARGV[i]) == 0 then
        redis.call('ZADD', tail, ARGV[i], ARGV[i] .. ':' .. ARGV[i + 1])
    end
end
redis.call('ZREMRANGEBYRANK', tail, 0, -keep - 1)
redis.call('PEXPIRE', tail, milliseconds)
"""

T = TypeVar("T")


class RedisLive(Live):
    """All keys and channels begin with `prefix:` and a letter for their kind."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        self._name = _without_login(url)
        self._redis = _client(url, check_prefix(prefix), retries=1)
        self._extend = self._redis.register_script(_EXTEND)
        self._listener = Listener(_client(url, prefix, retries=0), self._key("c", ""))
        self._resting_until = 0.0

    def extend(
        self,
        tail: str,
        lines: Iterable[tuple[int, str]],
        *,
        keep: int = TAIL_LINES,
        seconds: float = TAIL_SECONDS,
    ) -> None:
        arguments: list[Any] = [keep, _milliseconds(seconds)]
        for n, line in lines:
            arguments += [check_tail_number(n), tame_text(line)]
        key = self._key("t", check_text("tail", tail))
        if len(arguments) > 2:
            self._call(lambda: self._extend(keys=[key], args=arguments))

    def last(self, tail: str, count: int = TAIL_LINES) -> list[tuple[int, str]]:
        key = self._key("t", check_text("tail", tail))
        if count <= 0:
            return []
        rows = cast("list[bytes]", self._call(lambda: self._redis.zrange(key, 0, count - 1, desc=True)))
        pairs = (row.partition(b":") for row in reversed(rows))
        return [(int(n), line.decode()) for n, _, line in pairs]

    def publish(self, channel: str, data: bytes) -> None:
        key = self._key("c", check_text("channel", channel))
        self._call(lambda: self._redis.publish(key, data))

    def subscribe(self, *channels: str, waiting: int = WAITING, wake: Callable[[], None] | None = None) -> Subscription:
        for channel in channels:
            check_text("channel", channel)
        subscription = Subscription(channels, waiting, wake, self._listener.remove)
        with self._translated():
            self._listener.add(subscription, CALL_SECONDS)
        return subscription

    def set(self, key: str, value: bytes, *, seconds: float) -> None:
        name = self._key("v", check_text("key", key))
        self._call(lambda: self._redis.set(name, value, px=_milliseconds(seconds)))

    def get(self, key: str) -> bytes | None:
        name = self._key("v", check_text("key", key))
        return cast("bytes | None", self._call(lambda: self._redis.get(name)))

    def delete(self, key: str) -> None:
        check_text("key", key)
        self._call(lambda: self._redis.delete(self._key("v", key), self._key("n", key)))

    def incr(self, key: str, *, seconds: float) -> int:
        name = self._key("n", check_text("key", key))
        # Redis 6 has no EXPIRE NX: the time to live comes with the zero that begins the count.
        steps = self._redis.pipeline(transaction=True)
        steps.set(name, 0, px=_milliseconds(seconds), nx=True)
        steps.incr(name)
        return int(self._call(steps.execute)[1])

    def ping(self) -> None:
        self._call(self._redis.ping)

    def close(self) -> None:
        self._listener.close()
        self._redis.close()

    def __repr__(self) -> str:
        return f"RedisLive({self._name!r}, prefix={self._prefix!r})"

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{tame_text(name)}"

    def _call(self, operation: Callable[[], T]) -> T:
        if time.monotonic() < self._resting_until:
            raise Unreachable(f"Redis at {self._name} was away a moment ago")
        with self._translated():
            return operation()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError as error:
            raise StorageFailed(f"Redis at {self._name} refuses the login: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            # Everybody waiting out the bound in turn would stop whole services for what may vanish.
            self._resting_until = time.monotonic() + REST_SECONDS
            raise Unreachable(f"Redis at {self._name}: {error}") from error
        except redis.RedisError as error:
            raise StorageFailed(f"Redis at {self._name}: {error}") from error


def _client(url: str, name: str, retries: int) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            client_name=name,
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CALL_SECONDS,
            socket_keepalive=True,
            health_check_interval=HEALTH_SECONDS,
            retry=Retry(ConstantBackoff(0.05), retries),
        )
    except ValueError:
        raise BadUrl(
            "the Redis URL is not of the form redis://[user:password@]host[:port]/number;"
            " characters like : / @ in a password are written as %3A %2F %40"
        ) from None


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] + parts.path


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
