"""Killed at every boundary of its ports and begun again, each loop comes to what it comes to when nobody kills it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def crash(subject: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: one with threads cannot fork."""
    command = [sys.executable, "-m", "tests.chaos.crashpoints", subject]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560, check=False)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("subject", ["projections", "handlers", "agent", "keeper"])
def test_killed_at_any_point_the_end_is_the_same(subject: str) -> None:
    done = crash(subject)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "points, killed at" in done.stdout


def test_one_that_does_its_work_before_it_notes_it_down_is_found() -> None:
    done = crash("careless")
    assert done.returncode == 1
    assert "killed at point 1 (between), it came to something else: ran\nran\n instead of ran" in done.stdout
