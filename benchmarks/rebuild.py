"""A rebuild of all views from a long log.

On SQLite, in events of the log per second, beside the `eventsourcing` library, which replays events about jobs: once
into aggregates (read, decode, apply; nothing is written), once into a projection of its own, one document for each job
in SQLite. Its logs are shorter, for what it does to one event does not depend on the others. fleetbus makes seven
views, 1.5 documents for each event, with all their indexes. The log is that of the embedded side. And beside bare
sqlite3, which inserts the very same rows, 6,000 to a transaction, and makes the very same indexes, each once: what a
rebuild could come to if reading, folding and encoding cost nothing.

On MongoDB's protocol, in documents per second, each counted once, beside bare pymongo, which inserts the very same
documents, each once, with `bulk_write`s of a thousand, and then makes the very same indexes. fleetbus reads, decodes,
admits and folds the log meanwhile, and writes a document once for each batch of the log that changes it.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from msgspec import Struct
from pymongo import IndexModel, InsertOne, MongoClient
from pymongo.collection import Collection
from pymongo.write_concern import WriteConcern

from benchmarks import replays
from benchmarks.history import write_history
from benchmarks.measure import Goal, Table, compare
from benchmarks.place import Place, Progress
from bus.embedded import EmbeddedBus
from events.actors import PROJECTIONS
from projections.osis.documents import Documents
from projections.osis.mongo_documents import MongoDocuments
from projections.osis.sqlite_database import WRITE_CACHE
from projections.osis.sqlite_documents import SqliteDocuments
from projections.registry import PROJECTIONS as VIEWS
from projections.replay import ReplayReport, replay
from tests.contract.stores import mongodb_database

#: Events of the log, at full size and for a look.
EVENTS, QUICK_EVENTS = 100_000, 10_000
#: The same for the aggregates and the projection of the rival.
AGGREGATED, QUICK_AGGREGATED = 20_000, 2_000
PROJECTED, QUICK_PROJECTED = 2_000, 400
#: A server in Python takes some hundred documents in a second.
MONGO_EVENTS, QUICK_MONGO_EVENTS = 10_000, 1_000
#: Documents of one bare `bulk_write`, and rows of one transaction of bare sqlite3, about as many as of fleetbus.
BULK, TRANSACTION = 1_000, 6_000

SQLITE_UNITS, MONGO_UNITS = {"rebuilt": "events/s"}, {"written": "documents/s"}
SQLITE_GOALS = (
    Goal("rebuilt", "bare sqlite3, the same rows", ""),
    Goal("rebuilt", "eventsourcing, aggregates", ""),
    Goal("rebuilt", "eventsourcing, projection", ""),
)
MONGO_GOALS = (Goal("written", "bare bulk_write", ">= 0.8"),)

Raw = dict[str, Any]


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    return [_on_sqlite(place, runs, progress), _on_mongodb(place, runs, progress)]


def _on_sqlite(place: Place, runs: int, progress: Progress) -> Table:
    events = place.sized(EVENTS, QUICK_EVENTS)
    with place.folder() as folder:
        progress(f"rebuild: writing a log of {events:,} events")
        written = write_history(folder / "bus", events)
        aggregated = replays.write(folder / "aggregated", place.sized(AGGREGATED, QUICK_AGGREGATED))
        projected = replays.write(folder / "projected", place.sized(PROJECTED, QUICK_PROJECTED))
        kept, turns = folder / "kept.db", count()
        with closing(SqliteDocuments(kept)) as documents:
            generation = _rebuilt(folder / "bus", documents).generation

        def fleetbus() -> Mapping[str, float]:
            path = folder / f"views-{next(turns)}.db"
            with closing(SqliteDocuments(path)) as documents:
                rate = _rebuilt(folder / "bus", documents).rate
            _remove(path)
            return {"rebuilt": rate}

        def bare() -> Mapping[str, float]:
            path = folder / "bare.db"
            seconds = sum(_insert_rows(path, table) for table in _tables(kept, generation))
            _remove(path)
            return {"rebuilt": written / seconds}

        contestants = {
            "fleetbus, SQLite": fleetbus,
            "bare sqlite3, the same rows": bare,
            "eventsourcing, aggregates": lambda: {"rebuilt": replays.aggregates(folder / "aggregated", aggregated)},
            "eventsourcing, projection": lambda: {
                "rebuilt": replays.projection(folder / "projected", folder / "views", projected)
            },
        }
        title = f"Rebuild of all views on SQLite, {written:,} events"
        return compare(title, contestants, SQLITE_UNITS, SQLITE_GOALS, runs, progress)


class SqliteTable(Struct):
    """What a rebuild left in a table: how it and its indexes were made, and all rows in the order of the log."""

    create: str
    insert: str
    indexes: list[str]
    rows: list[tuple[Any, ...]]


def _tables(path: Path, generation: str) -> Iterator[SqliteTable]:
    """The tables of the views in this generation, one after the other: each is let go of before the next."""
    with closing(sqlite3.connect(path)) as connection:
        of_views = "FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name = ? AND type = ?"
        for projection in VIEWS:
            name = f"{generation}.{projection.name}"
            rows = connection.execute(f'SELECT * FROM "{name}" ORDER BY at').fetchall()
            places = ", ".join("?" * len(rows[0])) if rows else ""
            yield SqliteTable(
                connection.execute(f"SELECT sql {of_views}", (name, "table")).fetchone()[0],
                f'INSERT INTO "{name}" VALUES ({places})',
                [sql for (sql,) in connection.execute(f"SELECT sql {of_views}", (name, "index"))],
                rows,
            )


def _insert_rows(path: Path, table: SqliteTable) -> float:
    """Writes them all by sqlite3 alone, with the promise and the cache that fleetbus has; the seconds that took."""
    began = time.perf_counter()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"cache_size=-{WRITE_CACHE}"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(table.create)
        for at in range(0, len(table.rows), TRANSACTION):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(table.insert, table.rows[at : at + TRANSACTION])
            connection.execute("COMMIT")
        for sql in table.indexes:
            connection.execute(sql)
    return time.perf_counter() - began


def _on_mongodb(place: Place, runs: int, progress: Progress) -> Table:
    events = place.sized(MONGO_EVENTS, QUICK_MONGO_EVENTS)
    with place.folder() as folder:
        written = write_history(folder / "bus", events)
        with mongodb_database(place.mongodb_url) as url:
            made = _made(url, folder / "bus")
        documents_made = sum(len(one.documents) for one in made.values())

        def fleetbus() -> Mapping[str, float]:
            with mongodb_database(place.mongodb_url) as url, closing(MongoDocuments(url)) as documents:
                return {"written": documents_made / _rebuilt(folder / "bus", documents).seconds}

        def bare() -> Mapping[str, float]:
            with mongodb_database(place.mongodb_url) as url:
                return {"written": documents_made / _insert(url, made)}

        title = f"Rebuild of all views on MongoDB's protocol, {written:,} events, {documents_made:,} documents"
        contestants = {"fleetbus, MongoDB's protocol": fleetbus, "bare bulk_write": bare}
        return compare(title, contestants, MONGO_UNITS, MONGO_GOALS, runs, progress)


def _rebuilt(log: Path, documents: Documents) -> ReplayReport:
    with closing(EmbeddedBus(log, PROJECTIONS)) as bus:
        return replay(bus, documents)


class Made:
    """What a rebuild left in a collection: all documents, and the options of its indexes but that of `_id`."""

    def __init__(self, collection: Collection[Raw]) -> None:
        self.documents = list(collection.find())
        self.indexes = [
            IndexModel([*index["key"].items()], **({"expireAfterSeconds": 0} if "expireAfterSeconds" in index else {}))
            for index in collection.list_indexes()
            if index["name"] != "_id_"
        ]


def _made(url: str, log: Path) -> dict[str, Made]:
    """The collections of the views that a rebuild makes."""
    with closing(MongoDocuments(url)) as documents:
        _rebuilt(log, documents)
    with MongoClient[Raw](url) as client:
        database = client.get_default_database()
        names = [name for name in database.list_collection_names() if name.startswith("live-")]
        return {name: Made(database[name]) for name in names if not name.endswith(".meta")}


def _insert(url: str, made: dict[str, Made]) -> float:
    """Writes them all by pymongo alone; the seconds that took."""
    with MongoClient[Raw](url) as client:
        # the same promise of the server as in fleetbus
        concern = WriteConcern(w="majority", j=True)
        database = client.get_default_database(write_concern=concern)
        began = time.perf_counter()
        for name, one in made.items():
            collection = database.create_collection(name)
            for at in range(0, len(one.documents), BULK):
                writes = [InsertOne(document) for document in one.documents[at : at + BULK]]
                collection.bulk_write(writes, ordered=False)
            if one.indexes:
                collection.create_indexes(one.indexes)
        return time.perf_counter() - began


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
