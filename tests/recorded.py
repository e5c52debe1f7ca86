"""Logs of released shapes, recorded once, which every later version must be able to replay.

    python -m tests.recorded VERSION     records today's shape in tests/data/VERSION; refuses to change what is there
    python -m tests.recorded --expect VERSION
                                         writes anew what today's views make of that log, after a view's version was
                                         raised on purpose; the log itself and its schemas never change

A folder has `log.jsonl.gz` (a record for each line: key, user and body), `expected.json` (verdicts, and each view with
its version, number of documents and digest), `schemas/` as they were, and `source.tar.xz`: what ran then, for tests
that run old and new side by side without counting on the history of the checkout.
"""

import base64
import gzip
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from bus.admission import AdmissionState, Admitted, admit
from bus.embedded import EmbeddedBus
from bus.ports import Record
from events import schema
from events.actors import ARCHIVER, PROJECTIONS
from events.archive import ArchiveSealed
from events.header import script_hash
from events.job import CancelJob, RetryJob
from events.node import InviteNode, JoinNode, NodeInvited, RemoveNode, SetRoles
from events.registry import TYPES, schema_id
from events.script import RetireScript
from handlers.decider import evolve
from handlers.fleet import Fleet
from projections.osis.sqlite_documents import SqliteDocuments
from projections.registry import versions
from projections.replay import replay
from projections.writer import WORDS
from tests.stories import Said, Story

DATA = Path(__file__).parent / "data"
ROOT = DATA.parents[1]
LOG, EXPECTED, SOURCE = "log.jsonl.gz", "expected.json", "source.tar.xz"
#: What a fleet runs on.
PACKAGES = ("bus", "events", "fleetbus", "handlers", "jumpscripts", "nodeagent", "portal", "projections")
TYPES_OF_THE_LOG = frozenset(name for name in TYPES if not name.startswith("telemetry."))


def folders() -> list[Path]:
    """Every recorded release, by name."""
    return sorted(path.parent for path in DATA.glob(f"*/{LOG}"))


def read(folder: Path) -> list[Record]:
    with gzip.open(folder / LOG, "rt") as lines:
        return [_record(offset, json.loads(line)) for offset, line in enumerate(lines)]


def _record(offset: int, line: dict[str, str]) -> Record:
    body = line["body"].encode() if "body" in line else base64.b64decode(line["base64"])
    return Record(offset, body, line["key"], line["user"])


def write(folder: Path, records: Iterable[Record]) -> None:
    # no time and no name inside: the same log is the same file
    with (folder / LOG).open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.writelines(json.dumps(_line(record)).encode() + b"\n" for record in records)


def _line(record: Record) -> dict[str, str | None]:
    line = {"key": record.key, "user": record.user}
    try:
        return {**line, "body": record.body.decode()}
    except UnicodeDecodeError:
        return {**line, "base64": base64.b64encode(record.body).decode()}


def outcome(records: list[Record], folder: Path) -> dict[str, Any]:
    """What today's code makes of a log: verdicts, the decider's state in numbers, and the views. Writes to `folder`."""
    state, verdicts, fleet = AdmissionState(), Counter[str](), Fleet()
    for record in records:
        verdict = admit(state, record)
        verdicts[WORDS[type(verdict)]] += 1
        if isinstance(verdict, Admitted):
            fleet = evolve(fleet, verdict.event, record.offset)
    return {
        "records": len(records),
        "verdicts": dict(sorted(verdicts.items())),
        "fleet": {"nodes": len(fleet.nodes), "scripts": len(fleet.scripts), "open_commands": len(fleet.open_commands)},
        "views": _views(records, folder),
    }


def _views(records: list[Record], folder: Path) -> dict[str, Any]:
    story = Story()
    story.said = [Said(record.user or "", record.key, record.body) for record in records]
    story.write(folder / "bus")
    with (
        closing(EmbeddedBus(folder / "bus", PROJECTIONS)) as bus,
        closing(SqliteDocuments(folder / "views.db")) as documents,
    ):
        views = documents.namespace(replay(bus, documents).generation)
        return {
            name: {"version": version, "documents": views.count(name), "digest": views.digest(name)}
            for name, version in versions().items()
        }


# recording


def story_of_everything() -> Story:
    """Every type of the log, several times, with duplicates, forgeries and garbage in between."""
    story = Story(name="recorded")
    for name in ("facts", "upgrade", "old"):
        story.script(name)
    for node in ("n1", "n2", "n3"):
        story.node(node, roles=("cpu", f"rack.{node}"))
    for round in range(12):
        _jobs(story, round)
        _fleet(story, round)
        _wrong(story, round)
        story.later((1, 61, 601)[round % 3])
    return story


def _jobs(story: Story, round: int) -> None:
    node = f"n{round % 3 + 1}"
    for n in range(3):
        job = story.job("facts", node=node, params={"n": n, "text": "ä\u2028\U0001f600"}, wait="busy" if n else "")
        story.started(job)
        story.finished(job, ("succeeded", "failed", "timed_out")[n], result={"n": n}, error="" if n == 0 else "no")
    lost, expired, cancelled = (story.job("upgrade", node=node, role=role) for role in ("cpu", None, None))
    story.started(lost)
    story.lost(lost)
    story.finished(lost)
    story.expired(expired)
    story.cancelled(cancelled)
    story.finished(cancelled, "cancelled", error="cancelled")
    story.command("command.job.retry", RetryJob(job=lost), subject=lost)
    story.batch("upgrade", ["n1", "n2", "n3"], size=round % 2)
    story.own_run(node, "facts", slot=f"period {round}")
    story.rejected(story.command("command.job.cancel", CancelJob(job=story.id())), "unknown_job")


def _fleet(story: Story, round: int) -> None:
    story.offline("n2")
    story.online("n2")
    story.maintenance("n3", round % 2 == 0, "disks")
    story.command("command.node.roles", SetRoles(node="n1", roles=("cpu",)), subject="n1")
    story.roles("n1", ["cpu", f"r{round}"])
    name = f"guest-{round}"
    invite = InviteNode(token_hash=script_hash(name), roles=("cpu",), valid_until=story.now)
    invited = story.command("command.node.invite", invite)
    story.decide("event.node.invited", NodeInvited(**asdict(invite)), cause=invited)
    story.command("command.node.join", JoinNode(node=name, token_hash=script_hash(name)), subject=name)
    story.joined(name, ["cpu"])
    story.node(name, roles=("cpu",))
    story.disconnected(name)
    story.command("command.node.remove", RemoveNode(node=name), subject=name)
    story.removed(name)
    story.command("command.script.retire", RetireScript(name="old"), subject="old")
    story.retired("old")
    if round % 4 == 3:
        story.seat(f"handlers-{round}")
    _sealed(story, round)


def _sealed(story: Story, round: int) -> None:
    """What the archiver says; nobody looks at the hashes here."""
    zeros = "0" * 64
    data = ArchiveSealed(
        log=story.id(),
        segment=round + 1,
        first_offset=round,
        next_offset=round + 1,
        count=1,
        head_before=zeros,
        head_after=zeros,
        root=zeros,
        file=zeros,
        sealed_at=story.now,
        key_id=zeros,
        signature="0" * 128,
    )
    story.say(story.event("event.archive.sealed", data, actor="service:archiver"), ARCHIVER)


def _wrong(story: Story, round: int) -> None:
    """What does not count, what is another service's, and what was said in an older shape."""
    story.again(story.tick())
    story.raw(b"not json")
    story.raw(b"\x00\xff" * 100, user="node.n1", key="event.job.started.node.n1")
    story.raw(story.said[1].body, key="event.job.lost", user="node.n1")
    token, story.token = story.token, story.id()
    story.lost(story.id())
    story.token = token
    # a jump in the count of an agent: the gap stays open
    story.agent("n3").seq += 1 + round
    story.say(story.event("event.billing.paid", {"amount": round}, actor="service:billing"), "service.billing")
    job, order = story.id(), asdict(story.order("facts"))
    old: dict[str, Any] = {"batch": story.id(), "order": order, "target": {"role": "cpu", "all": True}, "via": "cpu"}
    old |= {"start_by": story.now + timedelta(hours=1), "jobs": [{"job": job, "node": "n1"}]}
    story.decide("event.batch.created", old, subject=job, dataschema=schema_id("event.batch.created", 1))


def record(version: str) -> None:
    """Raises `SystemExit` when that version was recorded before."""
    folder = DATA / version
    if (folder / LOG).exists():
        raise SystemExit(f"{folder} is there already, and what was released does not change; name a new version")
    shutil.copytree(schema.FOLDER, folder / "schemas", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    write(folder, story_of_everything().records())
    keep_source(folder, "HEAD")
    expect(version)


def keep_source(folder: Path, commit: str) -> None:
    """Packs what a fleet runs on, as it is in `commit`."""
    packed = subprocess.run(["git", "archive", commit, "--", *PACKAGES], cwd=ROOT, check=True, capture_output=True)
    (folder / SOURCE).write_bytes(lzma.compress(packed.stdout, preset=9))


def source(folder: Path, target: Path) -> None:
    """Unpacks what a fleet ran on into `target`."""
    with tarfile.open(folder / SOURCE) as packed:
        packed.extractall(target, filter="data")


def expect(version: str) -> None:
    folder = DATA / version
    with tempfile.TemporaryDirectory() as scratch:
        found = outcome(read(folder), Path(scratch))
    (folder / EXPECTED).write_text(json.dumps(found, indent=2) + "\n")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["--expect", version]:
            expect(version)
        case [version] if not version.startswith("-"):
            record(version)
        case _:
            raise SystemExit(str(__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
