"""The portal's REST API, as the commands use it: one client, errors in words, and sending again what got no answer."""

import contextlib
import difflib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import click
import msgspec

# httpx' own command line, which it imports at its start if it can, takes longer than all the rest of it
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402  # after the line above
from httpx_sse import ServerSentEvent, SSEError, connect_sse  # noqa: E402

from fleetbus.credentials import Fleet  # noqa: E402
from fleetbus.errors import FAILED, NOT_REACHED, WRONG, Failure, NotReached  # noqa: E402

PREFIX = "/api/v1"
#: Seconds during which a command that got no answer is sent again, under the same id.
RESEND_SECONDS = 60.0
#: Seconds during which an address that nobody listens at is tried again: a portal that restarts is there in time.
REFUSED_SECONDS = 5.0
#: Seconds that a command waits for the decider; one that takes over from another needs some.
DECIDE_SECONDS = 10.0
#: Seconds between two attempts.
PAUSE = 0.5
#: Seconds that an answer may take beyond what it was asked to wait: the portal itself tries the bus for a minute.
PATIENCE = 75.0
#: Seconds without a word, not even a comment, after which a stream is taken for dead.
SILENCE = 60.0

#: Statuses of problems -> how the program ends. Every other status of 4xx is wrong usage, of 5xx not reached.
_ENDS = {401: NOT_REACHED, 403: NOT_REACHED, 408: NOT_REACHED, 409: FAILED, 429: NOT_REACHED}


class Problem(Failure):
    """The portal answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = document
        code = _ENDS.get(status, NOT_REACHED if status >= 500 else WRONG)
        detail = str(document.get("detail") or "")
        title = str(document.get("title") or f"HTTP status {status}")
        super().__init__(f"{title}: {detail}" if detail else title, *_hints(status, document, detail), code=code)


def _hints(status: int, document: Mapping[str, Any], detail: str) -> Iterator[str]:
    exists = [str(name) for name in document.get("exists") or ()]
    if document.get("field"):
        yield f"where: {document['field']}"
    wanted = re.search(r"'([^']+)'", detail)
    close = difflib.get_close_matches(wanted[1], exists, n=1) if wanted else []
    if close and "did you mean" not in detail:
        yield f"did you mean {close[0]}?"
    if exists and status == 404 and not all(name in detail for name in exists):
        yield f"there is: {', '.join(exists)}"
    if status == 401:
        yield "`fleetbus login URL` makes a token for you; --token and FLEETBUS_TOKEN name one"


class Api:
    """One portal. Close it, or use it as a context."""

    def __init__(self, fleet: Fleet) -> None:
        self.url = fleet.url
        headers = {"Authorization": f"Bearer {fleet.token}"} if fleet.token else {}
        #: Certificates take long to load, and only https has a use for them.
        verify = not fleet.url.startswith("http:")
        try:
            self._client = httpx.Client(base_url=fleet.url, headers=headers, verify=verify, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise Failure(f"{fleet.url!r} is no address of a portal: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None, *, patience: float = 0.0) -> Any:
        """The JSON document there. `patience`: seconds to wait for a portal that is away.

        Raises `Problem`, `NotReached`.
        """
        began = time.monotonic()
        while True:
            try:
                return _json(self._checked("GET", path, query=query))
            except NotReached as error:
                lost = isinstance(error.__cause__, httpx.TransportError)
                if not lost or time.monotonic() - began >= patience:
                    raise
            time.sleep(PAUSE)

    def text(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        """What is there, as text. Raises `Problem`, `NotReached`."""
        return self._checked("GET", path, query=query).text

    def pages(self, path: str, query: Mapping[str, Any], limit: int, *, patience: float = 0.0) -> Iterator[Any]:
        """Items of a list, page by page, at most `limit`."""
        cursor: str | None = None
        while limit > 0:
            page = self.get(path, {**query, "limit": min(limit, 500), "cursor": cursor}, patience=patience)
            yield from page["items"][:limit]
            limit -= len(page["items"])
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        id: str | None = None,
        query: Mapping[str, Any] | None = None,
        wait: float = 0.0,
        text: str | None = None,
    ) -> Any:
        """Sends what changes something: a JSON body, or text. `id` makes sending it again harmless.

        Without an answer it is sent again, under the same id, for a minute. Raises `Problem`, `NotReached`.
        """
        headers = {"Idempotency-Key": id} if id else {}
        began, sent = time.monotonic(), False
        while True:
            try:
                return _json(self._checked(method, path, query=query, wait=wait, body=body, text=text, headers=headers))
            except NotReached as error:
                cause = error.__cause__
                # an address that refuses got nothing; whatever else happens, the command may be under way
                sent = sent or not isinstance(cause, httpx.ConnectError)
                left = began + (RESEND_SECONDS if sent else REFUSED_SECONDS) - time.monotonic()
                if not isinstance(cause, httpx.TransportError) or id is None or left <= 0:
                    raise
                time.sleep(min(PAUSE, left))

    def ask(self, method: str, path: str, body: Any = None, *, id: str, text: str | None = None) -> Any:
        """As `send`, for commands whose answer waits for the outcome if it is asked to."""
        return self.send(method, path, body, id=id, wait=DECIDE_SECONDS, text=text)

    def submit(self, order: Mapping[str, Any], *, id: str) -> Any:
        """Sends a job; the answer has its outcome (`event`), unless nobody decides in time.

        To wait would mean to wait for the job's end. Sent again under its id, the same job is asked for its outcome.
        """
        end = time.monotonic() + DECIDE_SECONDS
        while (sent := self.send("POST", "/jobs", order, id=id)).get("event") is None and time.monotonic() < end:
            time.sleep(PAUSE)
        return sent

    def stream(
        self, path: str, query: Mapping[str, Any] | None = None, resume_at: str = "", *, once: bool = False
    ) -> Iterator[ServerSentEvent]:
        """Server-sent events; goes on where it was after a lost connection, if the portal is back within a minute.

        `once`: the end that the portal makes is the end. Raises `Problem`, `NotReached`.
        """
        heard = time.monotonic()
        while True:
            try:
                for event in self._stream_once(path, query, resume_at):
                    heard, resume_at = time.monotonic(), event.id or resume_at
                    yield event
                if once:
                    return
            except (httpx.TransportError, SSEError) as error:
                if time.monotonic() - heard > RESEND_SECONDS:
                    raise self._unreachable(error) from error
            time.sleep(PAUSE)

    def _stream_once(self, path: str, query: Mapping[str, Any] | None, resume_at: str) -> Iterator[ServerSentEvent]:
        headers = {"Last-Event-ID": resume_at} if resume_at else {}
        asked = {"params": _given(query), "headers": headers, "timeout": httpx.Timeout(10.0, read=SILENCE)}
        with connect_sse(self._client, "GET", PREFIX + path, **asked) as source:
            if source.response.status_code >= 400:
                source.response.read()
                raise _problem(source.response)
            yield from source.iter_sse()

    def _checked(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        wait: float = 0.0,
        body: Any = None,
        text: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        params = _given(query) | ({"wait": f"{wait:g}"} if wait else {})
        content: dict[str, Any] = {} if body is None else {"json": body}
        if text is not None:
            content = {"content": text.encode()}
            headers = {"Content-Type": "text/x-python; charset=utf-8", **(headers or {})}
        timeout = httpx.Timeout(10.0, read=wait + PATIENCE)
        try:
            response = self._client.request(
                method, PREFIX + path, params=params, headers=headers, timeout=timeout, **content
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise Failure(f"{self.url!r} is no address of a portal: {error}") from None
        if response.status_code >= 300:
            raise _problem(response)
        return response

    def _unreachable(self, error: Exception) -> NotReached:
        said = str(error) or type(error).__name__
        return NotReached(
            f"cannot reach the portal at {self.url}: {said}",
            "`fleetbus up` starts one on this machine; --url, FLEETBUS_URL or `fleetbus login URL` name another",
        )


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None and value != ""}


def _json(response: httpx.Response) -> Any:
    if response.status_code == 204 or not response.content:
        return None
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(response.content)
    raise NotReached(f"{response.url.host} answered something that is no JSON; is it a portal of fleetbus?")


def _problem(response: httpx.Response) -> Failure:
    with contextlib.suppress(msgspec.DecodeError):
        document = msgspec.json.decode(response.content)
        if isinstance(document, dict):
            return Problem(response.status_code, document)
    return NotReached(
        f"{response.url.host} answered HTTP status {response.status_code} without a problem document",
        "is it a portal of fleetbus?",
    )


def notice(text: str) -> None:
    """A word beside the answer, for the person at the terminal."""
    click.echo(text, err=True)
