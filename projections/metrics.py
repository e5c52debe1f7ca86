"""What the runner and the followers count of themselves. Numbers only; who shows them is elsewhere."""

from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict

#: The word of a verdict, as the index of the log has it.
Word = Literal["admitted", "duplicate", "void", "bad"]


class Metrics(Struct, kw_only=True):
    """Counters since the start of the process, and gauges of this moment.

    The thread that each belongs to is the only one that changes it; any may read.
    """

    #: Records of the log by verdict; together they are all that were read.
    admitted: int = 0
    duplicate: int = 0
    void: int = 0
    bad: int = 0
    #: Documents written to views.
    documents: int = 0
    #: Gauge: documents of the views that are set aside, and places of the log that a projection could make nothing of.
    set_aside: int = 0
    #: Records that left a document alone because it was set aside before.
    left_alone: int = 0
    #: Batches, and seconds spent on them from the first record read to the checkpoint written.
    batches: int = 0
    batch_seconds: float = 0.0
    #: Rebuilds begun, and logs found to be others than the views were made from.
    rebuilds: int = 0
    diverged: int = 0
    #: Errors after which a part of the service was started again.
    restarts: int = 0
    #: Gauge: records of the log that are not in the live views yet, when last looked.
    lag: int = 0
    #: Chunks of blobs stored; points written, and left out because of their time, name or sender.
    chunks: int = 0
    points: int = 0
    points_dropped: int = 0

    @property
    def records(self) -> int:
        return self.admitted + self.duplicate + self.void + self.bad

    def count(self, word: Word, records: int = 1) -> None:
        setattr(self, word, getattr(self, word) + records)

    def snapshot(self) -> dict[str, float]:
        """All of them by name."""
        return asdict(self)
