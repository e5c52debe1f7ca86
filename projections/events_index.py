"""The index of the log: one small document for each record, whatever the verdict on it. The data stays in the log.

An admitted event has its own id; what does not count has the id of its place (`dup-17`, `void-17`, `bad-17`). Should an
event that counts carry the id of an earlier one, the earlier keeps its document, and the later is noted in its `again`.
"""

import base64
import codecs
from collections.abc import Iterable

from bus.admission import Admitted, Bad, Duplicate, Verdict, Void
from projections import retention
from projections.osis.documents import Document, Ttl
from projections.projection import Entry, EntryProjection, moment, optional_moment

#: Bytes of a bad record that are kept.
EXCERPT = 4_096
#: Characters of a key or reason that are kept.
MAX_TEXT = 1_000
#: Later events of the same id that are noted.
MAX_AGAIN = 10

_PREFIX: dict[type[Verdict], str] = {Duplicate: "dup", Void: "void", Bad: "bad"}
_WORD: dict[type[Verdict], str] = {Admitted: "admitted", Duplicate: "duplicate", Void: "void", Bad: "bad"}

_NO_EVENT: Document = {
    "type": None,
    "subject": None,
    "actor": None,
    "time": None,
    "correlation": None,
    "causation": None,
}


def keys(entry: Entry) -> Iterable[str]:
    verdict = entry.verdict
    if isinstance(verdict, Admitted):
        return (verdict.event.id,)
    return (f"{_PREFIX[type(verdict)]}-{entry.offset}",)


def fold(document: Document | None, entry: Entry) -> Document | None:
    if document is not None:
        return _again(document, entry)
    record, verdict = entry.record, entry.verdict
    logged_at = optional_moment(entry.log_time)
    found: Document = {
        "offset": record.offset,
        "verdict": _WORD[type(verdict)],
        "reason": verdict.reason[:MAX_TEXT] if isinstance(verdict, Bad | Void) else "",
        "user": record.user,
        "key": record.key[:MAX_TEXT],
        "logged_at": logged_at,
    }
    if isinstance(verdict, Bad):
        found.update(_excerpt(entry, logged_at))
        return found
    event = verdict.event
    found["type"] = event.type
    found["subject"] = event.subject
    found["actor"] = event.actor
    found["time"] = moment(event.time)
    found["correlation"] = event.correlationid
    found["causation"] = event.causationid
    return found


def _excerpt(entry: Entry, logged_at: str | None) -> Document:
    """The beginning of what could not be read, as text if it is text. It has no time but that of its place."""
    head = entry.record.body[:EXCERPT]
    text = _text(head)
    return {
        **_NO_EVENT,
        "time": logged_at,
        "size": len(entry.record.body),
        "excerpt": base64.b64encode(head).decode() if text is None else text,
        "excerpt_base64": text is None,
    }


def _text(head: bytes) -> str | None:
    """The bytes as UTF-8; the last character may have been cut."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None


def _again(document: Document, entry: Entry) -> Document:
    """Another event under an id that is taken: not hidden, and not in the other's place."""
    said = {"offset": entry.offset, "user": entry.record.user}
    return {**document, "again": [*document.get("again", []), said][:MAX_AGAIN]}


EVENTS = EntryProjection(
    name="events",
    version=1,
    keys=keys,
    fold=fold,
    indexes=(
        ("-offset",),
        ("type", "-offset"),
        ("subject", "-offset"),
        ("actor", "-offset"),
        # a story is read from its beginning
        ("correlation", "offset"),
        ("causation", "offset"),
        ("verdict", "-offset"),
    ),
    growing=(("-offset",), ("type", "-offset"), ("actor", "-offset"), ("verdict", "-offset")),
    ttl=Ttl("logged_at", retention.EVENTS),
)
