"""Segments and seals: what goes in comes out, and crashes of the writer leave whole segments only."""

import os
import re
import threading
import zlib
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from json import loads
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus.archive import writer
from bus.archive.check import check_segment
from bus.archive.folder import Archive, BadArchive
from bus.archive.keys import BadKey, PrivateKey, ensure_key, load_private, load_public
from bus.archive.line import decode_line, encode_line
from bus.archive.writer import ArchiveWriter, held
from bus.checkpoint import log_id
from bus.ports import Record
from tests.archives import NOW, key, read, write
from tests.stories import Story


def records(count: int, first: int = 0) -> list[Record]:
    return [Record(n, b'{"n":%d}' % n, "event.test.said", "portal") for n in range(first, first + count)]


any_record = st.builds(
    Record,
    st.integers(0, 2**53),
    st.binary(max_size=50) | st.text(max_size=30).map(str.encode),
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
)


@given(any_record, st.binary(min_size=32, max_size=32).map(bytes.hex))
def test_a_line_gives_its_record_back_exactly(record: Record, previous: str) -> None:
    line = encode_line(record, previous)
    found = decode_line(line)
    assert (found.record(), found.previous) == (record, previous)
    assert b"\n" not in line


def test_a_line_is_json_that_others_can_read() -> None:
    text = loads(encode_line(Record(7, b'{"a": "\xc3\xa4"}', "event.a.b", "portal"), "0" * 64))
    assert text == {
        "previous": "0" * 64,
        "offset": 7,
        "key": "event.a.b",
        "user": "portal",
        "body": '{"a": "ä"}',
    }
    raw = loads(encode_line(Record(7, b"\xff\x00", "k", None), "0" * 64))
    assert b64decode(raw.pop("base64")) == b"\xff\x00"
    assert raw.keys() == {"previous", "offset", "key"}


def test_what_was_written_is_read_again_across_segments(tmp_path: Path) -> None:
    archive = write(tmp_path, records(25), 10)
    assert read(archive) == records(25)
    assert [archive.seal(n).count for n in archive.numbers()] == [10, 10, 5]
    assert archive.end() == 25
    assert [archive.find(offset) for offset in (0, 9, 10, 24, 25)] == [1, 1, 2, 3, 0]
    assert archive.record(12) == records(25)[12]


@pytest.mark.parametrize("count", range(1, 20))
def test_the_last_of_any_number_of_segments_is_found(tmp_path: Path, count: int) -> None:
    archive = write(tmp_path, records(count), 1)
    last = Archive(tmp_path).last()
    assert last is not None
    assert last.segment == count
    assert [archive.find(offset) for offset in range(count)] == list(range(1, count + 1))


def test_the_last_is_found_by_several_threads_at_once(tmp_path: Path) -> None:
    """Another thread looks for it whenever this one has looked whether a segment is there."""

    class Crowded(Archive):
        crowd = 3

        def seal_file(self, number: int) -> Path:
            path = super().seal_file(number)
            if self.crowd and path.exists():
                self.crowd -= 1
                other = threading.Thread(target=self.last)
                other.start()
                other.join()
            return path

    write(tmp_path, records(3), 1)
    last = Crowded(tmp_path).last()
    assert last is not None
    assert last.segment == 3


def test_a_reader_sees_segments_that_come_later(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    assert (archive.end(), archive.last(), archive.numbers()) == (0, None, [])
    write(tmp_path, records(5), 2)
    assert archive.end() == 5
    write(tmp_path, records(5, first=5), 2)
    assert archive.end() == 10


def test_the_seal_of_a_time_is_the_first_that_was_not_made_before_it(tmp_path: Path) -> None:
    made = ArchiveWriter(tmp_path, key())
    for n, record in enumerate(records(5)):
        made.append(record)
        made.seal(NOW + timedelta(minutes=n))
    found = [made.archive.sealed_at(NOW + timedelta(minutes=m)) for m in (-1, 0, 0.5, 4, 4.1)]
    assert [seal and seal.segment for seal in found] == [1, 1, 2, 5, None]


def test_a_naive_reader_of_the_format_comes_to_the_same(tmp_path: Path) -> None:
    """The format as docs/reference/archive.md tells it, read with nothing of ours."""
    story = Story()
    story.script("facts")
    write(tmp_path, story.records(), 2)
    public = Ed25519PublicKey.from_public_bytes(key().public.raw)
    head, offset = "0" * 64, 0
    for path in sorted(tmp_path.glob("*.seal.json")):
        seal = loads(path.read_bytes())
        data = tmp_path / path.name.replace(".seal.json", ".jsonl.zst")
        assert sha256(data.read_bytes()).hexdigest() == seal["file"]
        frame = zstandard.ZstdDecompressor().decompress(data.read_bytes(), max_output_size=2**20)
        lines = frame.removesuffix(b"\n").split(b"\n")
        assert (seal["head_before"], seal["first_offset"], seal["count"]) == (head, offset, len(lines))
        leaves = []
        for line in lines:
            assert (loads(line)["previous"], loads(line)["offset"]) == (head, offset)
            leaves.append(sha256(b"\x00" + line).digest())
            head, offset = leaves[-1].hex(), offset + 1
        assert (seal["head_after"], seal["next_offset"]) == (head, offset)
        while len(leaves) > 1:
            pairs = [leaves[at : at + 2] for at in range(0, len(leaves), 2)]
            leaves = [sha256(b"\x01" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
        assert seal["root"] == leaves[0].hex()
        signature = bytes.fromhex(seal["signature"])
        text = re.sub(rb',"signature":"[0-9a-f]*"|\n', b"", path.read_bytes())
        public.verify(signature, b"fleetbus archive seal 1\n" + text)
        assert seal["log"] == log_id(story.records()[0])
        assert seal["key_id"] == sha256(key().public.raw).hexdigest()


def test_garbage_is_archived_like_everything_else(tmp_path: Path) -> None:
    story = Story()
    story.raw(b"\x00\xff" * 1000, user="node.n1", key="event.x\n.y")
    story.raw(b"")
    story.raw(b"[" * 100_000)
    archive = write(tmp_path, story.records(), 3)
    assert read(archive) == story.records()
    for number in archive.numbers():
        assert check_segment(str(tmp_path), number, key().public.raw).faults == []


def test_records_must_come_in_order(tmp_path: Path) -> None:
    made = ArchiveWriter(tmp_path, key())
    made.append(records(5)[3])
    with pytest.raises(ValueError, match="offset 2 comes behind 3"):
        made.append(records(5)[2])
    made.close()


# ---------------------------------------------------------------- crashes


class Crash(BaseException):
    """The process is gone: nothing of ours runs after it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Ends the process before the `step`th effect on the disk, counted over the calls that have one."""
    count = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                raise Crash
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(writer, "fsync", counted(os.fsync))
    monkeypatch.setattr("bus.archive.files.os.fsync", counted(os.fsync))
    monkeypatch.setattr("bus.archive.files.os.open", counted(os.open))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    return lambda: count


def effects_of_a_seal(tmp_path: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        made = ArchiveWriter(tmp_path / "count", key())
        for record in records(3):
            made.append(record)
        count = crash_at(patch, 0)
        made.seal(NOW)
        return count()


def test_a_crash_at_any_step_of_sealing_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    steps = effects_of_a_seal(tmp_path)
    assert steps >= 7
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        write(folder, records(4), 2)
        made = ArchiveWriter(folder, key())
        for record in records(3, first=4):
            made.append(record)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            with pytest.raises(Crash):
                made.seal(NOW)
        again = ArchiveWriter(folder, key())
        assert again.next_offset in (4, 7)
        write(folder, records(9)[again.next_offset :], 2)
        archive = Archive(folder)
        assert read(archive) == records(9), step
        assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]
        for number in archive.numbers():
            assert check_segment(str(folder), number, key().public.raw).faults == []


def test_what_lies_open_is_thrown_away_at_the_next_start(tmp_path: Path) -> None:
    made = ArchiveWriter(tmp_path, key())
    for record in records(1000):
        made.append(record)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.jsonl.zst.partial"]
    assert made._open is not None
    made._open._file.close()
    again = ArchiveWriter(tmp_path, key())
    assert (list(tmp_path.iterdir()), again.next_offset) == ([], 0)


def test_one_archiver_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(BadArchive, match="another archiver"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_an_archive_goes_on_with_its_own_key_only(tmp_path: Path) -> None:
    write(tmp_path, records(4), 2)
    with pytest.raises(BadArchive, match="another key"):
        ArchiveWriter(tmp_path, PrivateKey.generate())


def test_an_archive_with_a_hole_is_not_gone_on_with(tmp_path: Path) -> None:
    archive = write(tmp_path, records(6), 2)
    archive.seal_file(2).unlink()
    with pytest.raises(BadArchive, match="segment 2 is missing"):
        ArchiveWriter(tmp_path, key())


# ---------------------------------------------------------------- keys


def test_the_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    first = ensure_key(tmp_path / "data")
    private, public = tmp_path / "data" / "archive.key", tmp_path / "data" / "archive.pub"
    assert private.stat().st_mode & 0o777 == 0o600
    assert ensure_key(tmp_path / "data").public.id == first.public.id == load_public(public).id
    assert b"PRIVATE" not in public.read_bytes()


def test_a_lost_public_key_is_written_again(tmp_path: Path) -> None:
    first = ensure_key(tmp_path)
    (tmp_path / "archive.pub").unlink()
    ensure_key(tmp_path)
    assert load_public(tmp_path / "archive.pub").id == first.public.id


def test_keys_that_others_may_read_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    ensure_key(tmp_path)
    (tmp_path / "archive.key").chmod(0o640)
    with pytest.raises(BadKey, match="chmod 600"):
        ensure_key(tmp_path)
    for path, load in ((tmp_path / "x", load_public), (tmp_path / "x", load_private)):
        path.write_text("no key")
        path.chmod(0o600)
        with pytest.raises(BadKey, match="PEM"):
            load(path)


# ---------------------------------------------------------------- every single bit


def test_each_flipped_bit_is_found(tmp_path: Path) -> None:
    """Every bit of the compressed data, and one of each byte of the seal."""
    archive = write(tmp_path, records(3), 3)
    assert check_segment(str(tmp_path), 1, key().public.raw).faults == []
    for path, step in ((archive.data_file(1), 1), (archive.seal_file(1), 9)):
        whole = path.read_bytes()
        for bit in range(0, len(whole) * 8, step):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(changed))
            faults = check_segment(str(tmp_path), 1, key().public.raw).faults
            assert faults, (path.name, bit)
            assert faults[0].file == path.name
        path.write_bytes(whole)
    assert check_segment(str(tmp_path), 1, key().public.raw).faults == []


def rewrite(archive: Archive, number: int, change: Callable[[list[bytes]], None]) -> None:
    """The lines of a segment, changed and compressed again, under the same seal."""
    lines = list(archive.lines(number))
    change(lines)
    content = b"".join(line + b"\n" for line in lines)
    archive.data_file(number).write_bytes(zstandard.ZstdCompressor().compress(content))


def put(at: int, old: bytes, new: bytes) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        assert old in lines[at]
        lines[at] = lines[at].replace(old, new)

    return change


def swap(lines: list[bytes]) -> None:
    lines[4], lines[5] = lines[5], lines[4]


@pytest.mark.parametrize(
    ("change", "line", "offset", "what"),
    [
        pytest.param(put(4, b'\\"n\\":14', b'\\"n\\":15'), 5, 14, "was changed", id="a record changed"),
        pytest.param(put(0, b'\\"n\\":10', b'\\"n\\":99'), 1, 10, "was changed", id="the first changed"),
        pytest.param(put(9, b'\\"n\\":19', b'\\"n\\":99'), 10, 19, "was changed", id="the last changed"),
        pytest.param(put(4, b'"user":"portal"', b'"user":"handlers"'), 5, 14, "was changed", id="a user changed"),
        pytest.param(put(4, b'"previous":"', b'"previous":"0'), 5, None, "no record", id="a line broken"),
        pytest.param(lambda lines: lines.pop(4), 5, 15, "offset 14 was taken out", id="one taken out"),
        pytest.param(lambda lines: lines.pop(0), 1, 11, "offset 10 was taken out", id="the first taken out"),
        pytest.param(lambda lines: lines.pop(), 9, 18, "9 records; 10 were sealed", id="the last taken out"),
        pytest.param(swap, 5, 15, "offset 14 was taken out", id="two swapped"),
        pytest.param(lambda lines: lines.insert(4, lines[3]), 5, 13, "out of order", id="one doubled"),
        pytest.param(lambda lines: lines.clear(), 0, None, "0 records", id="all taken out"),
        pytest.param(lambda _lines: None, 10, 19, "its bytes", id="nothing but compressed otherwise"),
    ],
)
def test_the_first_line_that_suffers_is_named(
    tmp_path: Path, change: Callable[[list[bytes]], None], line: int, offset: int | None, what: str
) -> None:
    archive = write(tmp_path, records(30), 10)
    rewrite(archive, 2, change)
    (fault,) = check_segment(str(tmp_path), 2, key().public.raw).faults
    assert (fault.file, fault.line, fault.offset) == ("00000002.jsonl.zst", line, offset), fault
    assert what in fault.what


@settings(max_examples=60)
@example(at=0, place=237, flip=0)
@example(at=9, place=237, flip=0)
@given(at=st.integers(0, 9), place=st.integers(0, 400), flip=st.integers(0, 7))
def test_a_bit_flipped_within_a_record_names_that_record(
    tmp_path_factory: pytest.TempPathFactory, at: int, place: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    archive = write(folder, records(10), 10)

    def change(lines: list[bytes]) -> None:
        line = bytearray(lines[at])
        line[place % len(line)] ^= 1 << flip
        lines[at] = bytes(line)

    rewrite(archive, 1, change)
    (fault,) = check_segment(str(folder), 1, key().public.raw).faults
    assert fault.line == at + 1, fault


def test_a_truncated_file_is_named_with_the_last_line_that_can_be_read(tmp_path: Path) -> None:
    noise = [Record(n, zlib.compress(os.urandom(3000)), "k", None) for n in range(200)]
    archive = write(tmp_path, noise, 200)
    whole = archive.data_file(1).read_bytes()
    for part in (0, 10, len(whole) // 2, len(whole) - 1):
        archive.data_file(1).write_bytes(whole[:part])
        (fault,) = check_segment(str(tmp_path), 1, key().public.raw).faults
        assert fault.file == "00000001.jsonl.zst"
        if part < len(whole) - 1:
            with pytest.raises(BadArchive):
                read(archive)
