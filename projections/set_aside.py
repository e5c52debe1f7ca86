"""Markers of documents that are set aside, in the collection `set_aside` of a generation.

A document whose fold raised stays as the record before left it, until the views are made anew. Its marker says since
which record, and why.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from projections.folding import Trouble
from projections.osis.documents import Document, Namespace

SET_ASIDE = "set_aside"


class Marker(Struct, frozen=True, kw_only=True):
    """What is known of a document that was set aside. Without a `key`: of a record whose documents are not known."""

    view: str
    key: str | None
    #: The event that could not be folded; None for a record that is no event.
    event: str | None
    #: The offset of the first record that the document does not reflect.
    offset: int
    error: str


def marker_id(view: str, key: str) -> str:
    return f"{view}/{key}"


def write_markers(namespace: Namespace, troubles: Iterable[Trouble]) -> None:
    namespace.put_many(SET_ASIDE, [_document(trouble) for trouble in troubles])


def _document(trouble: Trouble) -> Document:
    return {
        "_id": marker_id(trouble.view, trouble.key or f"@{trouble.offset}"),
        "_at": trouble.offset,
        "view": trouble.view,
        "key": trouble.key or None,
        "event": trouble.event,
        "offset": trouble.offset,
        "error": trouble.error,
    }


def read_marker(namespace: Namespace, view: str, key: str) -> Marker | None:
    """Why this document is set aside; None when it is not."""
    found = namespace.get(SET_ASIDE, marker_id(view, key))
    return None if found is None else msgspec.convert(found, Marker)


def read_markers(namespace: Namespace, limit: int) -> list[Marker]:
    """The first `limit` of them, by view and id."""
    found = namespace.find(SET_ASIDE, limit=limit, total=False)
    return [msgspec.convert(one, Marker) for one in found.items]


def aside_since(namespace: Namespace, view: str, keys: Iterable[str]) -> dict[str, int]:
    """Those of the documents that are set aside, and from which offset on."""
    found = namespace.get_many(SET_ASIDE, [marker_id(view, key) for key in keys])
    return {marker["key"]: marker["offset"] for marker in found.values()}
