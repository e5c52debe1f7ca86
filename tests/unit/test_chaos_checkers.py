"""Every checker of the fault suite can fail: a good history passes them all, and one error planted in it is found."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.chaos.checkers import CHECKERS, check, look, recovered
from tests.chaos.history import History, Raw, Told, Watched

CONNECTED = {"node": "n1", "boot": "start-1", "journal": "j"}


class Log:
    """Writes a log record by record, as broker users do."""

    def __init__(self) -> None:
        self.records: list[Raw] = []
        self.token: str | None = None
        self._seq = 0

    def say(self, user: str, type: str, data: Any, **more: Any) -> Raw:
        offset = len(self.records)
        body = {"id": more.pop("id", f"id-{offset}"), "type": type, "data": data, **more}
        self.records.append(Raw(offset, user, type, msgspec.json.encode(body)))
        return self.records[-1]

    def take(self, token: str) -> None:
        data = {"seat": "fleet", "previous": self.token, "holder": "h:1"}
        self.say("handlers", "event.seat.taken", data, id=token)
        self.token = token

    def seat(self, type: str, data: Any, **more: Any) -> Raw:
        return self.say("handlers", type, data, **{"seattoken": self.token, **more})

    def agent(self, type: str, data: Any, node: str = "n1", **more: Any) -> Raw:
        self._seq += 1
        counted = {"producer": "start-1", "seq": self._seq, **more}
        return self.say(f"node.{node}", type, {"node": node, **data}, **counted)

    def submit(self, job: str) -> None:
        self.say("portal", "command.job.submit", {}, id=job)

    def queue(self, job: str, **more: Any) -> None:
        self.seat("event.job.queued", {"job": job, "node": "n1"}, **{"causationid": job, **more})

    def start(self, job: str, **more: Any) -> None:
        self.agent("event.job.started", {"job": job}, **more)

    def finish(self, job: str, **more: Any) -> None:
        self.agent("event.job.finished", {"job": job, "outcome": "succeeded"}, **more)


def begun() -> Log:
    log = Log()
    log.take("token-1")
    log.agent("event.node.connected", CONNECTED)
    return log


def whole(log: Log, job: str) -> None:
    log.submit(job)
    log.queue(job)
    log.start(job)
    log.finish(job)


def history_of(log: Log, *jobs: str) -> History:
    """Everybody was told the truth, and everything agrees with the log."""
    return History(
        told=[Told(id=job, type="command.job.submit", via="bus", answer="confirmed", tries=1) for job in jobs],
        records=log.records,
        marks=dict.fromkeys(jobs, 1),
        documents=dict.fromkeys(jobs, ("succeeded", "n1")),
        answers=dict.fromkeys(jobs[:1], ("succeeded", "n1")),
        outcomes=dict.fromkeys(jobs, "accepted"),
        nodes={"n1": "online"},
        watched=[Watched(raw.offset + 1, msgspec.json.decode(raw.body)["id"]) for raw in log.records],
    )


def good() -> History:
    log = begun()
    whole(log, "j1")
    whole(log, "j2")
    return history_of(log, "j1", "j2")


def complaints(history: History) -> dict[str, list[str]]:
    return {name: found for name, found in check(look(history)).items() if found}


def test_a_good_history_passes_all_checkers() -> None:
    assert complaints(good()) == {}


def test_what_is_sent_again_or_said_without_the_seat_does_not_count() -> None:
    log = begun()
    whole(log, "j1")
    log.submit("j1")
    log.finish("j1", seq=3)
    log.seat("event.job.lost", {"job": "j1", "node": "n1"}, seattoken="of a zombie")
    log.say("handlers", "event.seat.taken", {"previous": "of a zombie", "holder": "h:2"})
    history = history_of(log, "j1")
    history.watched = history.watched[:6]
    assert complaints(history) == {}


def test_the_agents_own_word_may_follow_what_was_inferred() -> None:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.start("j1")
    log.seat("event.job.lost", {"job": "j1", "node": "n1"})
    log.finish("j1")
    assert complaints(history_of(log, "j1")) == {}


def test_a_command_of_unknown_fate_that_is_in_the_log_is_recovered() -> None:
    history = good()
    history.told[0].answer = "unknown"
    history.told.append(Told(id="nowhere", type="command.job.submit", via="http"))
    assert recovered(look(history)) == 1
    assert complaints(history) == {}


# one error each


def lose_a_confirmed_command() -> History:
    history = good()
    history.told.append(Told(id="j3", type="command.job.submit", via="bus", answer="confirmed"))
    return history


def lose_a_fact_of_an_agent() -> History:
    log = begun()
    log._seq += 1
    whole(log, "j1")
    return history_of(log, "j1")


def lose_the_start_of_a_job_that_ran() -> History:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.finish("j1")
    return history_of(log, "j1")


def lose_an_effect() -> History:
    history = good()
    del history.marks["j2"]
    return history


def queue_a_job_twice() -> History:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.queue("j1", causationid="something else")
    log.start("j1")
    log.finish("j1")
    return history_of(log, "j1")


def start_a_job_twice() -> History:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.start("j1")
    log.start("j1")
    log.finish("j1")
    return history_of(log, "j1")


def run_an_effect_twice() -> History:
    history = good()
    history.marks["j1"] = 2
    return history


def leave_a_job_without_an_end() -> History:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.start("j1")
    history = history_of(log, "j1")
    history.documents = history.answers = {"j1": ("started", "n1")}
    return history


def end_a_job_twice() -> History:
    log = begun()
    whole(log, "j1")
    log.finish("j1")
    return history_of(log, "j1")


def infer_an_end_after_the_end() -> History:
    log = begun()
    whole(log, "j1")
    log.seat("event.job.expired", {"job": "j1", "reason": ""})
    return history_of(log, "j1")


def decide_a_command_twice() -> History:
    log = begun()
    whole(log, "j1")
    log.seat("event.command.rejected", {"command": "j1"}, causationid="j1")
    return history_of(log, "j1")


def leave_a_command_undecided() -> History:
    log = begun()
    log.submit("j1")
    history = history_of(log, "j1")
    history.marks, history.documents, history.answers, history.outcomes = {}, {}, {}, {}
    return history


def finish_before_the_start() -> History:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.finish("j1")
    log.start("j1")
    return history_of(log, "j1")


def count_out_of_order() -> History:
    log = begun()
    log.submit("j1")
    log.queue("j1")
    log.start("j1", seq=3)
    log.finish("j1", seq=2)
    return history_of(log, "j1")


def let_another_node_speak() -> History:
    log = begun()
    whole(log, "j1")
    log.say("node.n2", "event.job.started", {"job": "j1", "node": "n2"}, producer="start-9", seq=1)
    return history_of(log, "j1")


def write_garbage() -> History:
    history = good()
    history.records.append(Raw(len(history.records), "node.n1", "event.job.started", b"\xff"))
    return history


def show_another_state() -> History:
    history = good()
    history.documents["j1"] = ("failed", "n1")
    return history


def show_a_job_that_is_not() -> History:
    history = good()
    history.documents["j9"] = ("succeeded", "n1")
    return history


def answer_with_another_state() -> History:
    history = good()
    history.answers["j1"] = ("started", "n1")
    return history


def show_another_outcome() -> History:
    history = good()
    history.outcomes["j1"] = "rejected"
    return history


def show_a_node_that_is_gone() -> History:
    history = good()
    history.nodes["n1"] = "offline"
    return history


def leave_out_of_the_stream() -> History:
    history = good()
    del history.watched[3]
    return history


def stream_twice() -> History:
    history = good()
    history.watched.insert(4, history.watched[3])
    return history


def stay_ill() -> History:
    history = good()
    history.sick.append("the portal does not answer")
    return history


PLANTED: list[tuple[str, Callable[[], History]]] = [
    ("lost", lose_a_confirmed_command),
    ("lost", lose_a_fact_of_an_agent),
    ("lost", lose_the_start_of_a_job_that_ran),
    ("lost", lose_an_effect),
    ("duplicated", queue_a_job_twice),
    ("duplicated", start_a_job_twice),
    ("effects twice", run_an_effect_twice),
    ("no end", leave_a_job_without_an_end),
    ("more ends", end_a_job_twice),
    ("more ends", infer_an_end_after_the_end),
    ("outcomes", decide_a_command_twice),
    ("outcomes", leave_a_command_undecided),
    ("reordered", finish_before_the_start),
    ("reordered", count_out_of_order),
    ("reordered", let_another_node_speak),
    ("unreadable", write_garbage),
    ("views", show_another_state),
    ("views", show_a_job_that_is_not),
    ("views", answer_with_another_state),
    ("views", show_another_outcome),
    ("views", show_a_node_that_is_gone),
    ("watched", leave_out_of_the_stream),
    ("watched", stream_twice),
    ("unwell", stay_ill),
]


@pytest.mark.parametrize(("checker", "plant"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_error_is_found(checker: str, plant: Callable[[], History]) -> None:
    assert checker in complaints(plant())


def test_every_checker_has_an_error_that_it_finds() -> None:
    assert {checker for checker, _ in PLANTED} == set(CHECKERS)
