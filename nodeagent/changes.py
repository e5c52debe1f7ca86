"""What can be written into the journal: each change is a value, a statement with what it must touch."""

from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from nodeagent.run import Run, encode_run

Mark = Literal["accepted", "running", "done", "expired"]

#: The marks from which a job may come to a mark; "" is a job that the journal does not know.
#: Nothing follows `done`, and `running` never comes twice: that is what keeps a job from running again.
MAY_FOLLOW: dict[Mark, tuple[str, ...]] = {
    "accepted": ("",),
    "running": ("", "accepted"),
    "done": ("", "accepted", "running"),
    "expired": ("accepted",),
}

#: How long an ended job is remembered after its `start_by` (or after its end, when that is later). Past `start_by` a
#: late delivery starts nothing anyway; the hour is for clocks that are set back.
REMEMBER = timedelta(hours=1)
#: How long the ids that local services gave their events are remembered.
REMEMBER_HANDED = timedelta(minutes=10)
#: Scripts that are kept, the latest used ones.
KEPT_SCRIPTS = 500


class Change(Struct, frozen=True):
    """One statement. `touches`: the number of rows it must change, else the whole write is undone."""

    sql: str
    values: tuple[object, ...]
    touches: int | None = None


def accepted(run: Run) -> Change:
    return _marked(run.job, "accepted", run=encode_run(run))


def running(run: Run, pgid: int, stamp: str) -> Change:
    """The job is about to run in this process group (`processes.kill_group`). From now on it never begins again."""
    return _marked(run.job, "running", run=encode_run(run), pgid=pgid, stamp=stamp)


def done(job: str, start_by: datetime | None, now: datetime) -> Change:
    until = max(start_by or now, now) + REMEMBER
    return _marked(job, "done", forget_at=until.timestamp())


def expired(job: str, now: datetime) -> Change:
    """`start_by` passed before it began. The agent says nothing: that is the decider's to say."""
    return _marked(job, "expired", forget_at=(now + REMEMBER).timestamp())


def _marked(
    job: str, mark: Mark, *, run: bytes = b"", forget_at: float = 0.0, pgid: int | None = None, stamp: str | None = None
) -> Change:
    values = (mark, run, forget_at, pgid, stamp, job)
    known = ", ".join(f"'{origin}'" for origin in MAY_FOLLOW[mark] if origin)
    if "" not in MAY_FOLLOW[mark]:
        sql = f"UPDATE job SET mark = ?, run = ?, forget_at = ?, pgid = ?, stamp = ? WHERE id = ? AND mark IN ({known})"
        return Change(sql, values, touches=1)
    sql = (
        "INSERT INTO job (mark, run, forget_at, pgid, stamp, id) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
        "SET mark = excluded.mark, run = excluded.run, forget_at = excluded.forget_at, pgid = excluded.pgid, "
        f"stamp = excluded.stamp WHERE mark IN ({known})"
    )
    return Change(sql, values, touches=1)


def script(hash: str, source: str, now: datetime) -> Change:
    """Keeps a source; what is needed again counts as used now."""
    sql = (
        "INSERT INTO script (hash, source, used) VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE SET used = excluded.used"
    )
    return Change(sql, (hash, source, now.timestamp()))


def standing(body: bytes) -> Change:
    return Change("INSERT OR REPLACE INTO meta (name, value) VALUES ('standing', ?)", (body,))


def handed(id: str, now: datetime) -> Change:
    """An event of a local service is in the outbox; the same id is not taken twice."""
    return Change("INSERT OR IGNORE INTO handed (id, at) VALUES (?, ?)", (id, now.timestamp()), touches=1)


def set_aside(n: int, reason: str) -> Change:
    return Change("UPDATE outbox SET refused = ? WHERE n = ?", (reason, n))


#: What was set aside is sent again.
TAKE_BACK = Change("UPDATE outbox SET refused = NULL WHERE refused IS NOT NULL", ())


def confirmed(n: int, *, blobs: bool) -> tuple[Change, ...]:
    """The row leaves the outbox, and with it, if it has `blobs`, those that no other row names."""
    row = Change("DELETE FROM outbox WHERE n = ?", (n,))
    if not blobs:
        return (row,)
    return (
        row,
        Change(
            "DELETE FROM blob WHERE sha256 IN (SELECT sha256 FROM outbox_blob WHERE n = ?) AND "
            "sha256 NOT IN (SELECT sha256 FROM outbox_blob WHERE n != ?)",
            (n, n),
        ),
        Change("DELETE FROM outbox_blob WHERE n = ?", (n,)),
    )


def forgotten(now: datetime) -> tuple[Change, ...]:
    """What nobody will ask for any more. A script that an accepted job needs stays, however old."""
    return (
        Change("DELETE FROM job WHERE mark IN ('done', 'expired') AND forget_at < ?", (now.timestamp(),)),
        Change("DELETE FROM handed WHERE at < ?", ((now - REMEMBER_HANDED).timestamp(),)),
        Change(
            "DELETE FROM script WHERE hash NOT IN (SELECT hash FROM script ORDER BY used DESC LIMIT ?) AND "
            "hash NOT IN (SELECT json_extract(CAST(run AS TEXT), '$.order.hash') FROM job WHERE mark = 'accepted')",
            (KEPT_SCRIPTS,),
        ),
    )
