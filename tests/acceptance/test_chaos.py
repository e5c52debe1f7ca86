"""The fault suite in short: one of its pairs on a fleet of its own. `make chaos` runs all of them, and more often."""

from pathlib import Path

import pytest

from tests.chaos.network import Proxies
from tests.chaos.trial import trials

pytestmark = [pytest.mark.chaos, pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(900)]


def test_nothing_is_lost_or_done_twice_when_a_pair_of_faults_strikes(tmp_path: Path) -> None:
    # proxies, since namespaces need rights that whoever runs the tests may not have
    with trials(tmp_path, Proxies()) as (_, made):
        result = made.run(seed=1, plan="broker+agent")
        assert result.passed, (result.done, result.complaints)
