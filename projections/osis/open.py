"""From a URL to the adapter it names. Drivers are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from projections.osis.documents import Documents
from projections.osis.errors import BadUrl
from projections.osis.live import Live
from projections.osis.series import Measurement, Series


def open_documents(url: str) -> Documents:
    """Open `sqlite:///absolute/path` or `mongodb://[user:password@]host[:port][,…]/database[?options]`.

    Raises `BadUrl`. SQLite's file and folder are created; MongoDB is not contacted yet.
    """
    parts = _split(url)
    match parts.scheme:
        case "sqlite":
            from projections.osis.sqlite_documents import SqliteDocuments

            return SqliteDocuments(_path(parts))
        case "mongodb" | "mongodb+srv":
            from projections.osis.mongo_documents import MongoDocuments

            return MongoDocuments(url)
        case scheme:
            raise BadUrl(f"documents cannot be kept in {scheme!r}: use sqlite:///… or mongodb://…")


def open_series(url: str, measurements: Iterable[Measurement]) -> Series:
    """Open `sqlite:///absolute/path` or `influxdb://[user:password@]host[:port]/database` (`influxdbs` for TLS).

    Raises `BadUrl`. The measurements are all that may be written or read. SQLite's file may be the one
    that holds documents. InfluxDB is not contacted yet.
    """
    parts = _split(url)
    match parts.scheme:
        case "sqlite":
            from projections.osis.sqlite_series import SqliteSeries

            return SqliteSeries(_path(parts), measurements)
        case "influxdb" | "influxdbs":
            from projections.osis.influx_series import InfluxSeries

            return InfluxSeries(url, measurements)
        case scheme:
            raise BadUrl(f"series cannot be kept in {scheme!r}: use sqlite:///… or influxdb://…")


def open_live(url: str, *, prefix: str = "fleetbus") -> Live:
    """Open `memory://` or `redis://[user:password@]host[:port]/number` (`rediss` for TLS, `unix` for a socket).

    Raises `BadUrl`. In Redis all keys and channels begin with `prefix:`, and clients are named so. It is not
    contacted yet.
    """
    match _split(url).scheme:
        case "memory":
            from projections.osis.memory_live import MemoryLive

            return MemoryLive()
        case "redis" | "rediss" | "unix":
            from projections.osis.redis_live import RedisLive

            return RedisLive(url, prefix)
        case scheme:
            raise BadUrl(f"live data cannot be kept in {scheme!r}: use memory:// or redis://…")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise BadUrl("a storage URL cannot be read: its host is malformed") from None


def _path(parts: SplitResult) -> Path:
    if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
        raise BadUrl("SQLite needs an absolute path: sqlite:///var/lib/fleetbus/views.db")
    return Path(unquote(parts.path))
