"""The audit: what was tampered with is named, and what is clean passes, with the log and without."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from click.testing import Result

from bus.archive.archiver import sealed_fact
from bus.archive.folder import Archive
from bus.archive.keys import PrivateKey, pem
from bus.archive.line import encode_line, line_hash
from bus.archive.merkle import Tree
from bus.archive.proof import BadProof, check_proof, encode_proof, prove
from bus.archive.seal import encode_seal, sign
from bus.checkpoint import log_id
from bus.embedded import EmbeddedBus
from bus.ports import Record, Stream
from events.actors import ARCHIVER, HANDLERS
from events.codec import encode
from projections.audit import verify as module
from projections.audit.report import Question, as_html, report
from projections.audit.verify import Finding, Range, verify
from tests.archives import NOW, key, write
from tests.cli import invoke
from tests.projecting import busy_story
from tests.stories import Story


def clean_story(jobs: int = 8) -> Story:
    story = Story()
    story.script("facts")
    story.node("n1", roles=("cpu",))
    for _ in range(jobs):
        job = story.job("facts", node="n1")
        story.started(job)
        story.finished(job)
    return story


def archived_story(folder: Path, per_segment: int = 10) -> Story:
    """A story in which seals are said in the log, as the archiver does, and which is archived up to the last seal."""
    story, done = clean_story(), 0
    while len(story.said) - done >= per_segment:
        archive = write(folder, story.records()[done : done + per_segment], per_segment)
        done += per_segment
        seal = archive.last()
        assert seal is not None
        story.say(sealed_fact(seal), ARCHIVER)
    return story


@contextmanager
def logged(story: Story, folder: Path) -> Iterator[Stream]:
    story.write(folder)
    with closing(EmbeddedBus(folder, ARCHIVER)) as bus:
        yield bus.stream("log")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def story(folder: Path) -> Story:
    return archived_story(folder)


def first(folder: Path, stream: Stream | None = None, signer: PrivateKey | None = None) -> Finding:
    """The first thing that is wrong, which the audit fails for."""
    found = verify(Archive(folder), (signer or key()).public, stream)
    assert not found.ok, found
    return found.findings[0]


def lines_of(archive: Archive, number: int) -> list[bytes]:
    return list(archive.lines(number))


def forge(folder: Path, number: int, change: Callable[[list[Record]], list[Record]], signer: PrivateKey) -> None:
    """Changes a segment and makes everything behind it fit again: lines, roots, seals; signed with this key."""
    archive = Archive(folder)
    records = change([record for n in archive.numbers() if n >= number for record in archive.records(n)])
    counts = [archive.seal(n).count for n in archive.numbers() if n >= number]
    seals = [archive.seal(n) for n in archive.numbers() if n >= number]
    head = seals[0].head_before
    for seal, count in zip(seals, counts, strict=True):
        part, records = records[:count], records[count:]
        before, leaves = head, []
        content = b""
        for record in part:
            line = encode_line(record, head)
            head = line_hash(line).hex()
            leaves.append(bytes.fromhex(head))
            content += line + b"\n"
        archive.data_file(seal.segment).write_bytes(zstandard.ZstdCompressor().compress(content))
        made = msgspec.structs.replace(
            seal,
            first_offset=part[0].offset,
            next_offset=part[-1].next_offset,
            count=len(part),
            head_before=before,
            head_after=head,
            root=root(leaves).hex(),
            file=archive.digest(seal.segment),
        )
        archive.seal_file(seal.segment).write_bytes(encode_seal(sign(made, signer)))


def root(leaves: list[bytes]) -> bytes:

    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


# ---------------------------------------------------------------- what is clean


def test_a_clean_archive_passes_with_nothing_but_folder_and_key(folder: Path, story: Story) -> None:
    found = verify(Archive(folder), key().public)
    assert (found.ok, found.findings, found.counts) == (True, [], {})
    assert found.records == found.archived == found.next_offset == found.segments * 10 == found.admitted
    assert found.log == log_id(story.records()[0])


def test_archive_and_log_are_judged_as_one(folder: Path, story: Story, tmp_path: Path) -> None:
    with logged(story, tmp_path / "bus") as stream:
        found = verify(Archive(folder), key().public, stream)
        assert (found.ok, found.findings) == (True, [])
        assert found.records == len(story.said) > found.archived
        alone = verify(None, None, stream)
    assert (alone.ok, alone.records, alone.admitted) == (True, found.records, found.admitted)


def test_several_processes_come_to_the_same(folder: Path, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_PROCESSES", 0)
    assert verify(Archive(folder), key().public).ok
    swap_lines(folder)
    assert first(folder).file == "00000002.jsonl.zst"


def test_progress_is_told_to_the_end(folder: Path, story: Story, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with logged(story, tmp_path / "bus") as stream:
        verify(Archive(folder), key().public, stream, tell=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(story.said), len(story.said))


def test_what_does_not_count_is_told_and_is_no_failure(tmp_path: Path) -> None:
    story = clean_story()
    story.raw(b"not json")
    old, _ = story.token, story.seat("handlers-2")
    new, story.token = story.token, old
    story.tick()
    story.token = new
    write(tmp_path, story.records(), 10)
    found = verify(Archive(tmp_path), key().public)
    assert (found.ok, found.counts) == (True, {"bad": 1, "late": 1})
    assert [finding.kind for finding in found.findings] == ["bad", "late"]
    assert found.findings[0].offset == len(story.said) - 3


# ---------------------------------------------------------------- what was tampered with


def swap_lines(folder: Path) -> None:
    archive = Archive(folder)
    lines = lines_of(archive, 2)
    lines[3], lines[4] = lines[4], lines[3]
    archive.data_file(2).write_bytes(zstandard.ZstdCompressor().compress(b"".join(line + b"\n" for line in lines)))


def flip_a_bit(folder: Path) -> None:
    path = Archive(folder).data_file(2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def take_out(folder: Path) -> None:
    archive = Archive(folder)
    lines = lines_of(archive, 2)
    del lines[3]
    archive.data_file(2).write_bytes(zstandard.ZstdCompressor().compress(b"".join(line + b"\n" for line in lines)))


def truncate(folder: Path) -> None:
    archive = Archive(folder)
    path = archive.data_file(archive.numbers()[-1])
    path.write_bytes(path.read_bytes()[:-40])


def drop_in_the_middle(folder: Path) -> None:
    archive = Archive(folder)
    archive.seal_file(2).unlink()
    archive.data_file(2).unlink()


def drop_the_data(folder: Path) -> None:
    Archive(folder).data_file(2).unlink()


def change_a_seal(folder: Path) -> None:
    path = Archive(folder).seal_file(2)
    path.write_bytes(path.read_bytes().replace(b'"count":10', b'"count":11'))


def exchange_segments(folder: Path) -> None:
    archive = Archive(folder)
    for file in (archive.data_file, archive.seal_file):
        one, other = file(1).read_bytes(), file(2).read_bytes()
        file(1).write_bytes(other)
        file(2).write_bytes(one)


@pytest.mark.parametrize(
    ("tamper", "file", "line", "offset", "what"),
    [
        pytest.param(flip_a_bit, "00000002.jsonl.zst", ..., ..., "", id="a bit flipped"),
        pytest.param(take_out, "00000002.jsonl.zst", 4, 14, "offset 13 was taken out", id="a record taken out"),
        pytest.param(swap_lines, "00000002.jsonl.zst", 4, 14, "offset 13 was taken out", id="two swapped"),
        pytest.param(truncate, "{last}.jsonl.zst", ..., ..., "", id="the last one truncated"),
        pytest.param(drop_in_the_middle, "00000002.seal.json", None, None, "missing", id="a segment dropped"),
        pytest.param(drop_the_data, "00000002.jsonl.zst", ..., ..., "cannot be read", id="data dropped"),
        pytest.param(change_a_seal, "00000002.seal.json", None, None, "signature", id="a seal changed"),
        pytest.param(exchange_segments, "00000001.seal.json", None, None, "segment 2", id="segments exchanged"),
    ],
)
def test_tampering_is_named_with_its_place(
    folder: Path,
    story: Story,
    tmp_path: Path,
    tamper: Callable[[Path], None],
    file: str,
    line: Any,
    offset: Any,
    what: str,
) -> None:
    last = f"{Archive(folder).numbers()[-1]:08}"
    tamper(folder)
    found = first(folder)
    assert found.file == file.format(last=last)
    assert line in (..., found.line), found
    assert offset in (..., found.offset), found
    assert what in found.what
    with logged(story, tmp_path / "bus") as stream:
        assert not verify(Archive(folder), key().public, stream).ok


def test_what_was_signed_again_with_another_key_is_named(folder: Path, story: Story) -> None:
    other = PrivateKey.generate()
    forge(folder, 2, lambda records: records, other)
    found = first(folder)
    assert (found.file, found.kind) == ("00000002.seal.json", "broken")
    assert "another key" in found.what


def test_who_has_the_key_and_rewrites_history_is_betrayed_by_the_log(
    folder: Path, story: Story, tmp_path: Path
) -> None:
    """A record is replaced and everything behind it made to fit, with the right key: the facts of the seals differ."""

    def change(records: list[Record]) -> list[Record]:
        tick = story.event("event.seat.tick", {}, actor="system:fleet", seattoken=story.token)
        return [Record(records[0].offset, encode(tick), "event.seat.tick", HANDLERS), *records[1:]]

    forge(folder, 2, change, key())
    found = first(folder)
    assert found.kind == "forged"
    assert found.offset is not None
    assert "segment 2" in found.what
    with logged(story, tmp_path / "bus") as stream:
        assert not verify(Archive(folder), key().public, stream).ok


def test_a_forged_fact_of_the_seat_is_named(tmp_path: Path) -> None:
    story = clean_story()
    token, story.token = story.token, story.id()
    story.tick()
    story.token = token
    story.job("facts", node="n1")
    write(tmp_path, story.records(), 10)
    found = first(tmp_path)
    assert (found.kind, found.offset) == ("forged", len(story.said) - 3)
    assert "event.seat.tick" in found.what
    assert "is not the holder's" in found.what


def test_a_fact_of_the_seat_that_another_user_said_is_named(tmp_path: Path) -> None:
    story = clean_story()
    tick = story.event("event.seat.tick", msgspec.json.decode(b"{}"), actor="service:x", seattoken=story.token)
    story.say(tick, "service.x")
    write(tmp_path, story.records(), 10)
    found = first(tmp_path)
    assert (found.kind, found.offset) == ("forged", len(story.said) - 1)


def test_dropped_last_segments_are_noticed_by_the_log_and_by_how_far_it_should_reach(
    folder: Path, story: Story, tmp_path: Path
) -> None:
    archive = Archive(folder)
    last = archive.numbers()[-1]
    end = archive.end()
    archive.seal_file(last).unlink()
    archive.data_file(last).unlink()
    # the archive alone cannot know
    assert verify(Archive(folder), key().public).ok
    found = verify(Archive(folder), key().public, wanted=Range(0, end))
    assert [one.kind for one in found.findings] == ["missing"]
    assert f"should reach {end}" in found.findings[0].what
    with logged(story, tmp_path / "bus") as stream:
        found = verify(Archive(folder), key().public, stream)
    assert found.findings[0].file == f"{last:08}.seal.json"
    assert "the log says that it was sealed" in found.findings[0].what


def test_a_log_that_is_not_the_archived_one_is_named(folder: Path, story: Story, tmp_path: Path) -> None:
    other = Story(name="another")
    for _ in range(60):
        other.tick()
    with logged(other, tmp_path / "bus") as stream:
        found = first(folder, stream)
    assert "not the one that is archived" in found.what


def test_what_was_taken_out_of_the_log_before_it_was_archived_is_a_gap(tmp_path: Path) -> None:
    records = clean_story().records()
    write(tmp_path, [record for record in records if record.offset != 13], 10)
    found = first(tmp_path)
    assert (found.kind, found.offset) == ("missing", 14)


def test_what_an_agent_said_and_never_came_is_named(tmp_path: Path) -> None:
    story = clean_story()
    story.agent("n1").seq += 2
    story.started(story.job("facts", node="n1"))
    with logged(story, tmp_path / "bus") as stream:
        found = verify(None, None, stream)
    assert (found.ok, found.counts) == (False, {"lost": 1})
    assert "node.n1" in found.findings[0].what


def test_a_busy_log_with_garbage_is_judged_as_admission_does(tmp_path: Path) -> None:
    story = busy_story()
    with logged(story, tmp_path / "bus") as stream:
        found = verify(None, None, stream)
    assert {"bad", "forged", "lost"} <= found.counts.keys()
    assert found.admitted + found.duplicate + sum(found.counts[kind] for kind in ("bad", "forged")) == len(story.said)


def test_only_the_range_is_judged_but_with_all_that_came_before(folder: Path, story: Story) -> None:
    swap_lines(folder)
    archive = Archive(folder)
    assert verify(archive, key().public, wanted=Range(0, 10)).ok
    assert verify(archive, key().public, wanted=Range(20, 30)).counts.keys() <= {"missing"}
    assert not verify(archive, key().public, wanted=Range(15, 16)).ok


# ---------------------------------------------------------------- proofs


def test_every_event_can_be_proved_and_nothing_else(folder: Path, story: Story) -> None:
    archive = Archive(folder)
    for offset, said in enumerate(story.said[: archive.end()]):
        if said.event is not None:
            proof = prove(archive, said.event.id)
            assert proof is not None
            record, seal = check_proof(encode_proof(proof), key().public)
            assert record == story.records()[offset]
            assert seal == archive.seal(archive.find(offset))
    assert prove(archive, story.id()) is None


def test_a_proof_that_was_touched_is_not_good(folder: Path, story: Story) -> None:
    archive = Archive(folder)
    event = story.said[archive.end() - 5].event
    assert event is not None
    proof = prove(archive, event.id)
    assert proof is not None
    replace = msgspec.structs.replace
    wrong = [
        replace(proof, index=proof.index + 1),
        replace(proof, index=99),
        replace(proof, line=proof.line.replace("event.", "evend.", 1)),
        replace(proof, line=proof.line + " "),
        replace(proof, path=proof.path[:-1]),
        replace(proof, path=("0" * 64, *proof.path[1:])),
        replace(proof, seal=replace(proof.seal, root="0" * 64)),
        replace(proof, seal=archive.seal(1)),
    ]
    for one in wrong:
        with pytest.raises(BadProof):
            check_proof(encode_proof(one), key().public)
    for content in (b"", b"{}", b"\xff", encode_proof(proof)[:-20]):
        with pytest.raises(BadProof):
            check_proof(content, key().public)
    with pytest.raises(BadProof, match="another key"):
        check_proof(encode_proof(proof), PrivateKey.generate().public)


def test_a_proof_from_a_large_segment_stays_small(tmp_path: Path) -> None:
    story = clean_story(400)
    archive = write(tmp_path, story.records(), 100_000)
    event = story.said[700].event
    assert event is not None
    proof = prove(archive, event.id)
    assert proof is not None
    assert len(proof.path) <= 11
    assert len(encode_proof(proof)) < 4_000


# ---------------------------------------------------------------- reports


def test_a_report_on_a_job_tells_its_story_with_who_asked_for_it(tmp_path: Path) -> None:
    story = clean_story(2)
    job = story.job("facts", node="n1")
    story.started(job)
    story.raw(b'{"about": "%s"}' % job.encode(), user="service.x")
    story.finished(job)
    archive = write(tmp_path, story.records()[:-1], 5)
    found = report(Question(about="job", name=job), archive, None)
    assert [line.what for line in found.lines] == [
        *("command.job.submit", "event.job.queued", "event.job.started", "event.billing.paid")
    ]
    assert [line.who for line in found.lines] == ["user:alice", "system:fleet", "node:n1", ""]
    assert found.lines[1].why == found.lines[0].id
    assert found.lines[3].counts.startswith("bad: ")
    with logged(story, tmp_path / "bus") as stream:
        found = report(Question(about="job", name=job), archive, stream)
    assert found.lines[-1].what == "event.job.finished"
    assert found.lines[-1].segment is None or found.lines[-1].segment > 0
    assert found.lines[0].segment == archive.find(found.lines[0].offset)


def test_a_report_on_a_job_of_a_batch_brings_the_command_that_made_it(tmp_path: Path) -> None:
    story = clean_story(1)
    story.node("n2", roles=("cpu",))
    _, jobs = story.batch("facts", ["n1", "n2"])
    story.started(jobs[1])
    story.finished(jobs[1])
    found = report(Question(about="job", name=jobs[1]), write(tmp_path, story.records(), 10), None)
    assert [(line.what, line.cause) for line in found.lines] == [
        ("command.job.submit", True),
        ("event.batch.created", False),
        ("event.job.started", False),
        ("event.job.finished", False),
    ]


def test_reports_on_nodes_and_actors_within_a_time(tmp_path: Path) -> None:
    story = clean_story(3)
    story.node("n10")
    middle = story.now + timedelta(milliseconds=5)
    job = story.job("facts", node="n1")
    archive = write(tmp_path, story.records(), 10)
    node = report(Question(about="node", name="n1"), archive, None)
    assert {line.what for line in node.lines} >= {"event.node.connected", "event.job.queued", "event.job.finished"}
    assert not [line for line in node.lines if line.about == "n10"]
    alice = report(Question(about="actor", name="user:alice", since=middle), archive, None)
    assert (alice.lines[0].what, alice.lines[0].id) == ("command.job.submit", job)
    before = report(Question(about="actor", name="user:alice", until=middle), archive, None)
    assert job not in {line.id for line in before.lines}
    assert report(Question(about="actor", name="user:nobody"), archive, None).lines == []


def test_the_page_stands_alone_and_shows_text_as_text(tmp_path: Path) -> None:
    story = clean_story(1)
    job = story.job("facts", node="n1", params={"x": "<script>alert(1)</script>"})
    story.started(job)
    found = report(Question(about="job", name=job), write(tmp_path, story.records(), 10), None)
    page = as_html(found, NOW)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "user:alice" in page
    assert f"offset {found.lines[0].offset}" in page


# ---------------------------------------------------------------- the command line


def run(*args: str) -> Result:
    return invoke("audit", *args)


@pytest.fixture
def elsewhere(folder: Path, story: Story, tmp_path: Path) -> tuple[Path, Path, Story]:
    """A copy of the archive, and the public key: what an auditor gets."""
    copied = tmp_path / "auditor" / "archive"
    shutil.copytree(folder, copied)
    public = tmp_path / "auditor" / "archive.pub"
    public.write_bytes(pem(key().public))
    shutil.rmtree(folder)
    return copied, public, story


def test_verify_on_another_machine(elsewhere: tuple[Path, Path, Story]) -> None:
    copied, public, _ = elsewhere
    good = run("verify", str(copied), "--public-key", str(public), "--json")
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["ok"] is True
    swap_lines(copied)
    bad = run("verify", str(copied), "--public-key", str(public))
    assert bad.exit_code == 1
    assert "00000002.jsonl.zst, line 4, offset 14: offset 13 was taken out" in bad.stdout.splitlines()[0]


def test_prove_and_check_proof_on_another_machine(elsewhere: tuple[Path, Path, Story], tmp_path: Path) -> None:
    copied, public, story = elsewhere
    event, file = story.said[12].event, tmp_path / "proof.json"
    assert event is not None
    assert run("prove", event.id, "-o", str(file), "--archive", str(copied)).exit_code == 0
    good = run("check-proof", str(file), "--public-key", str(public), "--json")
    assert (good.exit_code, json.loads(good.stdout)["offset"]) == (0, 12)
    file.write_bytes(file.read_bytes().replace(b'"index": ', b'"index": 1'))
    bad = run("check-proof", str(file), "--public-key", str(public))
    assert bad.exit_code == 1
    assert "error: " in bad.stderr
    assert run("prove", story.id(), "--archive", str(copied)).exit_code == 1


def test_verify_and_report_in_a_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    story = archived_story(data / "archive")
    story.write(data / "bus")
    (data / "archive.pub").write_bytes(pem(key().public))
    good = run("verify", "--data", str(data), "--json")
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["records"] == len(story.said)
    job = next(said.event.id for said in story.said if said.event and said.event.type == "command.job.submit")
    page = run("report", "--job", job, "--data", str(data))
    assert page.exit_code == 0
    assert page.stdout.startswith("<!doctype html>")
    document = json.loads(run("report", "--job", job, "--data", str(data), "-o", "json").stdout)
    assert document["lines"][0]["who"] == "user:alice"
    with closing(sqlite3.connect(data / "bus" / "bus.db")) as db, db:
        db.execute("UPDATE log SET body = 'x' WHERE offset = ?", (Archive(data / "archive").end() - 1,))
    assert run("verify", "--data", str(data)).exit_code == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["verify", "{tmp}/nothing"], ["cannot read the archive", "nothing"]),
        (["verify", "{tmp}"], ["there is no archive in", "00000001.seal.json"]),
        (["verify", "{archive}"], ["--public-key", "archive.pub"]),
        (["verify", "{archive}", "--public-key", "{tmp}/none"], ["cannot read the public key"]),
        (["verify", "{archive}", "--from", "10", "--to", "5"], ["--to 5", "--from 10"]),
        (["verify", "--data", "{tmp}"], ["there is no log in", "--data"]),
        (["report"], ["--job ID", "--node NODE", "--actor ACTOR"]),
        (["report", "--job", "x", "--node", "y"], ["one of"]),
        (["report", "--job", "x", "--from", "yesterday"], ["--from is 'yesterday'"]),
        (["prove", "no-id"], ["EVENT-ID"]),
    ],
)
def test_what_cannot_be_is_said_with_what_would_be_right(
    folder: Path, story: Story, tmp_path: Path, args: list[str], words: list[str]
) -> None:
    done = run(*(arg.format(tmp=tmp_path, archive=folder) for arg in args))
    assert done.exit_code in (2, 3), done.output
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.stderr, done.stderr
