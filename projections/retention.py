"""How long views keep what is over, in seconds. The log does not forget; these are for looking at.

`FLEETBUS_RETENTION` sets each of `KEPT` by its name. What was written before keeps the time that held then, until the
views are made anew.
"""

from collections.abc import Mapping
from types import MappingProxyType

from projections.osis.documents import DAY

#: After the end of a job.
JOBS = 30 * DAY
#: After an event's own time; for what has no readable time, after the log time at its place.
EVENTS = 30 * DAY
#: After a command's own time.
COMMANDS = 30 * DAY
#: After the creation of a batch; longer than jobs, because its jobs end later than it is made.
BATCHES = 60 * DAY
#: After a measurement's own time.
SERIES = 30 * DAY
#: After the last chunk was written. Longer than jobs, whose output they are.
BLOBS = 40 * DAY
#: After the views of an earlier time (`--until`) were made.
AS_OF = 7 * DAY

#: Seconds for each that can be set; None is for ever.
Retention = Mapping[str, float | None]
KEPT: Retention = MappingProxyType(
    {"jobs": JOBS, "batches": BATCHES, "commands": COMMANDS, "events": EVENTS, "series": SERIES, "blobs": BLOBS}
)


def kept(wanted: Retention) -> Retention:
    """All of them: as wanted, else as usual; what belongs to jobs is kept as much longer than jobs as usual."""
    jobs = wanted.get("jobs", JOBS)
    after_jobs = {
        name: None if jobs is None else max(KEPT[name] or 0.0, jobs + (KEPT[name] or 0.0) - JOBS)
        for name in ("batches", "blobs")
    }
    return MappingProxyType({**KEPT, **after_jobs, **wanted})
