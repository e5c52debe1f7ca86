"""One batch of the log, folded in memory. Pure: what is read and written around it is the writer's.

work = plan(projections, entries)                     which documents of which view each entry is about
folded = fold(projection, work.steps, stored, aside)  what becomes of the documents of one view

A document whose fold raises is *set aside* at that offset: it stays as the record before left it, and what is said of
it from there on leaves it alone. So it is never half right, and a replay by mended code makes it whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from msgspec import Struct

from bus.admission import Admitted, Bad
from projections.osis.documents import Document
from projections.projection import AnyProjection, Entry, EntryProjection, Projection

#: What is said of one document and at which offset: events for projections of events, else entries.
Said = list[tuple[Any, int]]
#: The same for each document.
Steps = dict[str, Said]


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
        for entry in entries:
            for of_entries in self._of_entries:
                self._plan_entry(plan, of_entries, entry)
            if isinstance(entry.verdict, Admitted):
                for projection in self._of_type.get(entry.verdict.event.type, ()):
                    self._plan_event(plan, projection, entry, entry.verdict)
        return plan

    def _plan_entry(self, plan: Plan, projection: EntryProjection, entry: Entry) -> None:
        try:
            found = [(key, entry) for key in projection.keys(entry)]
        except Exception as error:  # noqa: BLE001  # one projection's fault must not stop the others
            plan.troubles.append(trouble_of(projection, "", entry.offset, entry, error))
            return
        _add(plan.steps[projection.name], found, entry.offset)

    def _plan_event(self, plan: Plan, projection: Projection, entry: Entry, verdict: Admitted) -> None:
        event = verdict.event
        try:
            parts = (event,) if projection.split is None else projection.split(event)
            found = [(key, part) for part in parts for key in projection.keys(part)]
        except Exception as error:  # noqa: BLE001  # as above
            plan.troubles.append(trouble_of(projection, "", entry.offset, event, error))
            return
        _add(plan.steps[projection.name], found, entry.offset)


def _add(steps: Steps, found: Iterable[tuple[str, Any]], offset: int) -> None:
    for key, what in found:
        steps.setdefault(key, []).append((what, offset))


def fold(
    projection: AnyProjection, steps: Steps, stored: Mapping[str, Document], aside: Mapping[str, int] | None = None
) -> Folded:
    """The documents after the steps. What a document reflects already (`_at`) is passed over.

    `aside`: the documents that are set aside, and from which offset on.
    """
    folded, aside = Folded([], [], []), aside or {}
    for key, said in steps.items():
        before = document = stored.get(key)
        reflected, since = -1 if before is None else before["_at"], aside.get(key)
        for offset, parts in _by_record(said):
            if offset <= reflected:
                continue
            if since is not None and offset >= since:
                folded.left_alone += 1
                continue
            try:
                document = _after(projection, document, parts, key, offset)
            except Exception as error:  # noqa: BLE001  # this document's fault must not stop the others
                folded.troubles.append(trouble_of(projection, key, offset, parts[0], error))
                since = offset
        if document is not None and document is not before:
            folded.changed.append(document)
        elif document is None and before is not None:
            folded.deleted.append(key)
    return folded


def _by_record(said: Said) -> Iterator[tuple[int, list[Any]]]:
    """The steps of each record together: a document reflects the whole of it, or nothing."""
    for offset, steps in groupby(said, key=itemgetter(1)):
        yield offset, [what for what, _ in steps]


def _after(
    projection: AnyProjection, document: Document | None, parts: Iterable[Any], key: str, offset: int
) -> Document | None:
    for what in parts:
        after = _step(projection, document, what, offset)
        if after is not None and after is not document:
            after["_id"], after["_at"] = key, offset
        document = after
    return document


def _step(projection: AnyProjection, document: Document | None, what: Any, offset: int) -> Document | None:
    if isinstance(projection, Projection):
        return projection.fold(document, what, offset)
    return projection.fold(document, what)


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
