"""The plainest way to fold a log into views: one record after the other, everything in memory.

It is what the runner is measured against, so it shares nothing with it but admission and the projections themselves.
"""

from collections.abc import Iterable

from bus.admission import AdmissionState, Admitted, admit
from bus.ports import Record
from events.envelope import Event
from projections.osis.documents import Document
from projections.projection import AnyProjection, Entry, Projection
from projections.registry import PROJECTIONS

#: Collection → id → document.
Collections = dict[str, dict[str, Document]]


def admitted(records: Iterable[Record]) -> list[tuple[Event, int]]:
    """The events that count, with their offsets."""
    state = AdmissionState()
    verdicts = [(admit(state, record), record.offset) for record in records]
    return [(verdict.event, offset) for verdict, offset in verdicts if isinstance(verdict, Admitted)]


def fold_events(projection: Projection, events: Iterable[tuple[Event, int]]) -> dict[str, Document]:
    """The documents of one projection after these events, in the order given, without `_id` and `_at`."""
    documents: dict[str, Document] = {}
    for event, offset in events:
        if event.type in projection.handles:
            for part in projection.split(event) if projection.split else (event,):
                for key in projection.keys(part):
                    _put(documents, key, projection.fold(documents.get(key), part, offset))
    return documents


def fold_log(records: Iterable[Record], projections: Iterable[AnyProjection] = PROJECTIONS) -> Collections:
    """All views of a log, as they are to be found in the storage: with `_id` and `_at`."""
    views: Collections = {projection.name: {} for projection in projections}
    state = AdmissionState()
    for record in records:
        verdict = admit(state, record)
        entry = Entry(record, verdict, state.log_time)
        for projection in projections:
            _fold_entry(views[projection.name], projection, entry)
    return views


def _fold_entry(documents: dict[str, Document], projection: AnyProjection, entry: Entry) -> None:
    if not isinstance(projection, Projection):
        for key in projection.keys(entry):
            _place(documents, key, projection.fold(documents.get(key), entry), entry.offset)
    elif isinstance(entry.verdict, Admitted) and entry.verdict.event.type in projection.handles:
        event = entry.verdict.event
        for part in projection.split(event) if projection.split else (event,):
            for key in projection.keys(part):
                _place(documents, key, projection.fold(documents.get(key), part, entry.offset), entry.offset)


def _place(documents: dict[str, Document], key: str, after: Document | None, offset: int) -> None:
    if after is not documents.get(key):
        _put(documents, key, after and {**after, "_id": key, "_at": offset})


def _put(documents: dict[str, Document], key: str, after: Document | None) -> None:
    if after is None:
        documents.pop(key, None)
    else:
        documents[key] = after
