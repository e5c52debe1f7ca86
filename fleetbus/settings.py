"""Settings, from variables of the environment and nowhere else. The table at the end is all of them."""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from fleetbus.errors import Wrong

PREFIX = "FLEETBUS_"
#: What keeps things for a time that can be set (`projections.retention.KEPT`).
RETAINED = ("jobs", "batches", "commands", "events", "series", "blobs")
#: Variables that are no settings: what jobs see, what a process is started with, and what tests are.
FOREIGN = (
    "FLEETBUS_JOB_ID",
    "FLEETBUS_NODE_ID",
    "FLEETBUS_ACTOR",
    "FLEETBUS_AGENT_SOCKET",
    "FLEETBUS_JOIN_TOKEN",
    "FLEETBUS_PARENT",
    "FLEETBUS_TRACEBACK",
    "FLEETBUS_TEST_",
)


class Settings(Struct, frozen=True, kw_only=True):
    """What the environment says; "" and () where it says nothing. `VARIABLES` describes each."""

    bus_url: str = ""
    stream_url: str = ""
    documents_url: str = ""
    series_url: str = ""
    live_url: str = "memory://"
    statsd_url: str = ""
    data: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str = ""
    agents_bus_url: str = ""
    management_url: str = ""
    #: "" leaves what the broker has: `stream` unless it was told otherwise.
    durability: Literal["", "stream", "fsync"] = ""
    users: Mapping[str, str] = MappingProxyType({})
    archive: Path | None = None
    archive_records: int = 50_000
    archive_seconds: float = 600.0
    #: Seconds, None is for ever; by the names of `RETAINED`.
    retention: Mapping[str, float | None] = MappingProxyType({})
    node: str = ""
    roles: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    log: str = "auto"
    url: str = ""
    token: str = ""


class BadValue(ValueError):
    """A value that does not fit; the text says what would be right, and never holds the value of a secret."""


class Variable(Struct, frozen=True):
    """One variable: the field of `Settings` it sets, what it is for, and how it is read."""

    name: str
    field: str
    descr: str
    read: Callable[[str], Any]


def url(*schemes: str) -> Callable[[str], str]:
    """Reads a URL with one of these schemes."""

    def read(text: str) -> str:
        scheme, found, _ = text.partition("://")
        if not found or scheme not in schemes:
            shown = f"{scheme}://…" if found else "no URL"
            raise BadValue(f"is {shown}; right would be {' or '.join(f'{one}://…' for one in schemes)}")
        return text

    return read


def stream(text: str) -> str:
    """Reads the address of the stream protocol: a host and a port, and nothing else."""
    found = re.fullmatch(r"rabbitmq-stream(\+tls)?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?/?", text)
    if found is None:
        raise BadValue(
            "is something else; right would be rabbitmq-stream://HOST:PORT or rabbitmq-stream+tls://HOST:PORT, without "
            "user, password and virtual host, which are those of FLEETBUS_BUS_URL"
        )
    return text


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", text) if word)


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise BadValue(f"is {text!r}; right would be a number from 1 to 65535")
    return int(text)


def at_least(lowest: int) -> Callable[[str], int]:
    """Reads a whole number."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise BadValue(f"is {text!r}; right would be a whole number from {lowest} on")
        return int(text)

    return read


def one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise BadValue(f"is {text!r}; right would be {' or '.join(choices)}")
        return text

    return read


def retention(text: str) -> Mapping[str, float | None]:
    """Reads NAME:TIME pairs; a time is `90d`, `12h` or `ever` (None)."""
    found: dict[str, float | None] = {}
    for entry in text.split():
        name, _, time = entry.partition(":")
        number = re.fullmatch(r"(\d{1,6})([dh])", time)
        if name not in RETAINED or name in found or not (time == "ever" or (number and int(number[1]))):
            raise BadValue(
                f"has {entry!r}; right would be NAME:TIME NAME:TIME …, a name being one of {', '.join(RETAINED)}, "
                "a time such as 90d, 12h or ever"
            )
        found[name] = None if number is None else int(number[1]) * {"d": 86_400.0, "h": 3_600.0}[number[2]]
    if found.get("series", 0.0) is None:
        raise BadValue("has series:ever; series always end, right would be a long time such as series:3650d")
    return MappingProxyType(found)


def users(text: str) -> Mapping[str, str]:
    """Reads NAME:PASSWORD pairs. What is wrong is told by its place, as it may be a password."""
    found = {}
    for place, entry in enumerate(text.split(), 1):
        name, _, password = entry.partition(":")
        if not name or not password or name in found:
            raise BadValue(f"has something else in place {place}; right would be NAME:PASSWORD NAME:PASSWORD …")
        found[name] = password
    return MappingProxyType(found)


def folder(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise BadValue(f"is {text!r}, which is a file; right would be a folder")
    return path.absolute()


VARIABLES = (
    Variable(
        "FLEETBUS_BUS_URL",
        "bus_url",
        "the bus: amqp://USER:PASSWORD@HOST:PORT/VHOST, or sqlite:///FOLDER",
        url("amqp", "amqps", "sqlite"),
    ),
    Variable(
        "FLEETBUS_STREAM_URL",
        "stream_url",
        "where RabbitMQ speaks its stream protocol, to read faster: rabbitmq-stream://HOST:PORT, no user or password",
        stream,
    ),
    Variable(
        "FLEETBUS_DOCUMENTS_URL",
        "documents_url",
        "the views: mongodb://HOST/DATABASE, or sqlite:///FILE",
        url("mongodb", "mongodb+srv", "sqlite"),
    ),
    Variable(
        "FLEETBUS_SERIES_URL",
        "series_url",
        "measurements: influxdb://HOST:PORT/DATABASE, or sqlite:///FILE",
        url("influxdb", "influxdbs", "sqlite"),
    ),
    Variable(
        "FLEETBUS_LIVE_URL",
        "live_url",
        "what passes between portals: redis://HOST:PORT/NUMBER, or memory://",
        url("redis", "rediss", "unix", "memory"),
    ),
    Variable(
        "FLEETBUS_STATSD_URL", "statsd_url", "where services send their own metrics: statsd://HOST:PORT", url("statsd")
    ),
    Variable("FLEETBUS_DATA", "data", "the folder of this process, and of storage for which no URL is set", folder),
    Variable("FLEETBUS_HOST", "host", "where the portal listens: an address of this machine", str),
    Variable("FLEETBUS_PORT", "port", "where the portal listens: a port", port),
    Variable(
        "FLEETBUS_PUBLIC_URL",
        "public_url",
        "how others reach the portal, when it is behind a proxy",
        url("http", "https"),
    ),
    Variable(
        "FLEETBUS_AGENTS_BUS_URL",
        "agents_bus_url",
        "how agents reach the bus, when it is not as the portal does: amqp://HOST:PORT/VHOST",
        url("amqp", "amqps"),
    ),
    Variable(
        "FLEETBUS_MANAGEMENT_URL",
        "management_url",
        "RabbitMQ's management API, by which nodes get users: http://USER:PASSWORD@HOST:PORT",
        url("http", "https"),
    ),
    Variable(
        "FLEETBUS_DURABILITY",
        "durability",
        "what a confirm means from now on: stream, or fsync (also on the disk of a quorum queue); unset: as it is",
        one_of("stream", "fsync"),
    ),
    Variable(
        "FLEETBUS_USERS",
        "users",
        "broker users and the passwords that `setup` gives them: NAME:PASSWORD, with spaces between",
        users,
    ),
    Variable("FLEETBUS_ARCHIVE", "archive", "the folder of the archive, from which readers have the old log", folder),
    Variable("FLEETBUS_ARCHIVE_RECORDS", "archive_records", "records after which a segment is sealed", at_least(1)),
    Variable("FLEETBUS_ARCHIVE_SECONDS", "archive_seconds", "seconds after which a segment is sealed", at_least(1)),
    Variable(
        "FLEETBUS_RETENTION",
        "retention",
        "how long views keep what is over: NAME:TIME, with spaces between, such as jobs:90d events:ever",
        retention,
    ),
    Variable("FLEETBUS_NODE", "node", "the id of the node that the agent speaks for", str),
    Variable("FLEETBUS_ROLES", "roles", "roles that the node has when it is first seen, with commas between", words),
    Variable("FLEETBUS_ALLOW", "allow", "what the agent's owner allows, with commas between: shell", words),
    Variable(
        "FLEETBUS_LOG",
        "log",
        "the form of logs: console, json, or auto (console on a terminal)",
        one_of("auto", "console", "json"),
    ),
    Variable("FLEETBUS_URL", "url", "for the commands: the portal's address", url("http", "https")),
    Variable("FLEETBUS_TOKEN", "token", "for the commands: who you are", str),
)

BY_NAME: Mapping[str, Variable] = MappingProxyType({variable.name: variable for variable in VARIABLES})


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises `Wrong`, which names the variable and says what would be right."""
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if text:
            try:
                values[variable.field] = variable.read(text)
            except BadValue as error:
                raise Wrong(f"{variable.name} {error}", f"it is for {variable.descr}") from None
    return Settings(**values)


def likely_typos(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that look like ours but are not -> what could have been meant."""
    found = {}
    for name in environ:
        if name.startswith(PREFIX) and name not in BY_NAME and not name.startswith(FOREIGN):
            close = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.8)
            if close:
                found[name] = close[0]
    return found


def missing(name: str) -> Wrong:
    """For a service that cannot run without this variable."""
    return Wrong(
        f"{name} is not set: {BY_NAME[name].descr}",
        "or give --data FOLDER to keep everything in one folder of this machine; `fleetbus up` does all of it",
    )


_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s@/]+@")


def masked(text: str) -> str:
    """The text without the passwords of the URLs in it."""
    return _PASSWORD.sub(r"\g<head>:***@", text)


def embedded(data: Path) -> dict[str, str]:
    """The variables by which services keep everything in this folder."""
    at = quote(str(data))
    return {
        "FLEETBUS_BUS_URL": f"sqlite://{at}/bus",
        "FLEETBUS_DOCUMENTS_URL": f"sqlite://{at}/views.db",
        "FLEETBUS_SERIES_URL": f"sqlite://{at}/series.db",
        "FLEETBUS_LIVE_URL": "memory://",
    }


def default_data() -> Path:
    """Where `fleetbus up` keeps everything unless it is told otherwise."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "fleetbus"


def located(settings: Settings) -> Settings:
    """The settings, with storage in their folder where no URL is set. Without a folder they stay as they are."""
    if settings.data is None:
        return settings
    fields: dict[str, Any] = {BY_NAME[name].field: value for name, value in embedded(settings.data).items()}
    fields["archive"] = settings.data / "archive"
    return replace(settings, **{field: value for field, value in fields.items() if not getattr(settings, field)})
