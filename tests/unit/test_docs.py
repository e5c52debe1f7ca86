"""The documentation says what there is: names on its pages are those in the code, and links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from events.registry import TYPES
from fleetbus.cli import cli
from fleetbus.metrics import METRICS
from fleetbus.settings import FOREIGN, VARIABLES
from nodeagent.stats import NAMES
from portal.app import openapi_document
from portal.metrics import Metrics
from projections.registry import versions

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`|^ {4}.*$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
#: Not in the OpenAPI document, because it is about the document, and because it is not under /api.
_UNDESCRIBED = {"GET /api/v1/openapi.json", "GET /metrics"}


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def first_cells(text: str) -> set[str]:
    """What stands in backticks in the first cells of the tables."""
    cells = re.findall(r"^\| *(`[^|]*`) *\|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def anchors(text: str) -> set[str]:
    """Names of headings, as the usual renderers make them."""
    headings = (heading.lower().replace("`", "") for heading in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in headings}


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_something(path: Path) -> None:
    broken = []
    for link in _LINK.findall(_CODE.sub("", path.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = path if not target else (path.parent / unquote(target)).resolve()
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.relative_to(ROOT / "docs") for path in PAGES[1:]}
    missing = [str(one) for one in pages if str(one) not in index and one.parts[0] not in ("README.md", "decisions")]
    assert missing == []


def test_every_setting_is_described_and_no_other() -> None:
    told = {name for name in first_cells(page("configuration.md")) if name.startswith("FLEETBUS_")}
    assert told == {variable.name for variable in VARIABLES} | {name for name in FOREIGN if not name.endswith("_")}


def test_every_event_type_is_listed_with_its_voice_and_schema_and_no_other() -> None:
    row = re.compile(r"^\| `([a-z_.]+)` \| (\w+) \| \[v(\d+)\]\(([^)]+)\)", re.MULTILINE)
    told = {name: (voice, int(version), schema) for name, voice, version, schema in row.findall(page("events.md"))}
    assert told == {
        name: (one.voice.value, one.version, f"../../schemas/{name}.v{one.version}.json") for name, one in TYPES.items()
    }


def test_every_command_and_option_of_the_command_line_is_described_and_no_other() -> None:
    text = page("command-line.md")
    sections = dict(re.findall(r"^### `fleetbus ([^`]+)`$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    there = dict(commands(cli))
    assert sections.keys() == there.keys()
    common = {"--url", "--token", "--output", "--json"}
    missing = [
        f"{name} {option}"
        for name, command in there.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option not in common and option != "-o" and f"`{option}`" not in sections[name]
    ]
    assert missing == []


def test_every_metric_is_listed_and_no_other() -> None:
    prometheus = {
        family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()
    }
    assert first_cells(page("metrics.md")) == {*NAMES, *METRICS, *prometheus}


def test_every_request_of_the_api_is_listed_and_no_other() -> None:
    paths = openapi_document()["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert first_cells(page("rest-api.md")) == there | _UNDESCRIBED


def test_every_view_is_described() -> None:
    assert versions().keys() <= first_cells(page("views.md"))


def test_the_tests_that_show_guarantees_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page("guarantees.md")))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
