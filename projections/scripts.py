"""The views of jumpscripts: `scripts` has what each name means now, `script_versions` each source by its hash."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import asdict

from events.envelope import Event
from events.header import HeaderError, parse_header
from events.script import ScriptPublished, ScriptRetired
from projections.osis.documents import Document
from projections.projection import Projection, moment, plain

#: Versions listed with a script, the latest; `script_versions` has all.
MAX_VERSIONS = 200
#: Names listed with a version.
MAX_NAMES = 50


def script_keys(event: Event) -> Iterable[str]:
    return (event.data.name,)


def fold_script(script: Document | None, event: Event, offset: int) -> Document | None:
    match event.data:
        case ScriptPublished() as data:
            before = [] if script is None else script["versions"]
            version = {"hash": data.hash, "at": moment(event.time), "by": data.by, "offset": offset}
            return {
                "hash": data.hash,
                "retired": False,
                "retired_reason": "",
                "by": data.by,
                "published_at": moment(event.time),
                "versions": [*before, version][-MAX_VERSIONS:],
                "header": header_of(data.source, data.name),
            }
        case ScriptRetired(reason=reason) if script is not None:
            return {**script, "retired": True, "retired_reason": reason}
        case _:
            return script


def version_keys(event: Event) -> Iterable[str]:
    return (event.data.hash,)


def fold_version(version: Document | None, event: Event, offset: int) -> Document | None:
    data: ScriptPublished = event.data
    if version is None:
        return {
            "names": [data.name],
            "source": data.source,
            "header": header_of(data.source, data.name),
            "first_published_at": moment(event.time),
            "by": data.by,
        }
    if data.name in version["names"]:
        return version
    return {**version, "names": [*version["names"], data.name][-MAX_NAMES:]}


def header_of(source: str, name: str) -> dict[str, Any] | str:
    """The header as an object, or why it cannot be read: rules may have changed since it was published."""
    try:
        header = parse_header(source, name)
    except HeaderError as error:
        return str(error)
    fields: Document = plain({**asdict(header), "params": [asdict(param) for param in header.params]})
    return fields


SCRIPTS = Projection(
    name="scripts",
    version=2,
    handles=frozenset({"event.script.published", "event.script.retired"}),
    keys=script_keys,
    fold=fold_script,
)

SCRIPT_VERSIONS = Projection(
    name="script_versions",
    version=2,
    handles=frozenset({"event.script.published"}),
    keys=version_keys,
    fold=fold_version,
)
