"""`fleetbus audit`: verify the archive and the log, prove an event, report who did what. Works on files and the bus."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec
from msgspec import Struct

from fleetbus.commands.options import data_option, output_options
from fleetbus.errors import FAILED, Failure, NotReached, Wrong
from fleetbus.output import Printer

if TYPE_CHECKING:
    from bus.archive.folder import Archive
    from bus.archive.keys import PublicKey
    from bus.ports import Stream
    from projections.audit.verify import Verification

public_key_option = click.option(
    "--public-key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="The archiver's public key, archive.pub.",
)
archive_option = click.option(
    "--archive",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Read this archive alone, and no log. [FLEETBUS_ARCHIVE, with the log behind it]",
)


class Sources(Struct, frozen=True):
    """What is there to be read: an archive, the log behind it, or both; and where its public key would be."""

    archive: "Archive | None"
    stream: "Stream | None"
    key_file: Path | None


@click.group("audit")
def audit() -> None:
    """Show that the log is what was said, and who did what."""


@audit.command("verify")
@click.argument("folder", metavar="[ARCHIVE]", required=False, type=click.Path(file_okay=False, path_type=Path))
@public_key_option
@click.option("--from", "start", type=click.IntRange(min=0), default=0, metavar="OFFSET", help="From this offset on.")
@click.option("--to", "end", type=click.IntRange(min=0), metavar="OFFSET", help="Up to it; that much must be there.")
@click.option("--strict", is_flag=True, help="Fail also for records that are bad or came too late.")
@data_option
@output_options
def verify(
    *,
    out: Printer,
    folder: Path | None,
    key_file: Path | None,
    start: int,
    end: int | None,
    strict: bool,
    data: str | None,
) -> None:
    """Check chain, roots, signatures, gaps, seat tokens and schemas, and name the first place that is wrong.

    ARCHIVE is a folder that may have come from elsewhere; without it, the own archive and the log behind it are
    checked. Ends with 1 when something was changed, forged or lost.
    """
    from fleetbus.progress import progress
    from projections.audit.verify import Range
    from projections.audit.verify import verify as run

    if end is not None and end <= start:
        raise Wrong(f"--to {end} is not behind --from {start}")
    with _sources(folder, data) as sources, progress("audit") as tell:
        key = _key(key_file or sources.key_file) if sources.archive is not None else None
        found = run(sources.archive, key, sources.stream, wanted=Range(start, end), tell=tell)
    out.done(_in_words(found), msgspec.to_builtins(found))
    if not found.ok or (strict and found.counts):
        raise SystemExit(FAILED)


def _in_words(found: "Verification") -> str:
    lines = [f"{finding.place}: {finding.what}".removeprefix(": ") for finding in found.findings]
    if hidden := sum(found.counts.values()) - len(lines):
        lines.append(f"and {hidden:,} more")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.counts.items())
    judged = f"{found.records:,} records up to offset {found.next_offset:,}, {found.archived:,} of them archived"
    rate = found.records / found.seconds if found.seconds > 0 else 0.0
    lines += [
        f"log {found.log}",
        f"{judged} in {found.segments:,} segments; {found.admitted:,} count, {found.duplicate:,} were said twice",
        f"found: {kinds or 'nothing'}",
        f"{'good' if found.ok else 'NOT GOOD'} ({found.seconds:.1f} s, {rate:,.0f} records a second)",
    ]
    return "\n".join(lines)


@audit.command("prove")
@click.argument("event", metavar="EVENT-ID", type=click.UUID)
@click.option(
    *("-o", "--output", "target"),
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the proof goes. [stdout]",
)
@archive_option
@data_option
def prove(*, event: object, target: Path | None, folder: Path | None, data: str | None) -> None:
    """Write a proof that the event is in the archive; `audit check-proof` takes it on any machine."""
    from bus.archive.proof import encode_proof
    from bus.archive.proof import prove as run
    from fleetbus.progress import progress

    with _sources(folder, data, log=False) as sources, progress("looking for the event") as tell:
        proof = None if sources.archive is None else run(sources.archive, str(event), tell)
    if proof is None:
        raise Failure(
            f"the event {event} is in no sealed segment",
            "an event is sealed at the latest FLEETBUS_ARCHIVE_SECONDS after it was logged, while an archiver runs",
        )
    if target is None:
        click.echo(encode_proof(proof), nl=False)
        return
    try:
        target.write_bytes(encode_proof(proof))
    except OSError as error:
        raise Wrong(f"cannot write {target}: {error.strerror}") from None
    click.echo(f"line {proof.index + 1} of {proof.seal.count} in segment {proof.seal.segment}: {target}", err=True)


@audit.command("check-proof")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@public_key_option
@output_options
def check_proof(*, out: Printer, file: Path, key_file: Path | None) -> None:
    """Check a proof, offline. Ends with 1 when it is not good."""
    from bus.archive.proof import BadProof
    from bus.archive.proof import check_proof as run

    if key_file is None:
        raise Wrong("--public-key is missing: it is archive.pub of the archiver that sealed it")
    key = _key(key_file)
    try:
        record, seal = run(file.read_bytes(), key)
    except BadProof as error:
        raise Failure(f"{file}: {error}") from None
    except OSError as error:
        raise Wrong(f"cannot read {file}: {error.strerror}") from None
    body = record.body.decode(errors="replace")
    document = {
        "ok": True,
        "log": seal.log,
        "offset": record.offset,
        "user": record.user,
        "key": record.key,
        "segment": seal.segment,
        "sealed_at": seal.sealed_at.isoformat(),
        "body": body,
    }
    words = f"good: offset {record.offset} of log {seal.log}, sealed at {seal.sealed_at.isoformat()}, said by"
    out.done(f"{words} {record.user or 'nobody known'} under {record.key}\n{body}", document)


@audit.command("report")
@click.option("--job", metavar="ID", help="About this job or batch.")
@click.option("--node", metavar="NODE", help="About this node.")
@click.option("--actor", metavar="ACTOR", help="What this actor did, or asked for: user:alice.")
@click.option("--from", "since", metavar="TIME", help="Said at or after: 2026-01-31, or 2026-01-31T12:00:00Z.")
@click.option("--to", "until", metavar="TIME", help="Said before.")
@click.option("-o", "--output", "form", type=click.Choice(["html", "json"]), default="html", show_default=True)
@archive_option
@data_option
def report(
    *,
    job: str | None,
    node: str | None,
    actor: str | None,
    since: str | None,
    until: str | None,
    form: Literal["html", "json"],
    folder: Path | None,
    data: str | None,
) -> None:
    """Print who did what, when and why, about one job, node or actor."""
    import json

    from fleetbus.progress import progress
    from projections.audit.report import Question, as_document, as_html
    from projections.audit.report import report as run

    asked = {"job": job, "node": node, "actor": actor}
    named = [(about, name) for about, name in asked.items() if name]
    if len(named) != 1:
        raise Wrong("what is it to be about? Name one of --job ID, --node NODE and --actor ACTOR")
    fields = {"about": named[0][0], "name": named[0][1], "since": _moment("from", since), "until": _moment("to", until)}
    question = msgspec.convert(fields, Question)
    with _sources(folder, data) as sources, progress("report") as tell:
        found = run(question, sources.archive, sources.stream, tell)
    if form == "html":
        click.echo(as_html(found, datetime.now(UTC)))
    else:
        click.echo(json.dumps(as_document(found), indent=2, ensure_ascii=False))


def _moment(name: str, text: str | None) -> datetime | None:
    """Without a zone it is UTC. Raises `Wrong`."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Wrong(f"--{name} is {text!r}; right would be 2026-01-31, or 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _key(path: Path | None) -> "PublicKey":
    from bus.archive.keys import BadKey, load_public

    if path is None:
        raise Wrong("--public-key is missing: it is archive.pub of the archiver that wrote the archive")
    try:
        return load_public(path)
    except BadKey as error:
        raise Wrong(str(error)) from None
    except OSError as error:
        hint = "name the archiver's archive.pub with --public-key"
        raise Wrong(f"cannot read the public key {path}: {error.strerror}", hint) from None


@contextmanager
def _sources(folder: Path | None, data: str | None, *, log: bool = True) -> Iterator[Sources]:
    """What is to be read: the named archive alone, else the own one and the log. Errors become the command line's."""
    from bus.archive.folder import Archive
    from bus.errors import BadUrl, BusError
    from bus.wiring import open_bus
    from events.actors import ARCHIVER
    from fleetbus import logs
    from fleetbus.settings import Settings, default_data, from_environment, located, masked

    logs.only_trouble("audit")
    try:
        if folder is not None:
            yield Sources(_checked(Archive(folder)), None, None)
            return
        settings = from_environment()
        at = Path(data).expanduser().absolute() if data else settings.data or default_data()
        settings = located(msgspec.structs.replace(settings, data=at))
        archive = Archive(settings.archive or at / "archive")
        key_file = at / "archive.pub"
        there = archive if archive.last() is not None else None
        if not log:
            yield Sources(there, None, key_file)
            return
        if settings.bus_url == located(Settings(data=at)).bus_url and not (at / "bus" / "bus.db").is_file():
            hint = "name the folder of a `fleetbus up` with --data, set FLEETBUS_BUS_URL, or name an archive"
            raise Wrong(f"there is no log in {at}", hint)
        with closing(open_bus(settings.bus_url, ARCHIVER, stream_url=settings.stream_url)) as bus:
            yield Sources(there, bus.stream("log"), key_file)
    except BadUrl as error:
        raise Wrong(masked(str(error))) from None
    except BusError as error:
        raise NotReached(masked(str(error))) from None


def _checked(archive: "Archive") -> "Archive":
    """An archive in which there is something."""
    if not archive.numbers():
        raise Wrong(f"there is no archive in {archive.folder}", "it has files such as 00000001.seal.json")
    return archive
