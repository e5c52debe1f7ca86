"""One batch of the log, folded in memory. Pure: what is read and written around it is the writer's.

work = plan(projections, entries)                     which documents of which view each entry is about
folded = fold(projection, work.steps, stored, aside)  what becomes of the documents of one view

A document whose fold raises is *set aside* at that offset: it stays as the record before left it, and what is said of
it from there on leaves it alone. So it is never half right, and a replay by mended code makes it whole.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from bus.admission import Admitted, Bad
from events.envelope import Event
from projections.osis.documents import Document
from projections.projection import AnyProjection, Entry, EntryProjection, Projection

#: What is said of one document and at which offset: events for projections of events, else entries.
Said = list[tuple[Any, int]]
#: The same for each document.
Steps = dict[str, Said]
#: `fold` of either kind of projection.
_Step = Callable[[Document | None, Any, int], Document | None]


class Trouble(Struct, frozen=True, kw_only=True):
    """A projection failed on one entry, for one document or (without a `key`) for any."""

    view: str
    key: str
    offset: int
    event: str | None
    error: str


class Plan(Struct):
    """The steps for each view, and what went wrong on the way to them."""

    steps: dict[str, Steps]
    troubles: list[Trouble]


class Folded(Struct):
    """What is to be written of one view."""

    changed: list[Document]
    deleted: list[str]
    troubles: list[Trouble]
    #: Records that left a document alone because it was set aside before.
    left_alone: int = 0


class Dispatch:
    """Who wants to hear of what, made once from the projections."""

    def __init__(self, projections: Iterable[AnyProjection]) -> None:
        self.projections = tuple(projections)
        self._of_entries = [one for one in self.projections if isinstance(one, EntryProjection)]
        of_events = [one for one in self.projections if isinstance(one, Projection)]
        types = {type for projection in of_events for type in projection.handles}
        self._of_type = {type: [one for one in of_events if type in one.handles] for type in types}

    def plan(self, entries: Iterable[Entry]) -> Plan:
        """Which documents the entries are about, in log order for each document."""
        plan = Plan({projection.name: {} for projection in self.projections}, [])
        of_type = {
            type: [(one, plan.steps[one.name]) for one in projections] for type, projections in self._of_type.items()
        }
        of_entries = [(one, plan.steps[one.name]) for one in self._of_entries]
        for entry in entries:
            offset, verdict = entry.record.offset, entry.verdict
            for about_entries, steps in of_entries:
                try:
                    for key in tuple(about_entries.keys(entry)):
                        steps.setdefault(key, []).append((entry, offset))
                except Exception as error:  # noqa: BLE001  # one projection's fault must not stop the others
                    plan.troubles.append(trouble_of(about_entries, "", offset, entry, error))
            if isinstance(verdict, Admitted):
                event = verdict.event
                for projection, steps in of_type.get(event.type, ()):
                    try:
                        for key, what in _about(projection, event):
                            steps.setdefault(key, []).append((what, offset))
                    except Exception as error:  # noqa: BLE001  # as above
                        plan.troubles.append(trouble_of(projection, "", offset, event, error))
        return plan


def _about(projection: Projection, event: Event) -> list[tuple[str, Event]]:
    if projection.split is None:
        return [(key, event) for key in projection.keys(event)]
    return [(key, part) for part in projection.split(event) for key in projection.keys(part)]


def fold(
    projection: AnyProjection, steps: Steps, stored: Mapping[str, Document], aside: Mapping[str, int] | None = None
) -> Folded:
    """The documents after the steps. What a document reflects already (`_at`) is passed over.

    `aside`: the documents that are set aside, and from which offset on.
    """
    folded, aside, step, together = Folded([], [], []), aside or {}, _step_of(projection), _together(projection)
    for key, said in steps.items():
        before = document = stored.get(key)
        since = aside.get(key)
        if since is None and (before is None or before["_at"] < said[0][1]):
            try:
                _become(folded, key, before, together(before, said, key))
                continue
            except Exception:  # noqa: BLE001  # record by record, to see which it is
                document = before
        reflected = -1 if before is None else before["_at"]
        for offset, parts in _by_record(said):
            if offset <= reflected:
                continue
            if since is not None and offset >= since:
                folded.left_alone += 1
                continue
            try:
                document = _after(step, document, parts, key)
            except Exception as error:  # noqa: BLE001  # this document's fault must not stop the others
                folded.troubles.append(trouble_of(projection, key, offset, parts[0][0], error))
                since = offset
        _become(folded, key, before, document)
    return folded


def _become(folded: Folded, key: str, before: Document | None, document: Document | None) -> None:
    if document is not None and document is not before:
        folded.changed.append(document)
    elif document is None and before is not None:
        folded.deleted.append(key)


def _by_record(said: Said) -> list[tuple[int, Said]]:
    """The steps of each record together: a document reflects the whole of it, or nothing."""
    found: list[tuple[int, Said]] = []
    last = -1
    for what, offset in said:
        if offset == last:
            found[-1][1].append((what, offset))
        else:
            found.append((offset, [(what, offset)]))
            last = offset
    return found


def _after(step: _Step, document: Document | None, said: Said, key: str) -> Document | None:
    for what, offset in said:
        after = step(document, what, offset)
        if after is not None and after is not document:
            after["_id"] = key
            after["_at"] = offset
        document = after
    return document


def _together(projection: AnyProjection) -> Callable[[Document | None, Said, str], Document | None]:
    """All that is said of a document, none of which it reflects yet, at the least cost."""
    step, fold_many = _step_of(projection), projection.fold_many if isinstance(projection, Projection) else None
    if fold_many is None:
        return lambda document, said, key: _after(step, document, said, key)

    def together(document: Document | None, said: Said, key: str) -> Document | None:
        after, offset = fold_many(document, said)
        if after is not None and after is not document:
            after["_id"] = key
            after["_at"] = offset
        return after

    return together


def _step_of(projection: AnyProjection) -> _Step:
    if isinstance(projection, Projection):
        return projection.fold
    of_entry = projection.fold
    return lambda document, entry, _: of_entry(document, entry)


def trouble_of(projection: AnyProjection, key: str, offset: int, what: Any, error: Exception) -> Trouble:
    """What went wrong with this step, for the marker."""
    said = what if not isinstance(what, Entry) else None if isinstance(what.verdict, Bad) else what.verdict.event
    return Trouble(
        view=projection.name,
        key=key,
        offset=offset,
        event=None if said is None else said.id,
        error=f"{type(error).__name__}: {error}"[:1_000],
    )
