"""Logs that were recorded when a shape was released: today's code reads them as it did then."""

import json
from pathlib import Path

import pytest

from bus.admission import AdmissionState, Admitted, admit
from projections.registry import versions
from tests import recorded

FOLDERS = recorded.folders()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_recorded_log_gives_the_same_verdicts_and_views(folder: Path, tmp_path: Path) -> None:
    expected = json.loads((folder / recorded.EXPECTED).read_text())

    found = recorded.outcome(recorded.read(folder), tmp_path)

    raised = [name for name, view in expected["views"].items() if view["version"] != versions().get(name)]
    assert raised == [], (
        f"the version of {', '.join(raised)} was raised: look at what changed in the views of this log, then "
        f"`python -m tests.recorded --expect {folder.name}`"
    )
    assert found == expected


def test_a_log_was_recorded_and_says_everything_that_can_be_said() -> None:
    state = AdmissionState()
    verdicts = [admit(state, record) for record in recorded.read(FOLDERS[-1])]

    types = {verdict.event.type for verdict in verdicts if isinstance(verdict, Admitted)}

    assert recorded.TYPES_OF_THE_LOG - types == set()
    assert {type(verdict).__name__ for verdict in verdicts} == {"Admitted", "Duplicate", "Void", "Bad"}
    assert len(verdicts) > 500


def test_what_was_recorded_does_not_change() -> None:
    with pytest.raises(SystemExit, match="is there already"):
        recorded.record(FOLDERS[-1].name)
