from hypothesis import given, settings
from hypothesis import strategies as st

from events.telemetry import Line
from nodeagent.output import LIVE_BYTES_PER_SECOND, MAX_LINE_BYTES, STDERR, STDOUT, LineSplitter, Output, OutputReader

CHUNKS = st.lists(st.binary(max_size=50), max_size=20)


@settings(deadline=None)
@given(CHUNKS)
def test_lines_do_not_depend_on_how_the_bytes_are_cut(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()
    data = b"".join(chunks)
    expected = data.removesuffix(b"\n").split(b"\n") if data else []
    assert lines == [line.removesuffix(b"\r").decode(errors="replace") for line in expected]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1), st.integers(1, 30_000))
def test_long_lines_are_cut_between_characters_and_lose_nothing(pattern: str, length: int) -> None:
    text = (pattern * (length // len(pattern) + 1))[:length]
    splitter = LineSplitter()
    pieces = splitter.feed(text.encode()) + splitter.finish()
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= MAX_LINE_BYTES for piece in pieces)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.integers(0, 300)), max_size=60), st.integers(0, 2000))
def test_every_line_is_in_the_head_in_the_tail_or_counted_as_dropped(printed: list[tuple[str, int]], kept: int) -> None:
    reader = OutputReader(kept)
    head: list[Line] = []
    for stream, length in printed:
        now_head, _ = reader.sort(reader.feed(stream, b"x" * length + b"\n"), now=0)
        head += now_head
    output = reader.kept()
    numbers = [line.n for line in (*head, *output.tail)]
    assert output.lines == len(printed) == len(numbers) + output.dropped_lines
    assert output.size == sum(length + 1 for _, length in printed)
    assert numbers == sorted(numbers)
    assert sum(len(line.text) + 1 for line in (*head, *output.tail)) + output.dropped_bytes == output.size
    if output.dropped_lines:
        assert output.tail == () or output.tail[-1].n == output.lines


def test_after_the_head_only_so_much_is_passed_on_live_in_each_second() -> None:
    reader = OutputReader(0)
    flood = reader.feed(STDOUT, b"x" * 999 + b"\n") * 200
    _, first = reader.sort(flood, now=1.0)
    _, same = reader.sort(flood, now=1.9)
    _, later = reader.sort(flood, now=2.0)
    assert 0 < len(first) * 1000 <= LIVE_BYTES_PER_SECOND
    assert same == []
    assert len(later) == len(first)


def test_secrets_are_masked_from_the_moment_they_are_known() -> None:
    reader = OutputReader()
    reader.masks = ("hunter2",)
    assert [line.text for line in reader.feed(STDOUT, b"it is hunter2, hunter2!\n")] == ["it is ***, ***!"]


def test_the_text_says_what_is_not_kept() -> None:
    one, last = Line(n=1, stream=STDOUT, text="one"), Line(n=2002, stream=STDERR, text="last")
    output = Output(lines=2002, size=9_000, head=(one,), tail=(last,), dropped_lines=2000, dropped_bytes=8_000)
    assert output.text() == "one\n[… 2,000 lines (8,000 bytes) are not kept …]\nlast\n"
