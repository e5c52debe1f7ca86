"""Who may come in: accounts, sessions of browsers, and tokens of programs.

They are kept in the documents' namespace `accounts`, which replay never touches. Of sessions and tokens only the
SHA-256 is kept, of passwords an argon2id hash; nobody can read a secret back. There is one role for now: operator.
"""

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from typing import Any

import argon2
from msgspec import Struct

from bus.clock import Clock, SystemClock, new_id
from events.names import ACTOR_PATTERN, SERVICE_PATTERN
from projections.osis.documents import Documents, Ttl
from projections.osis.filters import And, Eq, Not

NAMESPACE = "accounts"
#: The account that the first start makes.
ADMIN = "admin"
SESSION_LASTS = timedelta(days=7)
#: Seconds after its end that a session's document goes.
SESSION_SWEPT_AFTER = 0.0
MIN_PASSWORD = 10
MAX_PASSWORD = 500
MAX_NAME = 100
TOKEN_PREFIX = "fb_"  # noqa: S105  # what tokens begin with, so that scanners of leaked secrets know them


class AccountError(ValueError):
    """What was asked for an account cannot be; the message says what would be right."""


class Identity(Struct, frozen=True, kw_only=True):
    """Who sends a request. `actor` is what the log will say."""

    actor: str
    account: str
    #: The token that pages put into their forms; "" for tokens of programs.
    csrf: str = ""
    #: The session, or the token, by its public id.
    key: str = ""

    @property
    def is_service(self) -> bool:
        return self.actor.startswith("service:")


class TokenInfo(Struct, frozen=True, kw_only=True):
    """A token, without its secret."""

    id: str
    name: str
    actor: str
    created_at: str


class Session(Struct, frozen=True, kw_only=True):
    """A new session: the cookie's value, and the seconds it lasts."""

    secret: str
    seconds: int


class Accounts:
    """Blocking: for threads of the pool."""

    def __init__(self, documents: Documents, clock: Clock | None = None) -> None:
        self._space = documents.namespace(NAMESPACE)
        self._clock = clock or SystemClock()
        self._hasher = argon2.PasswordHasher()
        #: Checked when there is no such account, so that the time of an answer does not tell.
        self._nobody = self._hasher.hash(secrets.token_urlsafe())
        self._space.declare("users")
        self._space.declare("sessions", indexes=[["account"]], ttl=Ttl("expires_at", SESSION_SWEPT_AFTER))
        self._space.declare("tokens", indexes=[["hash"], ["account", "created_at"]])

    # accounts

    def first_start(self) -> str | None:
        """Makes the account `admin` and returns its password, to be shown once; None when there are accounts."""
        if self._space.count("users"):
            return None
        return self.reset_password(ADMIN)

    def reset_password(self, name: str) -> str:
        """Gives the account (made if need be) a random password and ends its sessions; returns the password."""
        password = secrets.token_urlsafe(15)
        self.set_password(name, password)
        return password

    def set_password(self, name: str, password: str, keep_session: str = "") -> None:
        """Sets the password and ends all sessions but one. Raises `AccountError`."""
        if not re.fullmatch(ACTOR_PATTERN, f"user:{name}"):
            raise AccountError(f"{name[:100]!r} is no name for an account: 1 to 100 of A-Z, a-z, 0-9, @ . _ and -")
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise AccountError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        known = self._space.get("users", name) or {"created_at": self._clock.now(), "role": "operator"}
        self._space.put_many("users", [{**known, "_id": name, "hash": self._hasher.hash(password)}])
        others = And(Eq("account", name), Not(Eq("_id", keep_session)))
        self._space.delete_many("sessions", [found["_id"] for found in self._space.iterate("sessions", others)])

    def check_password(self, name: str, password: str) -> bool:
        """Whether it is the account's password. Takes as long when there is no such account."""
        user = self._space.get("users", name) if re.fullmatch(ACTOR_PATTERN, f"user:{name}") else None
        kept = self._nobody if user is None else user["hash"]
        try:
            self._hasher.verify(kept, password[: MAX_PASSWORD + 1])
        except argon2.exceptions.VerificationError:
            return False
        if user is not None and self._hasher.check_needs_rehash(kept):
            self._space.put_many("users", [{**user, "hash": self._hasher.hash(password)}])
        return user is not None

    # sessions

    def open_session(self, account: str) -> Session:
        """A new session of an account whose password was checked."""
        secret = secrets.token_urlsafe(32)
        now = self._clock.now()
        document = {
            "_id": _hash(secret),
            "account": account,
            "created_at": now,
            "expires_at": now + SESSION_LASTS,
        }
        self._space.put_many("sessions", [document])
        return Session(secret=secret, seconds=int(SESSION_LASTS.total_seconds()))

    def by_session(self, secret: str) -> Identity | None:
        """Who a session's cookie belongs to."""
        found = self._space.get("sessions", _hash(secret))
        if found is None or datetime.fromisoformat(found["expires_at"]) <= self._clock.now():
            return None
        account = found["account"]
        return Identity(actor=f"user:{account}", account=account, csrf=csrf_token(secret), key=found["_id"])

    def close_session(self, key: str) -> None:
        self._space.delete_many("sessions", [key])

    # tokens

    def make_token(self, account: str, name: str, service: str = "") -> str:
        """A new token of an account, for programs: they speak as the account, or as the service named.

        Returns the secret, which is not kept. Raises `AccountError`.
        """
        name = name.strip()
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise AccountError(f"a token's name has 1 to {MAX_NAME} printable characters, such as what it is for")
        if service and not re.fullmatch(SERVICE_PATTERN, service):
            raise AccountError(f"{service[:80]!r} is no name of a service: 1 to 63 of a-z, 0-9 and -")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        document = {
            "_id": new_id(),
            "hash": _hash(secret),
            "account": account,
            "name": name,
            "actor": f"service:{service}" if service else f"user:{account}",
            "created_at": self._clock.now(),
        }
        self._space.put_many("tokens", [document])
        return secret

    def by_token(self, secret: str) -> Identity | None:
        """Who a token belongs to."""
        found = self._space.find("tokens", Eq("hash", _hash(secret)), limit=1, total=False).items
        if not found:
            return None
        return Identity(actor=found[0]["actor"], account=found[0]["account"], key=found[0]["_id"])

    def tokens(self, account: str) -> list[TokenInfo]:
        return [
            TokenInfo(id=one["_id"], name=one["name"], actor=one["actor"], created_at=one["created_at"])
            for one in self._space.iterate("tokens", Eq("account", account))
        ]

    def revoke_token(self, account: str, id: str) -> bool:
        """Ends a token of the account. False when there is none."""
        found: dict[str, Any] | None = self._space.get("tokens", id)
        if found is None or found["account"] != account:
            return False
        return self._space.delete_many("tokens", [id]) > 0


def csrf_token(secret: str) -> str:
    """What forms of a session carry: follows from the cookie, which other sites can neither read nor guess."""
    return hashlib.sha256(f"csrf/{secret}".encode()).hexdigest()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
