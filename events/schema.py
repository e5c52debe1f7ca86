"""Writes `schemas/`: the JSON Schema (2020-12) of the envelope and of every type's data, made from the Structs.

    python -m events.schema                     writes what is missing or different
    python -m events.schema --check [FOLDER]…  says what is missing or different, and exits 1 if anything is

A file of an older version than today's is never touched: logs of that time must stay readable to others, too. With
FOLDERs, schemas as they were released (`tests/data/*/schemas`), it also refuses what readers of those cannot take.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

import schemas
from events.compatibility import refusals
from events.delivery import Delivery
from events.envelope import Event
from events.registry import TYPES, schema_id

FOLDER = Path(schemas.__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def current() -> dict[str, dict[str, Any]]:
    """File name to schema, for everything that is said today."""
    made = {
        f"{name}.v{definition.version}.json": _schema(definition.payload, schema_id(name, definition.version))
        for name, definition in TYPES.items()
    }
    made["envelope.v1.json"] = _schema(Event, "urn:fleetbus:envelope:1")
    made["delivery.v1.json"] = _schema(Delivery, "urn:fleetbus:delivery:1")
    return made


def _schema(kind: Any, id: str) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": id, **msgspec.json.schema(kind)}


def text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def stale() -> list[str]:
    """Names of files that are missing or say something else than the Structs."""
    return [name for name, schema in current().items() if _read(FOLDER / name) != text(schema)]


def refused(released: Path) -> list[str]:
    """What readers or records of the schemas in this folder cannot take, a sentence for each, with what is right."""
    found = []
    for path in sorted(released.glob("*.json")):
        name, _, version = path.name.removesuffix(".json").rpartition(".v")
        new = _read(FOLDER / path.name)
        if new is None:
            why = ["it was removed, but logs have records of it; bring the file back"]
        else:
            right = f"leave version {version} as it is, and make version {int(version) + 1} with an upcast"
            why = [f"{one}; {right}" for one in refusals(json.loads(path.read_text()), json.loads(new))]
        found += [f"schemas/{path.name}: {one} ({name}, as released in {released.parent.name})" for one in why]
    return found


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main(arguments: list[str]) -> int:
    found = stale()
    if "--check" in arguments:
        for name in found:
            sys.stderr.write(f"schemas/{name} differs from events/; run python -m events.schema\n")
        folders = [Path(one) for one in arguments if not one.startswith("-")]
        wrong = [sentence for folder in folders for sentence in refused(folder)]
        for sentence in wrong:
            sys.stderr.write(f"{sentence}\n")
        return bool(found or wrong)
    for name in found:
        (FOLDER / name).write_text(text(current()[name]))
        sys.stdout.write(f"wrote schemas/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
