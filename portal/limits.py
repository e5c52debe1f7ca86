"""How often somebody may try: counters in Live, shared by all portals; in this process alone while Live is away."""

from msgspec import Struct

from portal.problems import Problem
from projections.osis.errors import OsisError
from projections.osis.live import Live
from projections.osis.memory_live import MemoryLive


class Limit(Struct, frozen=True):
    """At most `count` tries in `seconds`."""

    name: str
    count: int
    seconds: int


#: Passwords for one account from one address; from one address; for one account.
LOGIN = Limit("login", 10, 300)
LOGIN_ADDRESS = Limit("login-address", 50, 300)
LOGIN_ACCOUNT = Limit("login-account", 200, 300)
JOIN_ADDRESS = Limit("join-address", 20, 300)


class Limiter:
    """Blocking: for threads of the pool."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._own = MemoryLive()

    def count(self, limit: Limit, *who: str) -> None:
        """Counts a try. Raises `Problem` 429 when it is one too many."""
        key = f"limit/{limit.name}/{'/'.join(who)}"[:256]
        try:
            tries = self._live.incr(key, seconds=limit.seconds)
        except OsisError:
            tries = self._own.incr(key, seconds=limit.seconds)
        if tries > limit.count:
            raise Problem(
                429,
                "too-many-tries",
                f"too many tries; wait up to {limit.seconds // 60} minutes and try again",
                headers={"Retry-After": str(limit.seconds)},
            )

    def forget(self, limit: Limit, *who: str) -> None:
        """A try went well."""
        key = f"limit/{limit.name}/{'/'.join(who)}"[:256]
        self._own.delete(key)
        try:
            self._live.delete(key)
        except OsisError:
            return


def count_login(limiter: Limiter, account: str, address: str) -> None:
    """Counts a try of a password. Raises `Problem` 429."""
    limiter.count(LOGIN_ADDRESS, address)
    limiter.count(LOGIN_ACCOUNT, account)
    limiter.count(LOGIN, account, address)
