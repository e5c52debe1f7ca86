"""What the log says so far, judged as it comes: cheap enough to be asked again and again."""

from tests.chaos import model
from tests.chaos.checkers import OUTCOMES
from tests.chaos.log import LogReader
from tests.chaos.referee import Fact, Referee


class Observer:
    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._referee = Referee()
        self.facts: list[Fact] = []
        self.fleet = model.Fleet()
        #: Command -> its first outcome.
        self.outcomes: dict[str, str] = {}
        #: Agent's start -> the highest count, and how many counted.
        self._counts: dict[str, tuple[int, int]] = {}

    @property
    def holder(self) -> str:
        """Who has the seat: `host:process id`."""
        return self._referee.holder

    @property
    def last(self) -> int:
        """The offset of the last record that counts."""
        return next((fact.offset for fact in reversed(self.facts) if fact.verdict == "counts"), -1)

    @property
    def next_offset(self) -> int:
        return self.facts[-1].offset + 1 if self.facts else 0

    def look(self) -> None:
        """Takes in what came since."""
        for raw in self._log.records[len(self.facts) :]:
            fact = self._referee.judge(raw)
            self.facts.append(fact)
            if fact.verdict == "counts":
                self._note(fact)

    def _note(self, fact: Fact) -> None:
        model.step(self.fleet, fact)
        if fact.type in OUTCOMES and fact.cause:
            self.outcomes.setdefault(fact.cause, fact.type)
        if fact.producer:
            high, number = self._counts.get(fact.producer, (0, 0))
            self._counts[fact.producer] = (max(high, fact.seq), number + 1)

    def undone(self, commands: set[str], since: int) -> list[str]:
        """What is still to come, in words; nothing when all is over."""
        waiting = [f"the outcome of {id}" for id in commands if id not in self.outcomes]
        waiting += [f"the end of job {job.id}" for job in self.fleet.since(since) if not job.ends]
        waiting += [f"what start {start} counted" for start, (high, n) in self._counts.items() if high != n]
        return waiting + [f"node {node}" for node, state in self.fleet.nodes.items() if state != "online"]
