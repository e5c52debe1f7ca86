"""The jumpscripts that come with fleetbus. Each is a file that runs by itself on a node; none is imported here."""

import hashlib
from pathlib import Path
from typing import NamedTuple


class Bundled(NamedTuple):
    """A script as it is published: `hash` is the SHA-256 of its source in UTF-8."""

    name: str
    source: str
    hash: str


def bundled() -> list[Bundled]:
    """All of them, by name."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return [_read(file) for file in files]


def _read(file: Path) -> Bundled:
    source = file.read_text(encoding="utf-8")
    return Bundled(file.stem, source, hashlib.sha256(source.encode()).hexdigest())
