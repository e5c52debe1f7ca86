"""The Documents port: JSON documents in collections, in namespaces, with time to live; and blobs.

Views are kept here. Everything is written so that doing it again changes nothing, and all of it can
be thrown away and built anew from the log.

    documents = open_documents("sqlite:///var/lib/fleetbus/views.db")
    views = documents.namespace("live-3")
    views.declare("jobs", indexes=[("state", "-created"), ("-created",)], ttl=Ttl("ended", 30 * DAY))
    views.put_many("jobs", [{"_id": "j1", "_at": 17, "state": "queued", "created": "2026-01-01T…Z"}])
    page = views.find("jobs", Eq("state", "queued"), sort=["-created"], limit=50)
    page = views.find("jobs", Eq("state", "queued"), sort=["-created"], after=page.next_cursor)

Several processes and threads may use the same storage, and one object, at once. Readers never block
writers. Calls block, for a bounded time; `Unreachable` says that the bound was reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import msgspec

from projections.osis import codec
from projections.osis.blobs import Blobs
from projections.osis.filters import EVERYTHING, Filter
from projections.osis.names import check_namespace

S = TypeVar("S", bound=msgspec.Struct)

#: A JSON object with a string `_id`, and perhaps an integer `_at`.
Document = dict[str, Any]

#: One index or sort order: field paths, a leading "-" for descending.
Order = Sequence[str]

#: Seconds.
DAY = 86_400.0

#: Documents that `iterate` reads at a time.
_BATCH = 500

NOTHING_NEW: Mapping[str, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Ttl:
    """Documents go away `seconds` after the moment in `field`.

    The field holds RFC 3339 text, or a number of seconds since 1970. A document in which it is
    missing, null or unreadable stays for ever.
    """

    field: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an answer.

    `next_cursor` leads to the following page and is None at the end. `total` counts what the filter
    finds on all pages at this moment, or is None when it was not asked for.
    """

    items: list[Document]
    next_cursor: str | None
    total: int | None


class Namespace(ABC):
    """A set of collections of one name, apart from those of every other namespace.

    Making the handle touches nothing; a collection comes into being with its first write or
    declaration, and reading one that does not exist finds nothing. Collection names match
    `[a-z0-9_]{1,48}` (else `BadName`).

    What is kept is what JSON can say. Moments (`datetime`) become RFC 3339 text, tuples lists. Values
    that come from the wide world are tamed rather than refused, so that no event can stop a
    projection: NaN and infinities become null, integers beyond 64 bits floats, U+0000 becomes U+2400,
    lone surrogates U+FFFD, what is nested deeper than 90 levels its JSON text. Documents come back
    as plain JSON values, equal on every adapter.
    """

    name: str
    #: Whether an index that grows in few places does so at little cost while many documents are written, so that it
    #: need not be made afterwards.
    grows_indexes: ClassVar[bool] = False
    #: Whether all other writers of the storage wait while an index is made, so that each is best made by itself.
    indexes_block: ClassVar[bool] = False

    @abstractmethod
    def declare(
        self,
        collection: str,
        *,
        indexes: Iterable[Order] = (),
        scan: Sequence[str] = (),
        fields: Sequence[str] = (),
        ttl: Ttl | None = None,
    ) -> None:
        """Create the collection with these indexes and time to live. Repeating it changes nothing.

        Declare an index for each sort and filter that pages use often: first the fields compared with
        `Eq`, then the sort fields. `_id` is added at the end by itself. Indexes that are no longer
        declared stay. `scan` names the fields by which pages filter and sort in all other ways; what no
        index serves is then looked for in these fields alone, where reading documents would be slow.

        `fields` are told by who writes the first documents, and nobody else does so yet: all fields that indexes and
        `scan` will name when these are declared, after many documents. A storage may make them
        faster then, and leave out until then what makes writing slow.

        Every process that writes to a collection with time to live declares it: the time to live acts
        on documents written after the declaration.
        """

    def get(self, collection: str, document_id: str) -> Document | None:
        """Return the document, or None."""
        return next(iter(self.get_many(collection, [document_id]).values()), None)

    @abstractmethod
    def get_many(self, collection: str, ids: Iterable[str]) -> dict[str, Document]:
        """Return those of the documents that exist, by id, in one round trip."""

    def get_as(self, collection: str, document_id: str, shape: type[S]) -> S | None:
        """Return a document as a msgspec Struct, or None; what the Struct does not name is not decoded."""
        found = self.get(collection, document_id)
        return None if found is None else msgspec.convert(found, shape)

    @abstractmethod
    def put_many(
        self, collection: str, documents: Iterable[Mapping[str, Any]], *, new: Collection[str] = frozenset()
    ) -> int:
        """Insert or replace each document by its `_id`; return how many were skipped as stale.

        A document with `_at` does not replace a stored one whose `_at` is higher: it is skipped, so a
        frozen old writer cannot overwrite what is newer. Of two documents with one id in the same
        call the later one wins, under the same rule. Documents are written one by one in effect: if this
        raises `Unreachable` some may be written; on `BadDocument` none is.

        `new` are ids that the caller believes not to be there, which is faster where it is so, and all the same where
        it is not.
        """

    def put_all(
        self, documents: Mapping[str, Sequence[Mapping[str, Any]]], *, new: Mapping[str, Collection[str]] = NOTHING_NEW
    ) -> None:
        """`put_many` for several collections, one after the other in this order. On `BadDocument` those before the
        one that it is about may be written.
        """
        for collection, several in documents.items():
            self.put_many(collection, several, new=new.get(collection, frozenset()))

    def apart(self) -> AbstractContextManager[None]:
        """Within this, a process of its own may do what `put_many` and `put_all` of this handle are asked to, for one
        thread that writes much. Nothing else changes; the calls block as ever.
        """
        return nullcontext()

    @abstractmethod
    def delete_many(self, collection: str, ids: Iterable[str], *, at: int | None = None) -> int:
        """Delete these documents; return how many were deleted.

        With `at`, documents whose `_at` is higher stay.
        """

    @abstractmethod
    def find(
        self,
        collection: str,
        where: Filter = EVERYTHING,
        *,
        sort: Order = (),
        limit: int = 50,
        after: str | None = None,
        total: bool = True,
    ) -> Page:
        """Return up to `limit` documents (1 to 1,000) that the filter finds, in order.

        Ties are broken by `_id`, so the order is total. `after` is a `next_cursor` of the same sort
        (else `BadQuery`); it names a place in the order, not a count, so documents that come or go
        meanwhile never shift the pages. Counting the total reads the index of the filter: ask
        `total=False` where nobody looks at it.
        """

    @abstractmethod
    def count(self, collection: str, where: Filter = EVERYTHING) -> int:
        """Return how many documents the filter finds."""

    @abstractmethod
    def tally(self, collection: str, field: str, where: Filter = EVERYTHING) -> dict[str, int]:
        """Return how many documents the filter finds for each text that the field holds, by the text."""

    @abstractmethod
    def texts(self, collection: str, field: str) -> list[str]:
        """Return the different texts that the field holds, or its lists, sorted."""

    def iterate(self, collection: str, where: Filter = EVERYTHING) -> Iterator[Document]:
        """Yield documents in order of `_id`, reading some at a time. Not a snapshot."""
        page = self.find(collection, where, limit=_BATCH, total=False)
        yield from page.items
        while page.next_cursor is not None:
            page = self.find(collection, where, limit=_BATCH, after=page.next_cursor, total=False)
            yield from page.items

    def digest(self, collection: str, *, without: Collection[str] = ()) -> str:
        """Return the SHA-256, in hex, of the canonical JSON of all documents in order of `_id`.

        Top-level fields named in `without` are left out. Equal documents have equal digests on
        every adapter, whatever the order of their keys.
        """
        return codec.digest(self.iterate(collection), without)

    @abstractmethod
    def sweep(self, collection: str) -> int:
        """Delete what has outlived its time now; return how many.

        Writes do this by themselves, at most once a minute for each collection; MongoDB does it
        too. Until swept, an expired document is still found.
        """

    @abstractmethod
    def collections(self) -> list[str]:
        """Return the names of the collections that exist, sorted."""


class Documents(ABC):
    """The whole storage: namespaces, pointers to them, and blobs.

    Namespace names match `[a-z0-9-]{1,48}` (else `BadName`); `osis` is reserved.
    """

    blobs: Blobs
    _own: Namespace

    @abstractmethod
    def namespace(self, name: str) -> Namespace:
        """Return a handle on the namespace; it need not exist."""

    @abstractmethod
    def list_namespaces(self) -> list[str]:
        """Return the names of namespaces that hold at least one collection, sorted."""

    @abstractmethod
    def drop_namespace(self, name: str) -> None:
        """Delete the namespace with all its collections; one that does not exist is no error."""

    def point(self, alias: str, name: str) -> None:
        """Let the alias mean this namespace from now on, in one atomic write.

        A rebuild writes to `live-4` beside `live-3`, then says `point("live", "live-4")`.
        """
        self._own.put_many("pointers", [{"_id": alias, "namespace": check_namespace(name)}])

    def pointed(self, alias: str) -> str | None:
        """Return the namespace that the alias means, or None."""
        pointer = self._own.get("pointers", alias)
        return None if pointer is None else pointer["namespace"]

    @abstractmethod
    def ping(self) -> None:
        """Return when the storage answers; raises `Unreachable` otherwise."""

    @abstractmethod
    def close(self) -> None:
        """Let go of all connections. The object is of no use afterwards; closing again is no error."""
