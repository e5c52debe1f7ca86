"""Deciding about jumpscripts: which source a name means."""

from datetime import datetime

from msgspec.structs import replace

from events.envelope import Event
from events.header import Header, HeaderError, parse_header, script_hash
from events.script import PublishScript, RetireScript, ScriptPublished, ScriptRetired
from handlers.fleet import KEPT_VERSIONS, Fact, Fleet, Rejection, Script, Source, listing


def publish(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: PublishScript = command.data
    try:
        header = parse_header(data.source, data.name)
    except HeaderError as error:
        return Rejection(reason="bad_script", message=str(error), field=f"source: {error.field}")
    if header.name != data.name:
        return Rejection(
            reason="bad_script",
            message=f"the header says name = {header.name!r}, but it is published as {data.name!r}; make them equal",
            field="name",
        )
    published = ScriptPublished(name=data.name, hash=script_hash(data.source), source=data.source, by=command.actor)
    return _outcome(command, "event.script.published", data.name, published)


def retire(fleet: Fleet, command: Event, now: datetime) -> Fact | Rejection:
    data: RetireScript = command.data
    script = fleet.scripts.get(data.name)
    if script is None or script.retired:
        return unknown_script(fleet, data.name, "name")
    return _outcome(command, "event.script.retired", data.name, ScriptRetired(name=data.name))


def unknown_script(fleet: Fleet, name: str, field: str) -> Rejection:
    exists = fleet.known_scripts()
    return Rejection(
        reason="unknown_script",
        message=f"there is no script {name!r}; there are: {listing(exists)}",
        field=field,
        exists=tuple(exists),
    )


def _outcome(command: Event, type: str, subject: str, data: ScriptPublished | ScriptRetired) -> Fact:
    return Fact(type=type, subject=subject, data=data, cause=command.id, part="outcome", story=command.correlationid)


def on_published(fleet: Fleet, event: Event) -> Fleet:
    data: ScriptPublished = event.data
    before = fleet.scripts.get(data.name)
    versions = () if before is None else tuple(hash for hash in before.versions if hash != data.hash)
    script = Script(name=data.name, hash=data.hash, versions=(*versions, data.hash)[-KEPT_VERSIONS:])
    fleet = replace(fleet, scripts=fleet.scripts.set(data.name, script))
    header = _header(data)
    sources = fleet.sources.set(data.hash, Source(hash=data.hash, source=data.source, header=header))
    if len(versions) >= KEPT_VERSIONS and not _used(fleet, versions[0]):
        sources = sources.delete(versions[0]) if versions[0] in sources else sources
    return replace(fleet, sources=sources)


def _header(data: ScriptPublished) -> Header:
    """The header of a published source.

    Later rules may refuse what earlier ones took: the fact stands, so the script can be run, with any parameters.
    """
    try:
        return parse_header(data.source, data.name)
    except HeaderError:
        return Header(name=data.name, descr="", open_params=True, enable=False)


def _used(fleet: Fleet, hash: str) -> bool:
    return any(job.order.hash == hash for job in fleet.jobs.values()) or any(
        hash in script.versions for script in fleet.scripts.values()
    )


def on_retired(fleet: Fleet, event: Event) -> Fleet:
    data: ScriptRetired = event.data
    script = fleet.scripts.get(data.name)
    if script is None:
        return fleet
    return replace(fleet, scripts=fleet.scripts.set(data.name, replace(script, retired=True)))
