"""Over HTTP: to a portal, which publishes, checks data against the schemas, and can wait for what comes of it.

The standard library carries it. A connection per request costs a handshake, and in return there is nothing to share
between threads and forks, no kept connection that the portal has just closed, and no further package to agree on.
Who has much to say uses AMQP.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time as clock
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit

from fleetbus_client import envelope
from fleetbus_client.envelope import Data, new_id
from fleetbus_client.errors import Closed, Misuse, Problem, Refused
from fleetbus_client.resending import LONGEST, Again, check_patience, until_answered

if TYPE_CHECKING:
    from typing_extensions import Self


PREFIX = "/api/v1"
TOKEN = "FLEETBUS_TOKEN"  # noqa: S105  # the name of a variable
#: Seconds that an answer may take beyond what the portal was asked to wait.
ANSWER_WITHIN = 20.0
#: Seconds that a portal waits at most.
LONGEST_WAIT = 3600.0
#: Answers after which the same request may be sent again: too many, and no portal or no bus behind what answered.
_PASSING = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Outcome:
    """What came of a command. `accepted` is None while nothing has come of it.

    `event` is the fact that is its outcome, `position` its place in the log, for `at_least` of the REST API.
    """

    id: str
    accepted: bool | None = None
    event: Mapping[str, Any] | None = None
    position: str = ""

    @property
    def message(self) -> str:
        """Why it was rejected, for people; "" when it was not."""
        return "" if self.accepted is not False or self.event is None else str(self.event["data"].get("message", ""))


@dataclass(frozen=True)
class Run:
    """A job that was asked for, or a batch of them. `ended` is False when the time to wait was over before.

    `job` is the document of the job as the portal shows it, `batch` and `jobs` those of a batch.
    """

    id: str
    ended: bool = False
    job: Mapping[str, Any] | None = None
    batch: Mapping[str, Any] | None = None
    jobs: tuple[Mapping[str, Any], ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether all of it has ended well."""
        jobs = self.jobs if self.job is None else (self.job,)
        return self.ended and bool(jobs) and all(job["state"] == "succeeded" for job in jobs)


class HttpClient:
    """Talks to the portal at `url`. For all threads of a process, and forks.

    `token` is an API token of an account or a service; without it the variable FLEETBUS_TOKEN. `ca` is the file of the
    authority that signed the portal's certificate, when the system does not know it. `give_up_after`: seconds for
    which a request without an answer is sent again, at most 60. Raises `Misuse`.
    """

    def __init__(
        self, url: str, token: str | None = None, *, ca: str | None = None, give_up_after: float = LONGEST
    ) -> None:
        self.url = _checked(url)
        self._token = _checked_token(token or os.environ.get(TOKEN, ""))
        self._seconds = check_patience(give_up_after)
        self._closed = False
        self._opener = _opener(ca)

    def publish(self, type: str, subject: str, data: Data, *, id: str | None = None) -> str:
        """Tells a fact, `event.<service>.<what happened>`, and returns its id when it is in the log.

        `id` is a UUID that you choose, so that you can say it again after `Unconfirmed` or a crash.
        Raises `Misuse`, `Problem`, `Unconfirmed`, `Closed`.
        """
        envelope.check_fact_type(type)
        return self._say("/events", type, subject, data, id)

    def command(self, type: str, subject: str, data: Data, *, id: str | None = None) -> str:
        """Sends a command, such as `command.job.submit`, and returns its id when it is in the log.

        Raises `Misuse`, `Problem` (the data does not fit, among others), `Unconfirmed`, `Closed`.
        """
        return self.ask(type, subject, data, wait=0.0, id=id).id

    def ask(self, type: str, subject: str, data: Data, *, wait: float = 10.0, id: str | None = None) -> Outcome:
        """Sends a command and waits up to `wait` seconds for what comes of it; a rejection is an outcome, too.

        Raises `Misuse`, `Problem`, `Unconfirmed`, `Closed`.
        """
        envelope.check_command_type(type)
        id = _id(id)
        body = _said(type, subject, data)
        return _outcome(self._post("/commands", body, what=type, id=id, wait=wait))

    def run(
        self,
        script: str,
        target: Mapping[str, Any],
        params: Data | None = None,
        *,
        timeout: float | None = None,
        wait: float = 0.0,
        id: str | None = None,
    ) -> Run:
        """Runs a script on nodes, and waits up to `wait` seconds for the end.

        `target` is `{"node": ID}`, `{"nodes": [ID, …]}`, `{"role": ROLE}` for one node of the role, or `{"all": True}`,
        with a role or without. `timeout`: seconds that the script may take. A run that the fleet rejects (unknown
        script, node or role, bad parameters) is a `Problem` that says what exists. Raises `Misuse`, `Unconfirmed`,
        `Closed`.
        """
        id = _id(id)
        body: dict[str, Any] = {"script": script, "target": target, "params": params or {}}
        envelope.check_data(body)
        if timeout is not None:
            body["timeout"] = timeout
        return _run(self._post("/jobs", body, what=f"the run of {script!r}", id=id, wait=wait))

    def close(self) -> None:
        """Nothing is sent after this. There is nothing to close: no connection outlives its request."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HttpClient {self.url}>"

    # ------------------------------------------------------------------ sending

    def _say(self, path: str, type: str, subject: str, data: Data, id: str | None) -> str:
        body = _said(type, subject, data)
        answer = self._post(path, body, what=type, id=_id(id))
        return str(answer["id"])

    def _post(self, path: str, body: Mapping[str, Any], *, what: str, id: str, wait: float = 0.0) -> dict[str, Any]:
        """The answer to a request that is sent until there is one. The portal knows by the key that it is the same."""
        if not 0 <= wait <= LONGEST_WAIT:
            raise Misuse(f"wait is {wait!r}; right would be 0 to {LONGEST_WAIT:.0f} seconds")
        content = envelope.encode(what, body)
        until = clock.monotonic() + wait

        def attempt(_left: float) -> dict[str, Any]:
            left = max(0.0, until - clock.monotonic())
            query = f"?wait={left:.3f}" if wait else ""
            return self._attempt(path + query, content, id, left + ANSWER_WITHIN)

        return until_answered(attempt, what=what, id=id, seconds=self._seconds + wait)

    def _attempt(self, path: str, content: bytes, id: str, timeout: float) -> dict[str, Any]:
        if self._closed:
            raise Closed(f"{self!r} is closed")
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Idempotency-Key": id}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + PREFIX + path, content, headers, method="POST")  # noqa: S310  # checked
        try:
            with self._opener.open(request, timeout=timeout) as response:
                status, wanted, said = response.status, response.headers.get("Retry-After"), response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._judged(error) from error
        return self._understood(status, _json(said), wanted)

    def _judged(self, error: Exception) -> Exception:
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        said = str(cause) or cause.__class__.__name__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(f"the certificate of {self.url} is not trusted: {said}")
        # what failed while the answer was awaited was sent
        return Again(f"{self.url}: {said}", reached=not isinstance(error, URLError))

    def _understood(self, status: int, document: dict[str, Any] | None, wanted: str | None) -> dict[str, Any]:
        if status < 300 and document is not None:
            return document
        problem = Problem(status, document or {}, self.url)
        # a portal that says 502 means it: the bus refused
        if status in _PASSING and not (status == 502 and document):
            raise Again(str(problem), reached=status != 429, pause=_seconds(wanted)) from problem
        raise problem


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.username or parts.query or parts.fragment:
        raise Misuse("no address of a portal; right would be https://HOST[:PORT], with the token beside it")
    return url.rstrip("/")


def _checked_token(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Misuse("the token has characters that no token has")
    return token


def _opener(ca: str | None) -> urllib.request.OpenerDirector:
    """Follows no redirect, as that would lose the body and show the token to another, and speaks HTTP only."""
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)),
    )
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _id(id: str | None) -> str:
    return envelope.check_id("id", id or new_id())


def _said(type: str, subject: str, data: Data) -> dict[str, Any]:
    return {"type": type, "subject": envelope.check_subject(subject), "data": envelope.check_data(data)}


def _json(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _outcome(answer: Mapping[str, Any]) -> Outcome:
    said = answer.get("outcome")
    return Outcome(
        id=answer["id"],
        accepted=None if said is None else said == "accepted",
        event=answer.get("event"),
        position=answer.get("position") or "",
    )


def _run(answer: Mapping[str, Any]) -> Run:
    job, batch = answer.get("job"), answer.get("batch")
    return Run(
        id=answer["id"],
        ended=job is not None or batch is not None,
        job=job,
        batch=batch,
        jobs=tuple(answer.get("jobs") or ()),
    )
