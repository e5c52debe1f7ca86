"""How long things are kept can be set for each, in one variable."""

from collections.abc import Mapping

import pytest

from fleetbus.errors import Wrong
from fleetbus.settings import RETAINED, from_environment
from fleetbus.wiring import views_of
from projections import retention
from projections.osis.documents import DAY
from projections.registry import PROJECTIONS, kept_for, versions
from projections.retention import KEPT, kept
from projections.telemetry import MEASUREMENTS, measurements


def seconds(text: str) -> Mapping[str, float | None]:
    """How long each view keeps its documents under this setting."""
    views = views_of(from_environment({"FLEETBUS_RETENTION": text}))
    return {view.name: view.ttl.seconds if view.ttl else None for view in views}


def test_without_a_setting_everything_is_kept_as_usual() -> None:
    assert views_of(from_environment({})) == PROJECTIONS
    assert kept({}) == KEPT
    assert measurements(kept({})) == MEASUREMENTS
    assert set(RETAINED) == set(KEPT)


def test_each_view_takes_its_own_time() -> None:
    found = seconds("events:7d commands:12h batches:ever")

    assert (found["events"], found["commands"], found["batches"]) == (7 * DAY, DAY / 2, None)
    assert found["jobs"] == retention.JOBS
    assert found["nodes"] is None


def test_what_belongs_to_jobs_is_kept_longer_than_jobs_unless_it_is_set() -> None:
    assert kept({"jobs": 90 * DAY})["blobs"] == 100 * DAY
    assert kept({"jobs": 90 * DAY})["batches"] == 120 * DAY
    assert kept({"jobs": 1 * DAY})["blobs"] == retention.BLOBS
    assert kept({"jobs": None})["blobs"] is None
    assert kept({"jobs": 90 * DAY, "blobs": DAY})["blobs"] == DAY


def test_series_take_theirs() -> None:
    assert measurements(kept({"series": DAY}))[0].keep == DAY


def test_another_time_is_no_other_version_so_views_are_not_rebuilt() -> None:
    assert versions(kept_for({"jobs": DAY})) == versions()


@pytest.mark.parametrize("text", ["jobs", "jobs:", "jobs:30", "jobs:0d", "nodes:3d", "jobs:1d jobs:2d", "series:ever"])
def test_what_does_not_fit_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(Wrong, match="right would be"):
        from_environment({"FLEETBUS_RETENTION": text})
