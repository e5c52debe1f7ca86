"""The checkers: each looks at a history in one way, and says what is wrong with it, in sentences.

They use neither the folds nor the admission of fleetbus: who counts is decided by `referee`, what became of it by
`model`. `tests/unit/test_chaos_checkers.py` plants one error for each of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from msgspec import Struct

from tests.chaos import model
from tests.chaos.history import History
from tests.chaos.referee import Fact, judge

#: What a command comes to, by its type: exactly one of these facts names it as its cause.
OUTCOMES = frozenset(
    {
        *("event.job.queued", "event.job.waiting", "event.batch.created", "event.command.rejected"),
        *("event.job.cancel_requested", "event.script.published", "event.node.maintenance_set"),
    }
)


class Seen(Struct, frozen=True):
    """A history with what the referee and the model make of it."""

    history: History
    facts: list[Fact]
    fleet: model.Fleet
    #: The offset from which on jobs and commands are this run's.
    since: int

    @property
    def jobs(self) -> list[model.Job]:
        return self.fleet.since(self.since)

    @property
    def valid(self) -> list[Fact]:
        return [fact for fact in self.facts if fact.verdict == "counts" and fact.offset >= self.since]


def look(history: History, since: int = 0) -> Seen:
    """A whole history, from its first record on."""
    judged = judge(history.records)
    return Seen(history, judged, model.follow(judged), since)


def lost(seen: Seen) -> Iterable[str]:
    """What was confirmed and is not in the log; what an agent counted and nobody has; effects nobody speaks of."""
    there = {(fact.user, fact.id) for fact in seen.facts if fact.verdict != "bad"}
    for told in seen.history.told:
        if told.answer == "confirmed" and ("portal", told.id) not in there:
            yield f"{told.type} {told.id} was confirmed to a writer ({told.via}) and is not in the log"
    for (user, producer), counts in _counts(seen.facts).items():
        if missing := sorted(set(range(1, max(counts) + 1)) - set(counts)):
            yield f"{user} (start {producer}) counted to {max(counts)}, and the log lacks {missing[:10]}"
    for job in seen.jobs:
        if job.id in seen.history.marks and not job.started:
            yield f"job {job.id} had its effect, and the log has no event.job.started of it"
        if job.state == "succeeded" and job.id not in seen.history.marks:
            yield f"job {job.id} succeeded by the log, and had no effect"


def _counts(facts: Iterable[Fact]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for fact in facts:
        if fact.producer and fact.verdict == "counts":
            found.setdefault((fact.user, fact.producer), []).append(fact.seq)
    return found


def outcomes(seen: Seen) -> Iterable[str]:
    """A confirmed command has exactly one outcome; one that nobody was told of has at most one."""
    count = Counter(fact.cause for fact in seen.valid if fact.type in OUTCOMES)
    for told in seen.history.told:
        if count[told.id] > 1:
            yield f"{told.type} {told.id} has {count[told.id]} outcomes"
        if told.answer == "confirmed" and not count[told.id]:
            yield f"{told.type} {told.id} was confirmed and has no outcome"


def duplicated(seen: Seen) -> Iterable[str]:
    """The same fact of a job counts once, under whatever ids it came."""
    for job in seen.jobs:
        for what, offsets in (("queued", job.queued), ("started", job.started)):
            if len(offsets) > 1:
                yield f"job {job.id} was {what} {len(offsets)} times, at offsets {offsets}"
    ids = Counter(fact.id for fact in seen.valid)
    for id, times in ids.items():
        if times > 1:
            yield f"the event {id} counts {times} times"


def effects(seen: Seen) -> Iterable[str]:
    for job, times in seen.history.marks.items():
        if times > 1:
            yield f"job {job} had its effect {times} times"


def endless(seen: Seen) -> Iterable[str]:
    for job in seen.jobs:
        if not job.ends:
            yield f"job {job.id} on {job.node} has no end: it is {job.state}"


def ends(seen: Seen) -> Iterable[str]:
    for job in seen.jobs:
        if job.too_many_ends:
            yield f"job {job.id} ended more than once: {', '.join(f'{word} at {at}' for at, word in job.ends)}"


def reordered(seen: Seen) -> Iterable[str]:
    """Asked, queued, started, finished, in this order; by the node that the seat named; an agent counts upward."""
    for job in seen.jobs:
        finished = [at for at, word in job.ends if word not in model.INFERRED]
        steps = [*job.queued[:1], *job.started[:1], *finished[:1]]
        if steps != sorted(steps) or (job.started and not job.queued):
            yield f"the facts of job {job.id} are out of order: {job.queued} {job.started} {job.ends}"
        if job.strangers:
            yield f"job {job.id} of {job.node} is spoken of by another node at offsets {job.strangers}"
    for (user, producer), counts in _counts(seen.facts).items():
        if counts != sorted(counts):
            yield f"{user} (start {producer}) is not in its own order"


def bad(seen: Seen) -> Iterable[str]:
    """Nobody in these runs says anything that cannot be read."""
    for fact in seen.facts:
        if fact.verdict == "bad" and fact.offset >= seen.since:
            yield f"the record at offset {fact.offset} by {fact.user} cannot be read"


def views(seen: Seen) -> Iterable[str]:
    """Documents and portal say what the log says."""
    expected = {job.id: (job.state, job.node) for job in seen.jobs}
    yield from _compare("documents", expected, seen.history.documents)
    yield from _compare("portal", {job: expected.get(job) for job in seen.history.answers}, seen.history.answers)
    told = {told.id for told in seen.history.told}
    count = {fact.cause: fact.type for fact in seen.valid if fact.type in OUTCOMES and fact.cause in told}
    words = {id: "rejected" if type == "event.command.rejected" else "accepted" for id, type in count.items()}
    yield from _compare("commands", words, seen.history.outcomes)
    yield from _compare("nodes", {node: seen.fleet.nodes.get(node) for node in seen.history.nodes}, seen.history.nodes)


def _compare(name: str, expected: Mapping[str, object], found: Mapping[str, object]) -> Iterable[str]:
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            yield f"{name}: {key} is {found.get(key)}, by the log it is {expected.get(key)}"


def watched(seen: Seen) -> Iterable[str]:
    """Who follows the portal's stream over all its ends gets every event that counts, once and in order."""
    places = [one.place for one in seen.history.watched]
    if not places:
        return
    for earlier, later in pairwise(places):
        if later <= earlier:
            yield f"the stream came out of order, or something came twice: {later} after {earlier}"
    due = {fact.id for fact in seen.facts if fact.verdict == "counts" and places[0] <= fact.offset + 1 <= places[-1]}
    given = {one.id for one in seen.history.watched}
    if due != given:
        yield f"the stream left out {sorted(due - given)[:5]} and invented {sorted(given - due)[:5]}"


def unwell(seen: Seen) -> Iterable[str]:
    yield from seen.history.sick


#: Column of the table -> who fills it.
CHECKERS: dict[str, Callable[[Seen], Iterable[str]]] = {
    "lost": lost,
    "duplicated": duplicated,
    "reordered": reordered,
    "effects twice": effects,
    "no end": endless,
    "more ends": ends,
    "outcomes": outcomes,
    "unreadable": bad,
    "views": views,
    "watched": watched,
    "unwell": unwell,
}


def check(seen: Seen) -> dict[str, list[str]]:
    """What every checker says."""
    return {name: list(checker(seen)) for name, checker in CHECKERS.items()}


def recovered(seen: Seen) -> int:
    """Commands whose writer was never told, and which are in the log all the same."""
    there = {fact.id for fact in seen.facts if fact.user == "portal"}
    return sum(told.answer == "unknown" and told.id in there for told in seen.history.told)
