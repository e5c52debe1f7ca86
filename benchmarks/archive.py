"""The archive: records archived per second, verified per second, and the time for one proof.

On the embedded side, whose log is written straight into its table. `verified` is all of `fleetbus audit verify` on an
archive alone: hashes, Merkle roots and signatures in other processes, admission in this one.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from benchmarks.history import write_history
from benchmarks.measure import Table, compare
from benchmarks.place import Place, Progress
from bus.archive.archiver import Archiver, Limits
from bus.archive.folder import Archive
from bus.archive.keys import PrivateKey
from bus.archive.proof import check_proof, encode_proof, prove
from bus.clock import SystemClock
from bus.embedded import EmbeddedBus
from events import codec
from events.actors import ARCHIVER
from projections.audit.verify import verify

RECORDS, SEGMENTS = 200_000, 4
QUICK_RECORDS = 10_000
#: Records of one segment: more would be sealed for their bytes, and the archive's end would be another than expected.
MOST = 50_000
#: Seconds: no segment is sealed for its age.
PATIENCE = 3_600.0
PROOFS = 100
LOOK = 0.02

UNITS = {
    "archived": "records/s",
    "verified": "records/s",
    "archive": "bytes/record",
    "a proof made": "ms",
    "a proof checked": "ms",
}


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    records = place.sized(RECORDS, QUICK_RECORDS)
    with place.folder() as folder:
        progress(f"archive: writing {records:,} records")
        written = write_history(folder / "bus", records)
        turns = count()
        contestants = {"fleetbus": lambda: _measure(folder / "bus", folder / str(next(turns)), written)}
        return [compare(f"The archive, {records:,} records", contestants, UNITS, (), runs, progress)]


def _measure(log: Path, target: Path, records: int) -> Mapping[str, float]:
    # a key of its own for each run: what the log tells of the seals of another run must not be taken for this one's
    archive, key = Archive(target), PrivateKey.generate()
    with _archiving(log, target, key) as end:
        began = time.perf_counter()
        while (there := archive.end()) < end:
            time.sleep(LOOK)
        archived = there / (time.perf_counter() - began)
    found = verify(archive, key.public)
    assert found.ok, found.findings
    assert found.records == archive.end()
    size = sum(path.stat().st_size for path in target.iterdir())
    return {
        "archived": archived,
        "verified": found.records / found.seconds,
        "archive": size / found.records,
        **_proofs(archive, key, records),
    }


@contextmanager
def _archiving(log: Path, target: Path, key: PrivateKey) -> Iterator[int]:
    """An archiver at work; the offset that it is to reach."""
    stop = threading.Event()
    with closing(EmbeddedBus(log, ARCHIVER)) as bus:
        end = bus.stream("log").next_offset()
        limits = Limits(records=min(end // SEGMENTS, MOST), seconds=PATIENCE)
        archiver = Archiver(bus, target, key, SystemClock(), limits=limits)
        thread = threading.Thread(target=archiver.run, args=(stop,))
        thread.start()
        try:
            yield end // limits.records * limits.records
        finally:
            stop.set()
            thread.join()


def _proofs(archive: Archive, key: PrivateKey, records: int) -> Mapping[str, float]:
    record = archive.record(records // 2)
    assert record is not None
    event = codec.decode(record.body)
    began = time.perf_counter()
    proof = prove(archive, event.id)
    made = time.perf_counter() - began
    assert proof is not None
    content = encode_proof(proof)
    began = time.perf_counter()
    for _ in range(PROOFS):
        check_proof(content, key.public)
    return {"a proof made": made * 1000, "a proof checked": (time.perf_counter() - began) / PROOFS * 1000}
