"""What pages show, from values: words, charts, facts, forms, filters. All of it pure."""

from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from events.header import Header, parse_header
from portal.bodies import Form
from portal.pages import charts, params, wording
from portal.pages.charts import Line, Segment
from portal.pages.facts import read_facts
from portal.pages.highlight import json_html, python_html
from portal.pages.page import safe_path
from portal.pages.results import blocks_of
from portal.pages.run import rollout_of, target_of
from portal.problems import Problem
from portal.queries import EventQuery, JobQuery, events, jobs, moment, needs_check
from projections.osis.filters import And, Eq, In, Or, Prefix

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SCRIPT = """
descr = "copies"
params = {"store": {"choices": ["a", "b"]}, "password": {"type": "secret"}}

def action(volume: str, store: str = "a", count: int = 3, verify: bool = True, note: str | None = None,
           tags: list = ["x"], password: str | None = None):
    ...
"""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0042, "4 ms"),
        (0.34, "340 ms"),
        (4.25, "4.2 s"),
        (20, "20 s"),
        (200, "3 min 20 s"),
        (7_200, "2 h"),
        (7_500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
        (None, ""),
    ],
)
def test_durations_are_said_as_people_do(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_400_000, "1.4 MB"), (67_318_542_336, "67.3 GB"), (None, "")],
)
def test_sizes_are_said_as_people_do(bytes: int | None, text: str) -> None:
    assert wording.size(bytes) == text


def test_moments_are_said_as_distances() -> None:
    def ago(seconds: float) -> str:
        return wording.ago((NOW - timedelta(seconds=seconds)).isoformat(), NOW)

    assert [ago(0), ago(12), ago(180), ago(7_200), ago(3 * 86_400)] == [
        "just now",
        "12 s ago",
        "3 min ago",
        "2 h ago",
        "3 d ago",
    ]
    assert ago(30 * 86_400) == "2026-01-30"
    assert ago(-90) == "in 1 min 30 s"
    assert wording.ago("nonsense", NOW) == ""


def test_ids_are_short_and_still_tell_apart() -> None:
    assert wording.short("01a2003a-951b-770d-bfe8-6ad64253e22e") == "6ad64253e22e"
    assert wording.short("a" * 64) == "a" * 12
    assert wording.short("n1") == "n1"


def picture(svg: Markup) -> ElementTree.Element:
    """Every picture is well-formed and says in words what it shows."""
    root = ElementTree.fromstring(svg)  # noqa: S314  # our own
    assert root.get("aria-label")
    assert not [one for one in root.iter() if one.get("style")], "the content policy would drop it"
    return root


def test_a_chart_does_not_draw_over_what_was_not_measured() -> None:
    minute = 60 * charts.NANO
    points = [(n * minute, float(n)) for n in [*range(10), *range(30, 40)]]
    root = picture(charts.line_chart([Line("busy", points)], 0, 60 * minute, lambda value: f"{value:.0f}"))
    assert len(root.findall("polyline")) == 2


def test_a_chart_of_one_value_shows_a_dot_and_of_none_a_frame() -> None:
    one = picture(charts.line_chart([Line("busy", [(0, 1.0)])], 0, charts.NANO, str))
    assert one.find("circle") is not None
    assert picture(charts.line_chart([], 0, charts.NANO, str)).get("aria-label") == "no values"


@pytest.mark.parametrize(("value", "top"), [(0, 1), (0.03, 0.05), (1, 1), (7, 10), (10, 10), (11, 20), (412, 500)])
def test_scales_end_at_round_numbers(value: float, top: float) -> None:
    assert charts._round_up(value) == pytest.approx(top)


def test_parts_of_a_whole_are_drawn_and_said() -> None:
    root = picture(charts.share_bar({"succeeded": 3, "failed": 1, "lost": 0}))
    assert root.get("aria-label") == "3 succeeded, 1 failed"
    assert len(root.findall("rect")) == 2
    assert picture(charts.share_bar({})).get("aria-label") == "none"


def test_texts_in_pictures_are_escaped() -> None:
    for svg in (
        charts.share_bar({'"><script>': 1}),
        charts.bars([1], ["<b>"], '"><script>'),
        charts.meter(0.5, "<script>"),
        charts.timeline([Segment("failed", 0, 1, "<script>")]),
    ):
        picture(svg)
        assert "<script" not in svg


def test_source_and_json_are_escaped_and_keep_their_lines() -> None:
    source = 'descr = "<script>"\n\n\ndef action(): ...\n'
    html = python_html(source)
    assert "<script>" not in html
    assert html.count('<span class="l">') == 4
    assert "<script>" not in json_html({"<script>": "</pre>"})


@pytest.mark.parametrize(
    ("result", "disks", "nics"),
    [
        (
            {
                "disks": [{"mountpoint": "/", "total_bytes": 100, "used_bytes": 43}],
                "nics": [{"name": "eth0", "mac": "aa", "addresses": ["10.0.0.1"]}],
            },
            ["/"],
            ["eth0"],
        ),
        ({"disks": {"/": {"total": 100, "used": 43}}, "nics": {"eth0": {"ip": "10.0.0.1"}}}, ["/"], ["eth0"]),
        ({"disks": "many", "nics": None}, [], []),
        (["no", "object"], [], []),
        (None, [], []),
    ],
)
def test_facts_of_any_shape_become_rows(result: Any, disks: list[str], nics: list[str]) -> None:
    facts = read_facts({"id": "j", "ended_at": "2026-03-01T00:00:00Z", "result": result})
    assert [fact.name for fact in facts.disks] == disks
    assert [fact.name for fact in facts.nics] == nics
    assert all(fact.share == pytest.approx(0.43) for fact in facts.disks)


def test_facts_say_numbers_in_words() -> None:
    said = {"hostname": "n1", "cpu": {"count": 16, "model": "EPYC"}, "memory_total_bytes": 67_318_542_336}
    rows = {fact.name: fact.value for fact in read_facts({"id": "j", "result": said}).system}
    assert rows == {"hostname": "n1", "cpu": "count 16, EPYC", "memory total": "67.3 GB"}


def test_results_become_rows_and_tables_where_their_shape_allows() -> None:
    found = blocks_of(
        {
            "count": 2,
            "load": {"one_percent": 12.5},
            "processes": [{"pid": 1, "memory_bytes": 2_000_000}, {"pid": 2, "name": "<b>"}],
        }
    )
    assert [(block.kind, block.title) for block in found] == [("rows", ""), ("rows", "load"), ("table", "processes")]
    assert found[1].rows == [["one %", "12.5"]]
    assert found[2].head == ["pid", "memory", "name"]
    assert found[2].rows == [["1", "2.0 MB", ""], ["2", "", "<b>"]]


@pytest.mark.parametrize("result", [None, 7, "text", [], {}, [1, 2], {"a": {"b": {"c": 1}}}, [{"a": [{"b": 1}]}]])
def test_results_of_other_shapes_stay_json(result: Any) -> None:
    assert blocks_of(result) == []


def test_long_tables_are_cut_and_say_so() -> None:
    (table,) = blocks_of([{"n": n} for n in range(500)])
    assert (len(table.rows), table.left_out) == (200, 300)


@pytest.fixture
def header() -> Header:
    return parse_header(SCRIPT, "copy")


def form(**given: str) -> Form:
    return Form([(f"p.{name}", value) for name, value in given.items()])


def test_a_form_has_a_field_for_each_parameter_with_its_default(header: Header) -> None:
    found = {field.name[2:]: field for field in params.fields(header)}
    assert [field.kind for field in found.values()] == ["text", "select", "number", "select", "text", "lines", "secret"]
    assert found["store"].options == ["a", "b"]
    assert found["verify"].options == ["true", "false"]
    assert (found["volume"].required, found["volume"].value) == (True, "")
    assert (found["count"].value, found["tags"].value) == ("3", '["x"]')


def test_what_a_form_gives_has_the_right_types(header: Header) -> None:
    given = form(volume="v1", store="b", count="7", verify="false", note="", tags='["p", "q"]', password="")
    values, problems = params.values(header, given)
    assert problems == {}
    assert values == {"volume": "v1", "store": "b", "count": 7, "verify": False, "tags": ["p", "q"]}


def test_what_does_not_fit_is_said_beside_its_field(header: Header) -> None:
    given = form(volume="v1", store="c", count="many", password="hunter2")
    _, problems = params.values(header, given)
    assert set(problems) == {"store", "count", "password"}
    assert "hunter2" not in "".join(problems.values())
    shown = {field.name: field for field in params.fields(header, given, problems)}
    assert shown["p.count"].value == "many"
    assert "int" in shown["p.count"].problem


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({"where": "nodes", "nodes": "n1"}, {"node": "n1"}),
        ({"where": "nodes", "nodes": "n1, n2 n1"}, {"nodes": ("n1", "n2")}),
        ({"where": "role", "role": "cpu"}, {"role": "cpu"}),
        ({"where": "role-all", "role": "cpu"}, {"role": "cpu", "all": True}),
        ({"where": "all"}, {"all": True}),
    ],
)
def test_a_form_says_where_to_run(given: dict[str, str], target: dict[str, Any]) -> None:
    found = target_of(Form(list(given.items())))
    assert {name: getattr(found, name) for name in target} == target


@pytest.mark.parametrize(
    "given", [{}, {"where": "nodes"}, {"where": "nodes", "nodes": "N!"}, {"where": "role"}, {"where": "moon"}]
)
def test_a_form_that_does_not_say_where_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        target_of(Form(list(given.items())))
    assert caught.value.field.startswith("target")


def test_batches_are_sized_by_number_or_share() -> None:
    def sized(size: str, most: str = "") -> Any:
        return rollout_of(Form([("size", size), ("max_failures", most)]))

    assert sized("") is None
    assert (sized("10").size, sized("10").percent) == (10, None)
    assert (sized("25%").size, sized("25 %").percent) == (None, 25.0)
    assert sized("", "0").max_failures == 0
    for wrong in ("0", "101%", "ten", "-1"):
        with pytest.raises(Problem):
            sized(wrong)


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("/jobs?x=1", "/jobs?x=1"),
        ("//evil", "/"),
        ("/\\evil", "/"),
        ("https://evil", "/"),
        (None, "/"),
        ("/a\r\nSet-Cookie: x", "/"),
    ],
)
def test_a_login_leads_nowhere_else(path: str | None, safe: str) -> None:
    assert safe_path(path) == safe


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("-30m", "2026-03-01T11:30:00"),
        ("-1w", "2026-02-22T12:00:00"),
        ("2026-03-01", "2026-03-01T00:00:00"),
        ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00"),
        ("2026-03-01T10:00:00+02:00", "2026-03-01T08:00:00"),
        ("2026-03-01T10:00:00 02:00", "2026-03-01T08:00:00"),
    ],
)
def test_moments_are_given_in_full_or_back_from_now(text: str, at: str) -> None:
    assert moment(text, NOW, "since") == at


@pytest.mark.parametrize("text", ["yesterday", "-3y", "-999999w", "2026-13-01"])
def test_what_is_no_moment_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(Problem, match="-30m") as caught:
        moment(text, NOW, "since")
    assert (caught.value.status, caught.value.field) == (400, "since")


def test_several_words_mean_any_of_them() -> None:
    assert jobs(JobQuery(state="failed,lost"), NOW) == And(In("state", ("failed", "lost")))
    assert jobs(JobQuery(state="failed"), NOW) == And(Eq("state", "failed"))


def test_patterns_of_types_use_an_index_where_they_can() -> None:
    assert events(EventQuery(type="event.job.queued"), NOW) == And(Eq("type", "event.job.queued"))
    assert events(EventQuery(type="event.job.#"), NOW) == And(Or(Eq("type", "event.job"), Prefix("type", "event.job.")))
    assert events(EventQuery(type="#"), NOW) == And()
    assert not needs_check("event.job.#")
    assert needs_check("event.*.queued")
