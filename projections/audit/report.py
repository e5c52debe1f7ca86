"""A report: who did what, when and why, about one job, one node or one actor. Made from the log, not from views.

Every record that belongs to it is a line, also one that does not count, with the reason. Causes that are not part of
it by themselves (the command of another person's batch, say) come in as lines of their own, so that each why is there.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import UNSET, Struct, UnsetType

from bus.admission import AdmissionState, Admitted, Bad, Duplicate, Verdict, admit
from bus.archive.folder import Archive
from bus.ports import Record, Stream
from events.envelope import Event
from projections.audit.walk import walk

About = Literal["job", "node", "actor"]
#: Fields of the data that say most, in this order.
TELLING = (
    *("script", "name", "node", "nodes", "role", "roles", "all", "job", "batch", "via", "outcome", "duration", "late"),
    *("reason", "message", "failure", "error", "command_type", "on", "holder", "previous", "by", "retry_of", "segment"),
)
#: Fields in which the telling ones may lie.
INSIDE = ("order", "target", "failure")
#: Characters of one value in the short form.
SHORT = 200
#: Records between two words about progress.
TELL_EVERY = 20_000

Tell = Callable[[int, int], None]


class Line(Struct, frozen=True, kw_only=True):
    """One record. `who` said `what` at `when`; `user` is the broker's word for who. `why` names the event before it.

    `counts` is "" when admission takes it, else why not. `segment` is None as long as it is not sealed.
    """

    offset: int
    when: datetime | None
    who: str
    user: str
    what: str
    about: str
    id: str
    short: dict[str, str]
    why: str
    story: str
    counts: str
    segment: int | None
    #: True for what is here only because something else followed from it.
    cause: bool
    data: Any


class Report(Struct, frozen=True, kw_only=True):
    """All lines about `name`, in log order."""

    about: About
    name: str
    since: datetime | None
    until: datetime | None
    records: int
    next_offset: int
    lines: list[Line]


class Question(Struct, frozen=True, kw_only=True):
    """What is asked for: events about `name`, said at `since` or later, and before `until`."""

    about: About
    name: str
    since: datetime | None = None
    until: datetime | None = None

    def fits(self, event: Event) -> bool:
        early = self.since is not None and event.time < self.since
        late = self.until is not None and event.time >= self.until
        return not early and not late and self.touches(event)

    def touches(self, event: Event) -> bool:
        if self.about == "job":
            # the id of a submitting command is the id of its job
            return self.name in (event.id, event.subject) or _mentions(event.data, ("job", "batch", "jobs"), self.name)
        if self.about == "node":
            about = self.name == event.subject and ".node." in event.type
            return about or event.actor == f"node:{self.name}" or _mentions(event.data, ("node", "nodes"), self.name)
        return event.actor == self.name or _mentions(event.data, ("by",), self.name)


def _mentions(data: Any, fields: tuple[str, ...], name: str) -> bool:
    """Whether one of the fields, or of those in them, is `name`."""
    for field in (*fields, *INSIDE, "jobs"):
        value = data.get(field) if isinstance(data, dict) else getattr(data, field, None)
        parts = value if isinstance(value, tuple | list) else (value,)
        for part in parts:
            if (field in fields and part == name) or (
                isinstance(part, Struct | dict) and _mentions(part, fields, name)
            ):
                return True
    return False


def report(
    question: Question,
    archive: Archive | None,
    stream: Stream | None,
    tell: Tell = lambda _done, _total: None,
) -> Report:
    """Reads the whole log, twice when causes have to be looked up. Raises as `projections.audit.walk.walk` does."""
    found = _Search(question, archive, stream, tell)
    lines = found.walk(question.fits, set())
    known = {line.id for line in lines}
    causes = {why for line in lines for why in (line.why, line.story) if why} - known
    if causes:
        lines += found.walk(lambda event: event.id in causes, causes)
    return Report(
        about=question.about,
        name=question.name,
        since=question.since,
        until=question.until,
        records=found.records,
        next_offset=found.next_offset,
        lines=sorted(lines, key=lambda line: line.offset),
    )


class _Search:
    """Walks over the log with the same eyes as everybody."""

    def __init__(self, question: Question, archive: Archive | None, stream: Stream | None, tell: Tell) -> None:
        self._question = question
        self._archive, self._stream = archive, stream
        self._tell = tell
        self.records = self.next_offset = 0

    def walk(self, wanted: Callable[[Event], bool], causes: set[str]) -> list[Line]:
        """The lines that are wanted; those of `causes`, if that is not empty, count as such."""
        state, lines = AdmissionState(), list[Line]()
        names = [name.encode() for name in causes] or [self._question.name.encode()]
        total = 0 if self._stream is None else self._stream.next_offset()
        self.records = 0
        for record, segment in walk(self._archive, self._stream):
            verdict = admit(state, record)
            self.records, self.next_offset = self.records + 1, record.next_offset
            if _holds(record, names):
                lines += _line(record, verdict, segment, wanted, cause=bool(causes))
            if not self.records % TELL_EVERY:
                state.take_changes()
                self._tell(record.next_offset, max(total, record.next_offset))
        self._tell(self.next_offset, self.next_offset)
        return lines


def _holds(record: Record, names: Iterable[bytes]) -> bool:
    """A quick look: what does not have the letters anywhere is not about it. An agent's name is in its key, too."""
    return any(name in record.body or name.decode() in record.key for name in names)


def _line(
    record: Record, verdict: Verdict, segment: int | None, wanted: Callable[[Event], bool], *, cause: bool
) -> list[Line]:
    if isinstance(verdict, Bad):
        return [] if cause else [_bad(record, verdict, segment)]
    event = verdict.event
    if not wanted(event) or (cause and not isinstance(verdict, Admitted)):
        return []
    data = msgspec.to_builtins(event.data)
    return [
        Line(
            offset=record.offset,
            when=event.time,
            who=event.actor,
            user=record.user or "",
            what=event.type,
            about=event.subject,
            id=event.id,
            short=_short(data),
            why=event.causationid or "",
            story=event.correlationid or "",
            counts=_counts(verdict),
            segment=segment,
            cause=cause,
            data=data,
        )
    ]


def _counts(verdict: Verdict) -> str:
    if isinstance(verdict, Admitted):
        return ""
    return "said before" if isinstance(verdict, Duplicate) else f"void: {verdict.reason}"


def _bad(record: Record, verdict: Bad, segment: int | None) -> Line:
    return Line(
        offset=record.offset,
        when=None,
        who="",
        user=record.user or "",
        what=record.key,
        about="",
        id="",
        short={},
        why="",
        story="",
        counts=f"bad: {verdict.reason}",
        segment=segment,
        cause=False,
        data=record.body[:2_000].decode(errors="replace"),
    )


def _short(data: Any) -> dict[str, str]:
    """What says most of an event's data."""
    if not isinstance(data, dict):
        return {}
    found = {}
    places = [data, *(data[name] for name in INSIDE if isinstance(data.get(name), dict))]
    for name in TELLING:
        for place in places:
            value: Any | UnsetType = place.get(name, UNSET)
            if value not in (UNSET, None, "", [], {}) and not isinstance(value, dict) and name not in found:
                found[name] = str(value)[:SHORT]
    return found


def as_document(found: Report) -> Any:
    """For JSON."""
    return msgspec.to_builtins(found)


def as_html(found: Report, made_at: datetime) -> str:
    """One page that needs nothing around it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["pretty"] = lambda data: (
        data if isinstance(data, str) else msgspec.json.format(msgspec.json.encode(data)).decode()
    )
    lines = {line.id: line for line in found.lines if line.id and not line.counts}
    return environment.get_template("report.html").render(report=found, by_id=lines, made_at=made_at)
