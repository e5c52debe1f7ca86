"""JSON Schemas of everything that can be said, one file `<type>.v<n>.json` each, for any language.

They are made from the Structs in `events/` by `python -m events.schema`; a test fails when the two drift apart.
"""

import json
from importlib.resources import files
from typing import Any


def load(event_type: str, version: int) -> dict[str, Any]:
    """The schema of one version of one type. Raises `FileNotFoundError` when there is none."""
    text = files(__package__).joinpath(f"{event_type}.v{version}.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema
