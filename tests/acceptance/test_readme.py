"""What the README says works: its commands are run, its files are there, in the order in which a reader meets them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.house import House

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
#: A block with the word behind its fence, and the file name that stands before it, if one does.
BLOCK = re.compile(r"(?:`(?P<file>[\w.]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.slow
def test_every_command_of_the_readme_works(house: House) -> None:
    folder = house.folder / "reader"
    folder.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = 0
    for block in BLOCK.finditer(README):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"])
        for line in block["text"].splitlines() if block["kind"] == "console" else ():
            command = line.removeprefix("$ ")
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                # a reader's fleet is in the folder that is not named
                env={**house.environ, "PATH": path, "FLEETBUS_DATA": str(house.data)},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            ran += 1
    assert ran == 12


def test_the_readme_names_targets_and_files_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", README):
        assert f".PHONY: {target}\n" in makefile or target == "help"
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_readme_names_only_commands_that_exist() -> None:
    from fleetbus.cli import cli

    words = set(re.findall(r"\bfleetbus ([a-z]+)\b", README)) - {"runs"}
    assert words <= set(cli.list_commands(None))  # type: ignore[arg-type]
