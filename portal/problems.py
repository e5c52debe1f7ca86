"""What goes wrong for a client, as problem documents (RFC 9457): what was wrong, where, and what would be right."""

from collections.abc import Sequence
from http import HTTPStatus
from types import MappingProxyType

from msgspec import Struct

from events.seat import CommandRejected

CONTENT_TYPE = "application/problem+json"


class ProblemDocument(Struct, kw_only=True, omit_defaults=True):
    """The body of every answer with a status from 400 on."""

    #: `urn:fleetbus:problem:<kind>`, for programs; it does not change.
    type: str
    title: str
    status: int
    #: What was wrong, and what would be right.
    detail: str = ""
    #: The path that was asked for.
    instance: str = ""
    #: Where: a path in the body (`params.path`), or the name of a parameter of the query or path.
    field: str = ""
    #: Why the fleet said no, as a closed word.
    reason: str = ""
    #: What could have been meant.
    exists: tuple[str, ...] = ()
    #: The command that was sent, if one was.
    id: str = ""
    #: Where the log has its rejection, for `at_least`: views that reached it show it.
    position: str = ""


class Problem(Exception):
    """Ends a request with a problem document. `kind` is the last word of its type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        field: str = "",
        reason: str = "",
        exists: Sequence[str] = (),
        id: str = "",
        position: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.field = field
        self.reason = reason
        self.exists = tuple(exists)
        self.id = id
        self.position = position
        self.headers = headers or {}

    @property
    def title(self) -> str:
        return self.kind.replace("-", " ").capitalize()

    def document(self, path: str) -> ProblemDocument:
        return ProblemDocument(
            type=f"urn:fleetbus:problem:{self.kind}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=path,
            field=self.field,
            reason=self.reason,
            exists=self.exists,
            id=self.id,
            position=self.position,
        )


def bad_request(detail: str, field: str = "", exists: Sequence[str] = ()) -> Problem:
    """The request cannot be read: 400."""
    return Problem(400, "bad-request", detail, field=field, exists=exists)


def unprocessable(detail: str, field: str = "", exists: Sequence[str] = ()) -> Problem:
    """The request can be read, but what it says does not fit: 422."""
    return Problem(422, "does-not-fit", detail, field=field, exists=exists)


def not_found(what: str, name: str) -> Problem:
    return Problem(404, f"unknown-{what}", f"there is no {what} {name[:100]!r}", field=what)


def gone(detail: str) -> Problem:
    """A position or cursor that means nothing here (any more): 410."""
    return Problem(410, "position-gone", detail, field="position")


def away(detail: str, *, id: str = "", seconds: int = 2) -> Problem:
    """Something that the portal needs does not answer: 503."""
    return Problem(503, "not-reachable", detail, id=id, headers={"Retry-After": str(seconds)})


def from_status(status: int, detail: str, headers: dict[str, str] | None = None) -> Problem:
    """A problem that HTTP itself has a word for."""
    kind = HTTPStatus(status).phrase.lower().replace(" ", "-") if status in _STATUSES else "error"
    return Problem(status, kind, detail, headers=headers)


_STATUSES = frozenset(HTTPStatus)

#: Why a decider said no (its closed words) -> the status of the answer; 409 for every other word.
_STATUS_OF_REASON = MappingProxyType(
    {
        "unknown_script": 404,
        "unknown_node": 404,
        "unknown_role": 404,
        "unknown_job": 404,
        "bad_params": 422,
        "bad_value": 422,
        "bad_script": 422,
        "bad_target": 422,
        "not_allowed": 403,
        "conflict": 409,
        "expired": 409,
    }
)


def rejected(why: CommandRejected, command: str, position: str) -> Problem:
    """The answer to a command that the fleet rejected, at this position of the log."""
    status = _STATUS_OF_REASON.get(why.reason, 404 if why.reason.startswith("unknown") else 409)
    kind = why.reason.replace("_", "-") or "rejected"
    return Problem(
        status,
        kind,
        why.message,
        field=why.field,
        reason=why.reason,
        exists=why.exists,
        id=command,
        position=position,
    )
