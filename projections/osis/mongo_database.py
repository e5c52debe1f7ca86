"""One MongoDB database: the client, what it promises, retries and errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.errors import BSONError
from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    NetworkTimeout,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern

from projections.osis.errors import BadDocument, BadUrl, StorageFailed, Unreachable

#: Milliseconds until a server that is away counts as unreachable.
SELECTION_MS = 5_000
#: Milliseconds one operation may take on the socket.
SOCKET_MS = 30_000
#: Tries of an operation whose connection broke, and the seconds before each further one.
PAUSES = (0.1, 0.5)

T = TypeVar("T")
Raw = dict[str, Any]


class MongoDatabase:
    """A database on the stable API: commands outside of it are refused by the server.

    Writes are acknowledged when a majority has them in its journal; a server alone would otherwise confirm what it
    forgets when it is killed, and who wrote it would go on. The URL's own options win over the bounds given here.
    """

    def __init__(self, url: str) -> None:
        self._client = _client(url)
        try:
            database = self._client.get_default_database()
        except PyMongoError:
            self._client.close()
            raise _bad_url() from None
        self._database = database.with_options(
            codec_options=_plain_integers(), write_concern=WriteConcern(w="majority", j=True)
        )
        self.name = self._database.name

    def collection(self, name: str) -> Collection[Raw]:
        """Return a handle; touches nothing."""
        return self._database[name]

    def list_collections(self, prefix: str) -> list[str]:
        """Return the names of all collections that begin with the prefix, sorted."""
        names = self.run(self._database.list_collection_names)
        return sorted(name for name in names if name.startswith(prefix) and not name.startswith("system."))

    def create(self, name: str) -> None:
        """Create the collection if it is missing."""
        if name not in self.list_collections(name):
            self.run(lambda: self._database.create_collection(name, check_exists=False))

    def ping(self) -> None:
        """Return when the server answers."""
        self.run(lambda: self._database.command("ping"))

    def run(self, operation: Callable[[], T]) -> T:
        """Run an idempotent operation, again where a connection broke; raises the port's errors."""
        for pause in PAUSES:
            try:
                return self._once(operation)
            except _Broken:
                time.sleep(pause)
        try:
            return self._once(operation)
        except _Broken as broken:
            raise Unreachable(str(broken)) from broken

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _once(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except (ServerSelectionTimeoutError, NetworkTimeout, ExecutionTimeout, WTimeoutError) as error:
            raise Unreachable(f"MongoDB database {self.name}: {_brief(error)}") from error
        except AutoReconnect as error:
            raise _Broken(f"MongoDB database {self.name}: {_brief(error)}") from error
        except ConnectionFailure as error:
            raise Unreachable(f"MongoDB database {self.name}: {_brief(error)}") from error
        except (DocumentTooLarge, BSONError, OverflowError) as error:
            raise BadDocument(f"MongoDB cannot keep the document: {_brief(error)}") from error
        except PyMongoError as error:
            raise StorageFailed(f"MongoDB database {self.name}: {_brief(error)}") from error


class _Broken(Exception):
    """The connection broke during an operation."""


class _PlainIntegers(TypeDecoder):
    bson_type = Int64

    def transform_bson(self, value: Int64) -> int:
        return int(value)


def _plain_integers() -> CodecOptions[Raw]:
    return CodecOptions(type_registry=TypeRegistry([_PlainIntegers()]), tz_aware=True)


def _client(url: str) -> MongoClient[Raw]:
    api = ServerApi("1", strict=True, deprecation_errors=True)
    try:
        return MongoClient(url, appname="fleetbus", server_api=api, **_bounds(url))
    except (PyMongoError, ValueError):
        raise _bad_url() from None


def _bad_url() -> BadUrl:
    # The driver's own words may quote the URL, password and all.
    return BadUrl(
        "the MongoDB URL is not of the form mongodb://[user:password@]host[:port]/database[?options];"
        " characters like : / @ in a password are written as %3A %2F %40"
    )


def _bounds(url: str) -> dict[str, Any]:
    bounds = {"serverSelectionTimeoutMS": SELECTION_MS, "connectTimeoutMS": SELECTION_MS, "socketTimeoutMS": SOCKET_MS}
    return {name: value for name, value in bounds.items() if name.lower() not in url.lower()}


def _brief(error: Exception) -> str:
    return str(error).partition(", full error:")[0].partition(", Timeout:")[0][:500]
