"""A schema change that old readers or old records cannot take is refused, with what would be right."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from events import schema
from events.compatibility import refusals

RELEASED = sorted((Path(__file__).parents[1] / "data").glob("*/schemas"))
OLD: dict[str, Any] = {
    "$ref": "#/$defs/Order",
    "$defs": {
        "Order": {
            "type": "object",
            "title": "Order",
            "properties": {
                "id": {"type": "string", "maxLength": 64},
                "size": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                "state": {"enum": ["open", "done"]},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
                "tags": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["id", "state"],
        },
        "Line": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "next": {"$ref": "#/$defs/Line"}},
            "required": ["text"],
        },
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The old schema with one thing set, or taken out by None; `path` has slashes."""
    new = deepcopy(OLD)
    *way, last = path.split("/")
    place: Any = new["$defs"]
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return new


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.parent.name)
def test_the_schemas_of_today_can_be_taken_by_readers_of_what_was_released(folder: Path) -> None:
    assert schema.refused(folder) == []


def test_there_is_a_release_to_compare_with() -> None:
    assert RELEASED
    assert all(list(folder.glob("*.json")) for folder in RELEASED)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("Order/properties/note", {"type": "string", "default": ""}),
        ("Line/properties/note", {"$ref": "#/$defs/Line"}),
        ("Order/properties/id", {"type": "string", "maxLength": 64, "description": "said better"}),
        ("Extra", {"type": "object"}),
    ],
)
def test_a_new_optional_field_and_better_words_are_taken(path: str, value: Any) -> None:
    assert refusals(OLD, changed(path, value)) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("Order/properties/size", None, "size: the field was removed"),
        ("Order/required", ["id", "state", "size"], "size: the field has become required"),
        ("Line/required", ["text", "next"], "lines[].next: the field has become required"),
        ("Order/required", ["id"], "state: the field has become optional, but old readers require it"),
        ("Order/properties/id", {"type": "integer", "maxLength": 64}, "id: the type 'string' is no longer allowed"),
        ("Order/properties/size/anyOf/0", {"type": "string"}, "size|1: the type 'integer' is no longer allowed"),
        ("Order/properties/size", {"type": "integer"}, "size: it was one of 2 shapes, and is one of 0 now"),
        ("Order/properties/id", {"type": ["string", "null"], "maxLength": 64}, "id: the type 'null' is new"),
        ("Order/properties/state/enum", ["open"], "state: the value 'done' was removed"),
        ("Order/properties/state/enum", ["open", "done", "lost"], "state: the value 'lost' is new"),
        ("Order/properties/id/maxLength", 32, "id: maxLength was 64, and is 32 now"),
        ("Line/properties/text", {"type": "number"}, "lines[].text: the type 'string' is no longer allowed"),
        ("Order/properties/tags/additionalProperties", {"type": "integer"}, "tags.*: the type 'string'"),
        ("Order/additionalProperties", False, ".*: what it may be has changed"),
    ],
)
def test_what_old_readers_or_old_records_cannot_take_is_refused(path: str, value: Any, says: str) -> None:
    assert any(says in one for one in refusals(OLD, changed(path, value))), refusals(OLD, changed(path, value))


def test_a_new_required_field_is_refused() -> None:
    new = changed("Order/properties/owner", {"type": "string"})
    new["$defs"]["Order"]["required"].append("owner")

    assert refusals(OLD, new) == ["owner: the field is new and required, but there are records without it"]


def test_the_check_names_file_release_and_remedy_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "0.0.9" / "schemas"
    folder.mkdir(parents=True)
    name = "event.job.started.v1.json"
    was = json.loads((schema.FOLDER / name).read_text())
    was["$defs"]["JobStarted"]["properties"]["host"] = {"type": "string"}
    (folder / name).write_text(json.dumps(was))
    (folder / "event.job.dreamt.v1.json").write_text("{}")

    assert schema.main(["--check", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "schemas/event.job.started.v1.json: host: the field was removed" in said
    assert "leave version 1 as it is, and make version 2 with an upcast" in said
    assert "as released in 0.0.9" in said
    assert "schemas/event.job.dreamt.v1.json: it was removed" in said
