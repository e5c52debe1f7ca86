"""How long views keep what is over, in seconds. The log does not forget; these are for looking at."""

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
