"""One InfluxDB 1.x database: requests, what they may answer, and errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from influxdb import InfluxDBClient
from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError

from projections.osis.errors import BadUrl, StorageFailed, Unreachable
from projections.osis.influx_lines import quoted

#: Seconds one request may take.
TIMEOUT = 15
#: Tries of one request whose connection broke; all requests are idempotent.
TRIES = 2

_DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_DURATION = re.compile(r"(\d+)([hms])")
_SECONDS = {"h": 3600, "m": 60, "s": 1}


class InfluxDatabase:
    """The database that the URL names."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            self.name = parts.path.removeprefix("/")
            # A database is reached directly, whatever proxy the environment names for the web.
            session = requests.Session()
            session.trust_env = False
            self._client = InfluxDBClient(
                host=parts.hostname or "127.0.0.1",
                port=parts.port or 8086,
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                database=self.name,
                ssl=parts.scheme == "influxdbs",
                verify_ssl=True,
                timeout=TIMEOUT,
                retries=TRIES,
                session=session,
            )
        except ValueError:
            self.name = ""
        if not _DATABASE.fullmatch(self.name) or parts.query or parts.fragment:
            raise BadUrl(
                "the InfluxDB URL is not of the form influxdb://[user:password@]host[:port]/database;"
                " characters like : / @ in a password are written as %3A %2F %40"
            )

    def write(self, lines: list[str], policy: str) -> list[str]:
        """Write lines; return a sentence for each field that was refused because it changed its type."""
        with self._translated():
            try:
                self._client.write_points(lines, retention_policy=policy, protocol="line")
            except InfluxDBClientError as error:
                reason = _reason(error)
                if "field type conflict" not in reason and "points beyond retention policy" not in reason:
                    raise
                return [reason] if "field type conflict" in reason else []
        return []

    def query(self, sql: str, bound: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the series of the statement's answer."""
        method = "GET" if sql.startswith(("SELECT", "SHOW")) else "POST"
        with self._translated():
            result = self._client.query(sql, bind_params=bound, epoch="ns", method=method)
        return list(result.raw.get("series", []))

    def rows(self, sql: str, bound: dict[str, Any] | None = None) -> list[list[Any]]:
        """Return the rows of all series of the answer."""
        return [row for series in self.query(sql, bound) for row in series.get("values", [])]

    def named_rows(self, sql: str, bound: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows with their column names."""
        return [
            dict(zip(series["columns"], row, strict=True))
            for series in self.query(sql, bound)
            for row in series.get("values", [])
        ]

    def policies(self) -> dict[str, int]:
        """Return the seconds of each retention policy; makes the database if it is missing."""
        sql = f"SHOW RETENTION POLICIES ON {quoted(self.name)}"
        try:
            rows = self.named_rows(sql)
        except StorageFailed as error:
            if "database not found" not in str(error):
                raise
            self.administer(f"CREATE DATABASE {quoted(self.name)}")
            rows = self.named_rows(sql)
        return {row["name"]: _seconds(row["duration"]) for row in rows}

    def administer(self, sql: str) -> None:
        """Run a statement that only an administrator may run."""
        try:
            self.query(sql)
        except StorageFailed as error:
            raise StorageFailed(f"{error}; let an administrator of InfluxDB say: {sql}") from error

    def ping(self) -> None:
        """Return when the server answers."""
        with self._translated():
            self._client.ping()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Unreachable(f"InfluxDB database {self.name}: no answer ({type(error).__name__})") from error
        except InfluxDBServerError as error:
            raise Unreachable(f"InfluxDB database {self.name}: {error!s:.300}") from error
        except InfluxDBClientError as error:
            raise StorageFailed(f"InfluxDB database {self.name}: {_reason(error)}") from error
        except requests.RequestException as error:
            raise StorageFailed(f"InfluxDB database {self.name}: {type(error).__name__}") from error


def _reason(error: InfluxDBClientError) -> str:
    try:
        return str(json.loads(error.content)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return str(error.content)[:300]


def _seconds(duration: str) -> int:
    """Return the seconds of a duration such as 168h0m0s."""
    return sum(int(count) * _SECONDS[unit] for count, unit in _DURATION.findall(duration))
