"""The agent while bus or disk fail: nothing is lost, nothing is said twice, nothing begins that is not written down."""

import resource
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from bus.embedded import EmbeddedBus
from bus.errors import NotConfirmed, Refused
from bus.ports import Message
from nodeagent import journal as journal_module
from nodeagent import outbox as outbox_module
from nodeagent.journal import Journal
from nodeagent.wiring import FAILED
from tests.agents import SOON, AgentProcess, AgentThread, Player
from tests.jobscripts import ANSWER, EMPTY, LARGE, MARK, MARK_AND_WAIT, PRINT
from tests.waiting import wait_until

StartAgent = Callable[..., AgentThread]
StartProcess = Callable[[], AgentProcess]


class DifficultBus(EmbeddedBus):
    """The embedded bus, which fails as a broker may: it refuses keys, and does not confirm what it has taken."""

    def __init__(self, folder: Path, user: str) -> None:
        super().__init__(folder, user)
        self.refuses = ""
        self.swallow_confirmations = 0
        self.lose_blobs = 0
        self.order: list[str] = []
        self._turn = threading.Lock()

    def publish(self, message: Message) -> Future[None]:
        answer: Future[None] = Future()
        if self.refuses and message.key.startswith(self.refuses):
            answer.set_exception(Refused("access refused"))
            return answer
        if self.lose_blobs and message.key.startswith("blob."):
            self.lose_blobs -= 1
            answer.set_exception(NotConfirmed("the connection broke"))
            return answer
        if not message.key.startswith("telemetry"):
            self.order.append(message.key)
        published = super().publish(message)
        with self._turn:
            if self.swallow_confirmations and message.key.startswith("event.job"):
                self.swallow_confirmations -= 1
                published.add_done_callback(lambda _: answer.set_exception(NotConfirmed("the connection broke")))
                return answer
        return published


@pytest.fixture
def difficult(player: Player) -> DifficultBus:
    return DifficultBus(player.folder, "node.n1")


def seen(marks: Path) -> list[str]:
    return marks.read_text().split()


# the bus


def test_while_nothing_is_confirmed_jobs_run_on_and_their_facts_arrive_later_each_once(
    player: Player, agent: AgentThread, marks: Path
) -> None:
    player.break_log()
    jobs = [player.run(MARK, {"path": str(marks), "text": f"job{n}"}) for n in range(30)]
    wait_until(lambda: len(seen(marks)) == 30, deadline=SOON, what="the jobs to run")
    wait_until(lambda: set(agent.marks().values()) == {"done"}, deadline=SOON, what="the jobs to end")
    player.mend_log()
    player.all_finished(jobs)
    own = [event for event in player.facts() if event.producer]
    # what was on its way when the bus came back may be before what had failed by then
    assert sorted(event.seq or 0 for event in own) == list(range(1, len(own) + 1))
    assert player.gaps() == []


def test_what_was_taken_but_not_confirmed_is_said_again_and_counts_once(
    player: Player, start_agent: StartAgent, difficult: DifficultBus
) -> None:
    difficult.swallow_confirmations = 7
    start_agent(bus=difficult)
    player.connected()
    jobs = [player.run(EMPTY) for _ in range(20)]
    player.all_finished(jobs)
    wait_until(lambda: difficult.swallow_confirmations == 0, deadline=SOON, what="the failures to have happened")
    player.finished(player.run(EMPTY))
    assert len(player.verdicts()) > len(player.facts())
    assert player.gaps() == []
    assert player.bad() == []


def test_what_is_refused_is_set_aside_and_holds_nothing_up(
    player: Player, start_agent: StartAgent, difficult: DifficultBus, capsys: pytest.CaptureFixture[str]
) -> None:
    difficult.refuses = "event.job.started"
    agent = start_agent(bus=difficult)
    player.connected()
    jobs = [player.run(EMPTY) for _ in range(5)]
    player.all_finished(jobs)
    assert player.facts("job.started") == []
    agent.stop()
    assert capsys.readouterr().out.count("outbox.refused") == 5
    start_agent()  # allowed by now
    started = wait_until(lambda: player.facts("job.started")[4:], deadline=SOON, what="the facts that were set aside")
    assert started
    assert player.gaps() == []


def test_what_is_set_aside_is_tried_again_when_some_time_has_passed(
    player: Player, start_agent: StartAgent, difficult: DifficultBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "REFUSED_PAUSE", 1.0)
    difficult.refuses = "blob."
    start_agent(bus=difficult)
    player.connected()
    jobs = [player.run(PRINT, {"lines": n + 1}) for n in range(3)]
    player.finished(player.run(EMPTY))
    assert player.facts("job.finished", jobs[0]) == []
    difficult.refuses = ""
    player.all_finished(jobs)
    assert player.gaps() == []


def test_a_fact_whose_blob_is_refused_is_set_aside_and_holds_nothing_up(
    player: Player, start_agent: StartAgent, difficult: DifficultBus
) -> None:
    difficult.refuses = "blob."
    start_agent(bus=difficult)
    player.connected()
    printing = player.run(PRINT, {"lines": 1})
    assert player.finished(player.run(EMPTY)).data.outcome == "succeeded"
    assert player.facts("job.finished", printing) == []


def test_blobs_go_before_the_fact_that_names_them(
    player: Player, start_agent: StartAgent, difficult: DifficultBus
) -> None:
    start_agent(bus=difficult)
    player.connected()
    end = player.finished(player.run(LARGE, {"size": 600_000})).data
    first = difficult.order.index(f"blob.{end.result_blob}.0.3")
    assert difficult.order[first : first + 3] == [f"blob.{end.result_blob}.{n}.3" for n in range(3)]
    assert difficult.order[first + 3] == "event.job.finished.node.n1"


def test_a_fact_does_not_go_before_its_blob_is_confirmed(
    player: Player, start_agent: StartAgent, difficult: DifficultBus
) -> None:
    difficult.lose_blobs = 4
    start_agent(bus=difficult)
    player.connected()
    end = player.finished(player.run(LARGE, {"size": 600_000})).data
    last = max(difficult.order.index(f"blob.{end.result_blob}.{n}.3") for n in range(3))
    assert difficult.order.index("event.job.finished.node.n1") > last


def test_a_full_outbox_takes_no_new_work_and_loses_nothing(
    player: Player,
    start_agent: StartAgent,
    marks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(journal_module, "MAX_ROWS", 10)
    agent = start_agent()
    player.connected()
    gate = marks.with_name("gate")
    waits = {"path": str(marks), "until": str(gate)}
    first = [player.run(MARK_AND_WAIT, {**waits, "text": f"first{n}"}) for n in range(10)]
    # all of them are taken before there is anything to be said
    wait_until(lambda: len(agent.marks()) == 10, deadline=SOON, what="the jobs to be accepted")
    wait_until(lambda: player.inbox_size() == 0, deadline=SOON, what="the deliveries to be acknowledged")
    player.break_log()
    gate.touch()
    wait_until(lambda: len(seen(marks)) == 10, deadline=SOON, what="the jobs to run")
    wait_until(lambda: "agent.full" in capsys.readouterr().out, deadline=SOON, what="the agent to say that it is full")
    second = [player.run(MARK, {"path": str(marks), "text": f"second{n}"}) for n in range(10)]
    beats = len(player.telemetry("heartbeat"))
    wait_until(lambda: len(player.telemetry("heartbeat")) > beats + 1, deadline=SOON, what="some time to pass")
    assert player.inbox_size() == 10
    assert len(seen(marks)) == 10
    player.mend_log()
    player.all_finished(first + second)
    assert len(seen(marks)) == 20
    assert player.gaps() == []


# the disk


def give_room(agent: AgentProcess, *, room: bool) -> None:
    """With no room, every write to a file fails; as on a full disk."""
    soft = resource.RLIM_INFINITY if room else 0
    psutil.Process(agent.process.pid).rlimit(psutil.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_while_the_disk_is_full_no_job_begins_or_is_acknowledged_and_then_all_go_on(
    player: Player, start_process: StartProcess, marks: Path, tmp_path: Path
) -> None:
    agent = start_process()
    player.connected()
    gate = tmp_path / "gate"
    held = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "held", "until": str(gate)})
    wait_until(lambda: seen(marks), deadline=SOON, what="the job to run")
    waiting = player.run(MARK_AND_WAIT, {"path": str(marks), "text": "waiting", "until": str(gate)})
    wait_until(lambda: agent.marks().get(waiting) == "accepted", deadline=SOON, what="the job to be accepted")
    wait_until(lambda: player.inbox_size() == 0, deadline=SOON, what="the deliveries to be acknowledged")

    give_room(agent, room=False)
    new = player.run(MARK, {"path": str(marks), "text": "new"})
    gate.touch()
    wait_until(lambda: agent.has_said("journal.trouble"), deadline=SOON, what="the agent to say what is wrong")
    # `held` has ended by now and `waiting` has its worker: what is not written down must not begin
    wait_until(lambda: not is_alive_in(held), deadline=SOON, what="the first job's process to end")
    assert seen(marks) == ["held"]
    assert player.inbox_size() == 1
    assert agent.process.poll() is None

    give_room(agent, room=True)
    wait_until(lambda: agent.has_said("journal.well"), deadline=SOON, what="the agent to say that all is well")
    ends = player.all_finished([held, waiting, new])
    assert {end.data.outcome for end in ends.values()} == {"succeeded"}
    assert sorted(seen(marks)) == ["held", "new", "waiting"]
    assert agent.stop() == 0


def is_alive_in(job: str) -> bool:
    """Whether a process of the job is there."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLEETBUS_JOB_ID") == job:
                return True
        except psutil.Error:
            continue
    return False


def test_a_journal_with_a_long_past_is_cleaned_and_goes_on(player: Player, agent: AgentThread) -> None:
    player.all_finished([player.run(ANSWER, {"text": str(n)}) for n in range(50)])
    assert set(agent.marks().values()) == {"done"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_agent_whose_journal_dies_while_a_delivery_waits_for_it_ends(
    player: Player, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(journal: Journal, batch: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Journal, "_commit", fail)
    player.run(EMPTY)
    assert agent.wait() == FAILED
