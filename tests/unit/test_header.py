import ast
import keyword
import string
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from events.header import (
    Header,
    HeaderError,
    Param,
    check_params,
    convert_params,
    modern_source,
    parse_header,
    script_hash,
)
from events.script import MAX_SOURCE

ORIGINAL = '''
from JumpScale import j

descr = """
gather statistics about disks
"""

organization = "jumpscale"
author = "someone@example.com"
license = "bsd"
version = "1.0"
category = "disk.monitoring"
period = 60 * 5 #always in sec
order = 1
enable = True
async = True
queue = 'process'
log = False
roles = ['computenode.kvm', '*']

def action():
    return j.system.disks()
'''


def refused(source: str, filename: str = "some.py") -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        parse_header(source, filename)
    return caught.value


def read(source: str) -> Header | HeaderError:
    try:
        return parse_header(source, "some.py")
    except HeaderError as error:
        str(error).encode()  # it can be shown
        return error


def script(header: str = "", action: str = "def action(): pass") -> str:
    return f'descr = "does something"\n{header}\n{action}\n'


# ------------------------------------------------------------------------------- reading


def test_a_file_of_the_original_jumpscripts_is_read_with_all_its_fields() -> None:
    assert parse_header(ORIGINAL, "jumpscripts/Info_Disks.py") == Header(
        name="info_disks",
        descr="gather statistics about disks",
        organization="jumpscale",
        author="someone@example.com",
        license="bsd",
        version="1.0",
        category="disk.monitoring",
        period=300,
        order=1,
        enable=True,
        is_async=True,
        queue="process",
        log=False,
        roles=("computenode.kvm",),
    )


def test_defaults_are_those_of_the_original_format() -> None:
    header = parse_header(script(), "some.py")
    assert (header.period, header.queue, header.timeout, header.log, header.enable) == (0, "default", None, True, True)
    assert (header.organization, header.version, header.order, header.roles) == ("unknown", "1.0", 1, ())
    assert not header.runs_by_itself


def test_reading_a_header_executes_nothing() -> None:
    parse_header(script("raise SystemExit('executed')\nimport nothing_that_exists"), "some.py")


def test_the_old_async_line_compiles_and_keeps_every_line_where_it_was() -> None:
    source = 'text = """\nasync = True\n"""\nasync   = True\ndescr = "x"\ndef action(): pass\n'
    modern = modern_source(source)
    assert modern.splitlines()[3] == "is_async   = True"
    assert modern.splitlines()[1] == "async = True"
    ast.parse(modern)
    assert parse_header(source, "x.py").is_async


def test_an_async_that_is_no_header_field_stays_a_syntax_error() -> None:
    error = refused(script("f(\nasync=True)"))
    assert error.field == "source"
    assert error.line == 3


@pytest.mark.parametrize("line", ['"*/5 * * * *"', '"0 4 * * mon-fri"', '"@daily"', "30", "0", '""'])
def test_periods_in_seconds_and_cron_lines_are_taken(line: str) -> None:
    period = parse_header(script(f"period = {line}"), "some.py").period
    assert period == (ast.literal_eval(line) or 0)


@pytest.mark.parametrize(
    "line",
    ['"61 * * * *"', '"0 0 30 2 *"', '"R * * * *"', '"H * * * *"', '"* * * * * *"', '"often"', "-1", "1.5", "True"],
)
def test_periods_that_never_come_due_or_differ_between_nodes_are_refused(line: str) -> None:
    assert refused(script(f"period = {line}")).field == "period"


def test_a_missing_descr_is_refused_by_the_name_of_the_field() -> None:
    error = refused("def action(): pass")
    assert error.field == "descr"
    assert "descr" in str(error)


def test_a_missing_action_is_refused() -> None:
    assert refused('descr = "x"').field == "action"
    assert refused('descr = "x"\naction = print').field == "action"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('period = "x"', "period"),
        ('roles = "node"', "roles"),
        ('roles = ["No Role"]', "roles"),
        ("log = logging.getLogger()", "log"),
        ("enable = 1", "enable"),
        ("timeout = 0", "timeout"),
        ("timeout = 1e999", "timeout"),
        ('queue = "a b"', "queue"),
        ("retries = 1000", "retries"),
        ("order = True", "order"),
        ("requires = ['UPPER']", "requires"),
        ('name = "Has Spaces"', "name"),
        ('descr = ""', "descr"),
        (r'author = "\ud800"', "author"),
        ("params = []", "params"),
        ('params = {"nobody": {}}', "params"),
    ],
)
def test_a_wrong_field_is_refused_with_its_name_and_line(line: str, field: str) -> None:
    error = refused(script(f"\n\n{line}"))
    assert (error.field, error.line) == (field, 4)
    assert "some.py, line 4" in str(error)


def test_a_syntax_error_is_refused_with_its_line() -> None:
    error = refused('descr = "x"\ndef action(:\n    pass')
    assert (error.field, error.line) == ("source", 2)


def test_a_source_over_the_limit_is_refused() -> None:
    assert refused(script("#" * MAX_SOURCE)).field == "source"


def test_a_name_that_does_not_follow_from_the_file_is_asked_for() -> None:
    assert refused(script(), "").field == "name"
    assert parse_header(script('name = "mine"'), "").name == "mine"


def test_the_hash_is_the_sha256_of_the_utf8_bytes() -> None:
    assert script_hash("é") == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"


# ---------------------------------------------------------------------------- parameters

TYPED = """
LIMIT = 20
params = {
    "password": {"type": "secret", "descr": "of the database"},
    "level": {"choices": ["low", "high"]},
}
def action(path: str, count: int = LIMIT, *, ratio: float = 0.5, deep: bool = False, tags: list[str] = (),
           env: "dict[str, str] | None" = None, password=None, level="low", mode: Literal["a", "b"] = "a",
           when=time.time()): ...
"""


def test_parameters_come_from_the_signature_and_from_params() -> None:
    params = {param.name: param for param in parse_header(script("", TYPED), "some.py").params}
    assert params["path"] == Param(name="path", type="str")
    assert params["count"] == Param(name="count", type="int", required=False, default=20)
    assert params["tags"] == Param(name="tags", type="list", required=False, default=[])
    assert params["env"] == Param(name="env", type="dict", required=False, nullable=True)
    assert params["password"] == Param(
        name="password", type="secret", required=False, nullable=True, descr="of the database"
    )
    assert params["level"] == Param(name="level", type="str", required=False, default="low", choices=("low", "high"))
    assert params["mode"] == Param(name="mode", type="str", required=False, default="a", choices=("a", "b"))
    assert params["when"] == Param(name="when", type="any", required=False, nullable=True)


def test_kwargs_make_the_parameters_open() -> None:
    header = parse_header(script("", "def action(path, **args): ..."), "some.py")
    assert header.open_params
    assert check_params(header, {"path": 1, "anything": [2]}) == []


@pytest.mark.parametrize("signature", ["*args", "path, /"])
def test_parameters_that_cannot_be_named_are_refused(signature: str) -> None:
    assert refused(script("", f"def action({signature}): ...")).field == "action"


@pytest.mark.parametrize("header", ["period = 60", "startatboot = True"])
def test_a_script_that_starts_by_itself_takes_no_required_parameter(header: str) -> None:
    error = refused(script(header, "def action(path): ..."))
    assert "path" in error.message
    parse_header(script(header, "def action(path='/'): ..."), "some.py")


@pytest.mark.parametrize("default", ['int = "three"', 'Literal["a"] = "b"'])
def test_a_default_that_does_not_fit_is_refused(default: str) -> None:
    assert refused(script("", f"def action(count: {default}): ...")).field == "action"


def test_a_secret_in_the_source_is_refused_without_being_shown() -> None:
    source = script('params = {"key": {"type": "secret"}}', 'def action(key="hunter2"): ...')
    assert "hunter2" not in str(refused(source))
    assert "env:NAME" in str(refused(source))


PATHS = parse_header(
    script(
        'params = {"token": {"type": "secret"}}',
        TYPED.replace("password=None", "token=None").replace('"password"', '"token"'),
    ),
    "some.py",
)


def test_good_parameters_have_no_problem() -> None:
    given_params = {"path": "/", "count": 3, "ratio": 1, "env": None, "token": "env:TOKEN", "tags": ["a"]}
    assert check_params(PATHS, given_params) == []


@pytest.mark.parametrize(
    ("given_params", "kind", "part"),
    [
        ({}, "missing", "path"),
        ({"path": "/", "pth": 1}, "unknown", "did you mean path?"),
        ({"path": 3}, "type", "must be a str"),
        ({"path": "/", "count": True}, "type", "must be an int"),
        ({"path": "/", "count": "many"}, "type", "'many'"),
        ({"path": "/", "ratio": float("nan")}, "type", "ratio"),
        ({"path": "/", "level": "middle"}, "choice", "'low', 'high'"),
        ({"path": "/", "token": "hunter2"}, "secret", "env:NAME"),
        ({"path": "/", "token": "file:relative"}, "secret", "file:/PATH"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_be_right(
    given_params: dict[str, Any], kind: str, part: str
) -> None:
    (problem,) = check_params(PATHS, given_params)
    assert problem.kind == kind
    assert part in problem.message
    assert "hunter2" not in problem.message


def test_texts_of_a_command_line_become_values() -> None:
    texts = {"path": "", "count": "3", "ratio": "2", "deep": "yes", "tags": "a, b", "env": '{"A": "1"}', "token": ""}
    converted = convert_params(PATHS, texts)
    assert converted == {"path": "", "count": 3, "ratio": 2.0, "deep": True, "tags": ["a", "b"], "env": {"A": "1"}}
    assert check_params(PATHS, converted) == []


def test_a_text_that_cannot_be_converted_is_left_for_the_check() -> None:
    converted = convert_params(PATHS, {"path": "/", "count": "many", "env": "[1]", "other": "x"})
    assert {problem.param for problem in check_params(PATHS, converted)} == {"count", "env", "other"}


# ---------------------------------------------------------------------------- properties


@settings(deadline=None)
@given(st.text())
@example('descr = "x"\n' + "-" * 100_000 + "1")
@example('descr = "x"\n' + "(" * 5_000)
@example("descr = 0x" + "f" * 50_000)
@example("descr = {[]: 1}")
@example("descr = \x00")
@example("async =")
@example("period = " + "*".join(["9"] * 3_000))
def test_any_text_gives_a_header_or_a_header_error(source: str) -> None:
    read(source)


FIELDS = ["descr", "params", "period", "action", "roles", "None", "async\t=", "def\taction(", "'x'"]
SIGNS = [*"()[]{}:=,|.#\\@1*/\n", "**", "->", "\n    ", '"' * 3]
PYTHONISH = st.lists(st.sampled_from([*keyword.kwlist, *FIELDS, *SIGNS]), max_size=40).map(" ".join)


@settings(deadline=None)
@given(PYTHONISH)
def test_any_heap_of_python_words_gives_a_header_or_a_header_error(words: str) -> None:
    with_action = f'descr = "x"\n{words}\ndef action(): pass\n'
    for source in (words, with_action):
        read(source)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(string.ascii_letters), inner),
    max_leaves=10,
)
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=8).filter(lambda name: not keyword.iskeyword(name))


@settings(deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6), st.lists(NAMES, max_size=3), st.integers(0, 10**6))
def test_a_header_survives_json_and_says_what_was_written(
    defaults: dict[str, Any], roles: list[str], period: int
) -> None:
    signature = ", ".join(f"{name}={value!r}" for name, value in defaults.items())
    header = parse_header(script(f"roles = {roles!r}\nperiod = {period}", f"def action({signature}): ..."), "some.py")
    assert msgspec.json.decode(msgspec.json.encode(header), type=Header) == header
    assert {param.name: param.default for param in header.params} == defaults
    assert (header.roles, header.period) == (tuple(roles), period)
    assert check_params(header, defaults) == []


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_checking_parameters_never_raises(given_params: dict[str, Any]) -> None:
    for problem in check_params(PATHS, given_params):
        assert problem.message


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([param.name for param in PATHS.params]), st.text()))
def test_converting_texts_never_raises(texts: dict[str, str]) -> None:
    check_params(PATHS, convert_params(PATHS, texts))
