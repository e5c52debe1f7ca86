"""Lines of output on their way: in order, none lost, none twice, in messages of a sensible size."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from events.telemetry import Line
from nodeagent.livelines import MAX_CHARACTERS, MAX_LINES, LiveLines, packs
from tests.waiting import wait_until


def lines(*texts: str) -> list[Line]:
    return [Line(n=n, stream="o", text=text) for n, text in enumerate(texts, 1)]


@given(st.lists(st.text(max_size=10) | st.just("x" * 9_999), max_size=400).map(lambda texts: lines(*texts)))
def test_packs_hold_every_line_in_order_and_none_is_too_large(given_lines: list[Line]) -> None:
    found = list(packs(given_lines))
    assert [line for pack in found for line in pack] == given_lines
    for pack in found:
        assert len(pack) <= MAX_LINES
        assert sum(len(line.text) for line in pack) <= MAX_CHARACTERS
    assert all(pack for pack in found[:-1])


def test_a_full_pack_goes_at_once_and_the_rest_soon() -> None:
    said: list[tuple[str, int]] = []
    live = LiveLines(lambda job, lines: said.append((job, len(lines))))
    live.add("job", lines(*["x"] * 250))
    assert said == [("job", 100), ("job", 100)]
    live.start()
    wait_until(lambda: len(said) == 3, deadline=30, what="the rest")
    assert said[-1] == ("job", 50)
    live.stop()


def test_lines_of_several_jobs_do_not_mix_and_an_end_lets_all_go() -> None:
    said: list[tuple[str, tuple[Line, ...]]] = []
    live = LiveLines(lambda job, lines: said.append((job, lines)))
    live.add("a", lines("a1"))
    live.add("b", lines("b1"))
    live.add("a", lines("a2"))
    live.end("a")
    assert [(job, [line.text for line in pack]) for job, pack in said] == [("a", ["a1", "a2"])]
    live.end("a")
    assert len(said) == 1


def test_lines_from_many_threads_keep_the_order_of_each_job() -> None:
    said: dict[str, list[str]] = {}
    live = LiveLines(lambda job, lines: said.setdefault(job, []).extend(line.text for line in lines))
    live.start()

    def print_much(job: str) -> None:
        for n in range(500):
            live.add(job, lines(str(n)))
        live.end(job)

    threads = [threading.Thread(target=print_much, args=(f"job{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live.stop()
    assert said == {f"job{n}": [str(text) for text in range(500)] for n in range(4)}
