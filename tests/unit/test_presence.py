"""Who counts as being there."""

from handlers.presence import Presence


def test_an_agent_that_said_goodbye_is_not_brought_back_by_a_heartbeat_that_comes_late() -> None:
    presence = Presence()
    presence.hear("n1", "first boot", 10.0)
    presence.leave("n1", "first boot")
    assert presence.heard(["n1"], 10.5) == []
    presence.hear("n1", "first boot", 11.0)
    assert presence.heard(["n1"], 11.5) == []
    presence.hear("n1", "second boot", 12.0)
    assert presence.heard(["n1"], 12.5) == ["n1"]
