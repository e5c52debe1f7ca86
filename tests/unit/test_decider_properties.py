"""Whatever people command, agents say and clocks bring about: the books are right after every step."""

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from events.job import CancelJob, RetryJob, Rollout, Target
from events.node import RemoveNode, SetMaintenance, SetRoles
from handlers.decider import evolve
from handlers.fleet import UNFINISHED, Fleet
from tests.unit.world import World

NODES = ("n1", "n2", "n3")
nodes = st.sampled_from(NODES)
targets = st.one_of(
    st.builds(Target, node=nodes),
    st.builds(Target, nodes=st.lists(nodes, min_size=1, max_size=3).map(tuple)),
    st.builds(Target, role=st.sampled_from(["cpu", "app", "gpu"]), all=st.booleans()),
    st.just(Target(all=True)),
)
rollouts = st.none() | st.builds(Rollout, size=st.integers(1, 2), max_failures=st.none() | st.integers(0, 1))
outcomes = st.sampled_from(["succeeded", "failed", "timed_out", "cancelled"])

ENDS = {"event.job.finished", "event.job.expired", "event.job.lost"}


class FleetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.script("echo", retries=1)
        for node in NODES[:2]:
            self.world.node(node, "cpu")

    def some_job(self, data: st.DataObject, *, ended: bool = False) -> str:
        known = self.world.fleet.ended.items if ended else self.world.fleet.jobs
        return data.draw(st.sampled_from(sorted(known)))

    @rule(target_=targets, rollout=rollouts)
    def submit(self, target_: Target, rollout: Rollout | None) -> None:
        self.world.submit(target=target_, rollout=rollout)

    @rule(node=nodes, role=st.sampled_from(["cpu", "app"]), journal=st.sampled_from(["a", "b"]))
    def connect(self, node: str, role: str, journal: str) -> None:
        self.world.node(node, role, journal=journal)

    @rule(node=nodes)
    def lose_sight(self, node: str) -> None:
        self.world.lose_sight(node)

    @rule(node=nodes, on=st.booleans())
    def maintain(self, node: str, on: bool) -> None:
        self.world.command("command.node.maintenance", SetMaintenance(node=node, on=on))

    @rule(node=nodes, roles=st.lists(st.sampled_from(["cpu", "app"]), max_size=2).map(tuple))
    def set_roles(self, node: str, roles: tuple[str, ...]) -> None:
        self.world.command("command.node.roles", SetRoles(node=node, roles=roles))

    @rule(node=st.just("n3"))
    def remove(self, node: str) -> None:
        self.world.command("command.node.remove", RemoveNode(node=node))

    @precondition(lambda self: len(self.world.fleet.jobs) > 0)
    @rule(data=st.data(), node=nodes)
    def start(self, data: Any, node: str) -> None:
        self.world.start(self.some_job(data), node)

    @precondition(lambda self: len(self.world.fleet.jobs) > 0)
    @rule(data=st.data(), outcome=outcomes)
    def finish(self, data: Any, outcome: str) -> None:
        self.world.finish(self.some_job(data), outcome)

    @precondition(lambda self: len(self.world.fleet.ended.items) > 0)
    @rule(data=st.data(), outcome=outcomes)
    def finish_late(self, data: Any, outcome: str) -> None:
        self.world.finish(self.some_job(data, ended=True), outcome)

    @precondition(lambda self: len(self.world.fleet.jobs) > 0)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        self.world.command("command.job.cancel", CancelJob(job=self.some_job(data)))

    @precondition(lambda self: len(self.world.fleet.ended.items) > 0)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        self.world.command("command.job.retry", RetryJob(job=self.some_job(data, ended=True)))

    @rule(seconds=st.sampled_from([1, 130, 3700]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds=seconds)

    @precondition(lambda self: len(self.world.log) > 0)
    @rule(data=st.data())
    def repeat_a_command(self, data: Any) -> None:
        commands = [event for event in self.world.log if event.is_command]
        self.world.put(data.draw(st.sampled_from(commands)))

    @invariant()
    def every_command_has_one_outcome(self) -> None:
        assert len(self.world.fleet.open_commands) == 0
        commands = {event.id for event in self.world.log if event.is_command}
        outcomes_ = Counter(event.causationid for event in self.world.log if event.causationid in commands)
        assert set(outcomes_) == commands
        assert set(outcomes_.values()) <= {1}

    @invariant()
    def no_fact_of_the_decider_is_said_twice(self) -> None:
        said = Counter(event.id for event in self.world.log if event.actor == "system:fleet")
        assert set(said.values()) <= {1}

    @invariant()
    def nodes_are_as_busy_as_their_jobs_say(self) -> None:
        held = Counter(job.node for job in self.world.fleet.jobs.values() if job.state != "waiting")
        for node in self.world.fleet.nodes.values():
            # a node that joined anew starts at zero, whatever its former self still had
            assert node.unfinished == held[node.id] or node.removed or node.boot is None

    @invariant()
    def indexes_agree_with_the_jobs(self) -> None:
        fleet = self.world.fleet
        assert {job.state for job in fleet.jobs.values()} <= UNFINISHED
        assert not {job.state for job in fleet.ended.items.values()} & UNFINISHED
        alone = {job.id for job in fleet.jobs.values() if job.state == "waiting" and job.order.batch is None}
        assert set(fleet.waiting) == alone
        for batch in fleet.batches.values():
            members = [job for job in fleet.jobs.values() if job.order.batch == batch.id]
            assert len(members) == batch.active + len(batch.waiting)

    @invariant()
    def the_state_is_the_fold_of_the_log(self) -> None:
        fleet = Fleet()
        for offset, event in enumerate(self.world.log):
            fleet = evolve(fleet, event, offset)
        assert fleet == self.world.fleet

    def teardown(self) -> None:
        """Liveness: with all nodes there, and time enough, nothing stays unfinished."""
        for node in NODES:
            self.world.command("command.node.maintenance", SetMaintenance(node=node, on=False))
        for _ in range(4):
            for job in list(self.world.fleet.jobs):
                self.world.finish(job)
            self.world.pass_time(seconds=int(timedelta(hours=2).total_seconds()))
        assert len(self.world.fleet.jobs) == 0


FleetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFleet = FleetMachine.TestCase
