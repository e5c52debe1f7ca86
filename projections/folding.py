"""One batch of the log, folded in memory. Pure: what is read and written around it is the writer's.

work = plan(projections, entries)              which documents of which view each entry is about
folded = fold(projection, work.steps, stored)  what becomes of the documents of one view
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from bus.admission import Admitted, Bad
from projections.osis.documents import Document
from projections.projection import AnyProjection, Entry, EntryProjection, Projection

#: For each document, what is said of it and at which offset: events for projections of events, else entries.
Steps = dict[str, list[tuple[Any, int]]]


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
        steps = plan.steps[projection.name]
        try:
            for key in projection.keys(entry):
                steps.setdefault(key, []).append((entry, entry.offset))
        except Exception as error:  # noqa: BLE001  # one projection's fault must not stop the others
            plan.troubles.append(_trouble(projection, "", entry.offset, entry, error))

    def _plan_event(self, plan: Plan, projection: Projection, entry: Entry, verdict: Admitted) -> None:
        steps, event, offset = plan.steps[projection.name], verdict.event, entry.offset
        try:
            for part in (event,) if projection.split is None else projection.split(event):
                for key in projection.keys(part):
                    steps.setdefault(key, []).append((part, offset))
        except Exception as error:  # noqa: BLE001  # as above
            plan.troubles.append(_trouble(projection, "", offset, event, error))


def fold(projection: AnyProjection, steps: Steps, stored: Mapping[str, Document]) -> Folded:
    """The documents after the steps. What a document reflects already (`_at`) is passed over.

    A step that fails is left out, and reported; the document goes on without it.
    """
    folded = Folded([], [], [])
    for key, said in steps.items():
        before = document = stored.get(key)
        reflected = -1 if document is None else document["_at"]
        for what, offset in said:
            if offset <= reflected:
                continue
            try:
                after = _step(projection, document, what, offset)
            except Exception as error:  # noqa: BLE001  # this document's fault must not stop the others
                folded.troubles.append(_trouble(projection, key, offset, what, error))
                continue
            if after is not None and after is not document:
                after["_id"], after["_at"] = key, offset
            document = after
        if document is not None and document is not before:
            folded.changed.append(document)
        elif document is None and before is not None:
            folded.deleted.append(key)
    return folded


def _step(projection: AnyProjection, document: Document | None, what: Any, offset: int) -> Document | None:
    if isinstance(projection, Projection):
        return projection.fold(document, what, offset)
    return projection.fold(document, what)


def _trouble(projection: AnyProjection, key: str, offset: int, what: Any, error: Exception) -> Trouble:
    said = what if not isinstance(what, Entry) else None if isinstance(what.verdict, Bad) else what.verdict.event
    return Trouble(
        view=projection.name,
        key=key,
        offset=offset,
        event=None if said is None else said.id,
        error=f"{type(error).__name__}: {error}"[:1_000],
    )
