"""One `fleetbus up` that the tests of a module share."""

from collections.abc import Iterator

import pytest

from tests.acceptance.house import House


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Running and ready; tests leave it as they found it, but for jobs and scripts."""
    found = House(tmp_path_factory.mktemp("house"))
    try:
        found.start()
        yield found
        found.stop()
    finally:
        found.kill()


@pytest.fixture
def own_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Not started yet, and of this test alone."""
    found = House(tmp_path_factory.mktemp("house"))
    yield found
    found.kill()
