"""What a reader saves of its admission state, and has back."""

from datetime import timedelta
from typing import Any

from bus.admission import ID_WINDOW, AdmissionState, Admitted, Duplicate, Producer, Seen, admit
from tests.stories import BEGIN, Story


def read(story: Story) -> AdmissionState:
    state = AdmissionState()
    for record in story.records():
        admit(state, record)
    return state


def knows(state: AdmissionState) -> dict[str, Any]:
    return {
        "producers": {key: (one.high, one.gaps, one.offset) for key, one in state.producers.items()},
        "order": list(state.producers),
        "ids": state.ids,
        "window": list(state.window),
        "head": state.head(),
    }


def fleet() -> Story:
    story = Story()
    story.script("facts")
    for node in ("n1", "n2"):
        story.node(node)
    story.agent("n2").seq += 5
    story.own_run("n2", "facts")
    story.own_run("n1", "facts")
    return story


def test_a_state_comes_back_from_its_changes() -> None:
    state = read(fleet())

    changes = state.take_changes()
    restored = AdmissionState.restore(
        state.head(), {key: one for key, one in changes.producers.items() if one}, changes.seen
    )

    assert knows(restored) == knows(state)


def test_changes_are_told_once() -> None:
    story = fleet()
    state = read(story)
    state.take_changes()
    assert (state.take_changes().producers, state.take_changes().seen) == ({}, [])

    tick = story.tick()
    admit(state, story.records()[-1])

    assert [seen.key for seen in state.take_changes().seen] == [f"handlers/{tick.id}"]


def test_what_was_told_does_not_change_any_more() -> None:
    story = fleet()
    state = read(story)
    told = state.take_changes()
    key = next(key for key, producer in told.producers.items() if producer and producer.gaps)
    before = told.producers[key]
    assert before is not None

    user, producer = key.split("/")
    state.use(user, producer, before.gaps[0][0], 1_000)

    assert before.offset < 1_000
    assert told.producers[key] == before


def test_ids_that_are_forgotten_by_then_are_not_told_and_not_taken_back() -> None:
    story = Story()
    for _ in range(3):
        story.later(ID_WINDOW.total_seconds() + 1)
    state = read(story)

    assert len(state.take_changes().seen) == 1

    old = Seen("portal/again", BEGIN)
    new = Seen("portal/again", state.log_time)
    restored = AdmissionState.restore(state.head(), {}, [new, old, new])

    assert (list(restored.window), restored.ids) == ([new], {"portal/again"})
    later = state.log_time or BEGIN
    restored.advance(later + ID_WINDOW / 2)
    assert restored.ids == {"portal/again"}
    restored.advance(later + ID_WINDOW + timedelta(seconds=1))
    assert restored.ids == set()


def test_producers_come_back_in_the_order_in_which_they_are_forgotten() -> None:
    state = read(fleet())
    late, early = Producer(3, [], 9), Producer(1, [], 4)

    restored = AdmissionState.restore(state.head(), {"node.n2/b": late, "node.n1/a": early}, [])

    assert list(restored.producers) == ["node.n1/a", "node.n2/b"]


def test_a_restored_state_goes_on_as_the_other_would_have() -> None:
    story = fleet()
    state = read(story)
    changes = state.take_changes()
    restored = AdmissionState.restore(
        state.head(), {key: one for key, one in changes.producers.items() if one}, changes.seen
    )
    begun = len(story.said)
    story.again(story.tick())
    story.own_run("n1", "facts", slot="next")
    story.later(ID_WINDOW.total_seconds())
    story.said.append(story.said[2])

    verdicts = [[type(admit(one, record)) for record in story.records()[begun:]] for one in (state, restored)]

    assert verdicts[0] == verdicts[1]
    assert {Admitted, Duplicate} == set(verdicts[0])
    assert knows(state) == knows(restored)
