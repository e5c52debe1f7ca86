"""Given a fleet, when somebody commands or time passes, then exactly this is said."""

from datetime import timedelta

import pytest

from events.job import CancelJob, RetryJob, Rollout, Target
from events.node import InviteNode, JoinNode, RemoveNode, SetMaintenance, SetRoles
from events.script import RetireScript
from handlers.deliveries import parcels, resend
from tests.unit.world import World, uid


@pytest.fixture
def world() -> World:
    world = World()
    world.script("echo")
    world.node("n1", "cpu.kvm")
    world.node("n2", "cpu")
    world.node("n3", "app")
    return world


# where a job goes


def test_a_job_for_a_role_goes_to_the_least_busy_node_of_it(world: World) -> None:
    nodes = [world.submit().data.node for _ in range(4)]
    assert nodes == ["n1", "n2", "n1", "n2"]


def test_a_job_is_addressed_by_the_role_that_the_node_holds(world: World) -> None:
    assert world.submit().data.via == "cpu.kvm"
    assert world.submit(target=Target(node="n3")).data.via == "node"


@pytest.mark.parametrize(
    ("target", "reason", "exists"),
    [
        (Target(node="n9"), "unknown_node", ("n1", "n2", "n3")),
        (Target(nodes=("n1", "n9")), "unknown_node", ("n1", "n2", "n3")),
        (Target(role="gpu"), "unknown_role", ("app", "cpu", "cpu.kvm")),
        (Target(), "bad_target", ()),
        (Target(node="n1", role="cpu"), "bad_target", ()),
    ],
)
def test_a_target_that_is_not_there_is_rejected_with_what_exists(
    world: World, target: Target, reason: str, exists: tuple[str, ...]
) -> None:
    outcome = world.submit(target=target)
    assert outcome.type == "event.command.rejected"
    assert (outcome.data.reason, outcome.data.exists) == (reason, exists)


def test_an_unknown_script_is_rejected_with_what_exists(world: World) -> None:
    outcome = world.submit("eco")
    assert (outcome.data.reason, outcome.data.exists) == ("unknown_script", ("echo",))


def test_a_retired_script_runs_no_more(world: World) -> None:
    world.command("command.script.retire", RetireScript(name="echo"))
    assert world.submit().data.reason == "unknown_script"


def test_unknown_and_missing_parameters_are_rejected_by_name(world: World) -> None:
    world.script("strict", source="def action(path: str, depth: int = 1):\n    pass\n")
    assert world.submit("strict", params={"path": "/", "dept": 2}).data.field == "params.dept"
    assert world.submit("strict").data.field == "params.path"
    assert world.submit("strict", params={"path": "/", "depth": "deep"}).data.field == "params.depth"
    assert world.submit("strict", params={"path": "/"}).type == "event.job.queued"


def test_a_script_runs_only_where_its_header_lets_it(world: World) -> None:
    world.script("hyper", roles=["cpu.kvm"])
    assert [world.submit("hyper").data.node for _ in range(2)] == ["n1", "n1"]
    assert world.submit("hyper", target=Target(node="n3")).data.reason == "not_allowed"


def test_a_script_that_needs_a_capability_is_refused_where_it_is_not_allowed(world: World) -> None:
    world.script("shell", requires=["shell"])
    refused = world.submit("shell", target=Target(node="n1"))
    assert refused.data.reason == "not_allowed"
    assert "--allow shell" in refused.data.message
    world.node("n1", "cpu", allows=("shell",))
    assert world.submit("shell", target=Target(node="n1")).type == "event.job.queued"


# waiting


def test_a_job_waits_while_no_node_can_take_it_and_says_why(world: World) -> None:
    world.lose_sight("n1", "n2")
    waiting = world.submit()
    assert waiting.type == "event.job.waiting"
    assert "n1 is offline" in waiting.data.reason
    assert world.submit().data.place == 2
    world.node("n2", "cpu")
    assert world.state(waiting.data.job) == "queued"


def test_a_node_in_maintenance_gets_no_new_jobs(world: World) -> None:
    world.command("command.node.maintenance", SetMaintenance(node="n1", on=True))
    assert [world.submit().data.node for _ in range(2)] == ["n2", "n2"]


def test_a_waiting_job_expires_at_its_start_by_and_a_queued_one_a_minute_later(world: World) -> None:
    world.lose_sight("n1", "n2")
    waiting = world.submit(start_within=10).data.job
    queued = world.submit(target=Target(node="n3"), start_within=10).data.job
    assert [event.type for event in world.pass_time(seconds=11)] == ["event.job.expired"]
    assert (world.state(waiting), world.state(queued)) == ("expired", "queued")
    world.pass_time(seconds=60)
    assert world.state(queued) == "expired"


# the end of a job


def test_the_first_end_stands_except_that_finished_replaces_what_was_inferred(world: World) -> None:
    job = world.submit(target=Target(node="n3")).data.job
    world.start(job)
    world.lose_sight("n3")
    assert world.pass_time(seconds=119) == []
    assert [event.type for event in world.pass_time(seconds=2)] == ["event.job.lost"]
    world.finish(job, "failed")
    assert world.state(job) == "failed"
    world.finish(job, "succeeded")
    assert world.state(job) == "failed"


def test_nothing_is_lost_while_nobody_knows_who_is_there(world: World) -> None:
    job = world.submit(target=Target(node="n3")).data.job
    world.start(job)
    world.lose_sight("n3")
    assert world.pass_time(presence_known=False, seconds=500) == []


def test_a_node_that_comes_back_without_its_journal_never_runs_its_jobs_again(world: World) -> None:
    job = world.submit(target=Target(node="n3")).data.job
    world.node("n3", "app", journal="another disk")
    assert not [one for _, one in resend(world.fleet, 0) if getattr(one, "job", None) == job]
    world.pass_time(seconds=1)
    assert world.state(job) == "lost"


def test_what_another_node_says_of_a_job_changes_nothing(world: World) -> None:
    job = world.submit(target=Target(node="n3")).data.job
    world.start(job, node="n1")
    world.finish(job, node="n1")
    assert world.state(job) == "queued"


def test_cancelling_ends_a_waiting_job_and_asks_the_agent_about_a_running_one(world: World) -> None:
    running = world.submit(target=Target(node="n3")).data.job
    world.lose_sight("n1", "n2")
    waiting = world.submit().data.job
    for job in (running, waiting):
        assert world.command("command.job.cancel", CancelJob(job=job)).type == "event.job.cancel_requested"
    assert (world.state(running), world.state(waiting)) == ("queued", "cancelled")
    world.finish(running, "cancelled")
    again = world.command("command.job.cancel", CancelJob(job=running))
    assert (again.data.reason, "cancelled" in again.data.message) == ("conflict", True)
    assert world.command("command.job.cancel", CancelJob(job=uid("nobody"))).data.reason == "unknown_job"


# running again


def test_nothing_runs_again_by_itself_unless_the_header_says_so(world: World) -> None:
    job = world.submit(target=Target(node="n3")).data.job
    world.finish(job, "failed")
    assert len(world.fleet.jobs) == 0


def test_a_header_with_retries_makes_new_jobs_until_they_are_used_up(world: World) -> None:
    world.script("flaky", retries=2)
    first = world.submit("flaky", target=Target(node="n3")).data.job
    jobs = [first]
    for _ in range(3):
        world.finish(jobs[-1], "failed")
        jobs += [job.id for job in world.fleet.jobs.values()]
    assert len(jobs) == 3
    again = world.fleet.job(jobs[1])
    assert again is not None
    assert again.order.retry_of == first


def test_a_retry_is_a_new_job_like_the_old_one(world: World) -> None:
    job = world.submit(target=Target(node="n3"), params={"a": 1}).data.job
    assert world.command("command.job.retry", RetryJob(job=job)).data.reason == "conflict"
    world.finish(job)
    again = world.command("command.job.retry", RetryJob(job=job), actor="user:bob")
    assert (again.data.order.params, again.data.order.retry_of, again.data.order.by) == ({"a": 1}, job, "user:bob")


def test_a_changed_script_is_used_by_the_next_job_and_a_version_can_be_pinned(world: World) -> None:
    before = world.submit(target=Target(node="n3")).data.order.hash
    world.script("echo", source="def action():\n    return 2\n")
    after = world.submit(target=Target(node="n3")).data.order.hash
    assert after != before
    assert world.submit(target=Target(node="n3"), hash=before).data.order.hash == before
    assert world.submit(target=Target(node="n3"), hash="0" * 64).data.field == "hash"


# batches


def test_a_batch_is_one_fact_and_one_job_per_node(world: World) -> None:
    created = world.submit(target=Target(role="cpu", all=True))
    assert created.type == "event.batch.created"
    assert [(job.node, job.via) for job in created.data.jobs] == [("n1", "cpu.kvm"), ("n2", "cpu")]
    assert {job.state for job in world.fleet.jobs.values()} == {"queued"}


def test_a_batch_goes_out_in_turns(world: World) -> None:
    batch = world.submit(target=Target(all=True), rollout=Rollout(size=1)).data
    jobs = [job.job for job in batch.jobs]
    assert [world.state(job) for job in jobs] == ["queued", "waiting", "waiting"]
    world.finish(jobs[0])
    assert [world.state(job) for job in jobs] == ["succeeded", "queued", "waiting"]


def test_the_time_to_start_begins_with_a_jobs_turn(world: World) -> None:
    batch = world.submit(target=Target(role="cpu", all=True), rollout=Rollout(size=1), start_within=60).data
    first, second = (job.job for job in batch.jobs)
    world.start(first)
    world.pass_time(seconds=500)
    assert world.state(second) == "waiting"
    world.finish(first)
    assert world.fleet.jobs[second].start_by == world.now + timedelta(seconds=60)


def test_a_batch_stops_when_too_many_failed(world: World) -> None:
    batch = world.submit(target=Target(all=True), rollout=Rollout(percent=30, max_failures=0)).data
    jobs = [job.job for job in batch.jobs]
    world.finish(jobs[0], "failed")
    assert [world.state(job) for job in jobs] == ["failed", "cancelled", "cancelled"]
    assert len(world.fleet.batches) == 0


def test_a_node_of_a_batch_that_is_offline_gets_its_job_when_it_is_back(world: World) -> None:
    world.lose_sight("n2")
    batch = world.submit(target=Target(role="cpu", all=True)).data
    assert [job.reason for job in batch.jobs] == ["", "n2 is offline"]
    world.node("n2", "cpu")
    assert world.state(batch.jobs[1].job) == "queued"


def test_cancelling_a_batch_cancels_all_its_jobs(world: World) -> None:
    batch = world.submit(target=Target(all=True), rollout=Rollout(size=1)).data
    world.command("command.job.cancel", CancelJob(job=batch.batch))
    assert [world.state(job.job) for job in batch.jobs] == ["queued", "cancelled", "cancelled"]


def test_all_jobs_of_a_batch_expire_each_under_an_id_of_its_own(world: World) -> None:
    world.lose_sight("n1", "n2")
    world.submit(target=Target(role="cpu", all=True), start_within=5)
    expired = world.pass_time(seconds=6)
    assert len({event.id for event in expired}) == 2


# commands


def test_a_command_has_one_outcome_however_often_it_comes(world: World) -> None:
    outcome = world.submit()
    command = next(event for event in world.log if event.id == outcome.causationid)
    world.put(command)
    assert len(world.fleet.open_commands) == 0


def test_a_command_that_came_too_late_is_rejected(world: World) -> None:
    late = world.event("command.node.remove", RemoveNode(node="n1"), expires=world.now - timedelta(seconds=1))
    world.put(late)
    assert world.decide(late.id).data.reason == "expired"


def test_whoever_decides_the_same_says_it_under_the_same_id(world: World) -> None:
    command = world.put(world.event("command.node.remove", RemoveNode(node="n1")))
    other = World(fleet=world.fleet, now=world.now + timedelta(seconds=3))
    assert world.decide(command.id).id == other.decide(command.id).id


# nodes


def test_an_invitation_is_used_once_and_in_time(world: World) -> None:
    def join(node: str) -> str:
        return world.command("command.node.join", JoinNode(node=node, token_hash="a" * 64)).type

    invite = InviteNode(token_hash="a" * 64, roles=("cpu",), valid_until=world.now + timedelta(minutes=15))
    world.command("command.node.invite", invite)
    assert join("n1") == "event.command.rejected", "the name is taken"
    assert join("event") == "event.command.rejected", "its deliveries would look like events"
    assert join("n9") == "event.node.joined"
    assert join("n10") == "event.command.rejected"
    assert world.fleet.nodes["n9"].roles == ("cpu",)


def test_an_invitation_that_is_over_is_refused(world: World) -> None:
    invite = InviteNode(token_hash="a" * 64, roles=(), valid_until=world.now + timedelta(minutes=15))
    world.command("command.node.invite", invite)
    world.pass_time(minutes=16)
    joined = world.command("command.node.join", JoinNode(node="n9", token_hash="a" * 64))
    assert joined.data.reason == "not_allowed"


def test_a_removed_node_is_not_listened_to_until_it_joins_again(world: World) -> None:
    world.command("command.node.remove", RemoveNode(node="n3"))
    world.node("n3", "app")
    assert world.submit(target=Target(node="n3")).data.reason == "unknown_node"


def test_roles_are_the_fleets_to_set_and_not_the_agents(world: World) -> None:
    world.command("command.node.roles", SetRoles(node="n3", roles=("cpu",)))
    world.node("n3", "app", "admin")
    assert world.fleet.nodes["n3"].roles == ("cpu",)


# deliveries


def test_a_delivery_carries_the_source_only_where_the_node_does_not_have_it(world: World) -> None:
    queued = world.submit(target=Target(node="n3"))
    ((key, run),) = parcels(world.fleet, queued, 9)
    assert (key, run.source is not None) == ("n3.node", True)  # type: ignore[union-attr]
    world.start(queued.data.job)
    again = world.submit(target=Target(node="n3"))
    ((_, run),) = parcels(world.fleet, again, 9)
    assert run.source is None  # type: ignore[union-attr]


def test_when_an_agent_connects_everything_unfinished_is_sent_again(world: World) -> None:
    job = world.submit(target=Target(node="n3")).data.job
    world.node("n3", "app")
    connected = world.log[-1]
    sent = [delivery for _, delivery in parcels(world.fleet, connected, 9)]
    assert [getattr(one, "job", "standing") for one in sent] == ["standing", job]


def test_periodic_scripts_are_told_to_the_nodes_that_may_run_them(world: World) -> None:
    published = world.script("watch", period=60, roles=["app"])
    standings = {key: one.periodic for key, one in parcels(world.fleet, published, 9)}  # type: ignore[union-attr]
    assert [script.name for script in standings["n3.node"]] == ["watch"]
    assert standings["n1.node"] == ()
