"""Pauses between tries: longer each time, up to a bound, spread by chance, short again after a success."""

from bus.backoff import Backoff


def test_pauses_grow_to_their_bound_and_never_beyond() -> None:
    backoff = Backoff(0.1, 5.0)
    pauses = [backoff.next() for _ in range(50)]
    for n, pause in enumerate(pauses):
        longest = min(5.0, 0.1 * 2**n)
        assert longest / 2 <= pause <= longest


def test_two_that_failed_together_do_not_come_back_together() -> None:
    one, other = Backoff(1.0, 60.0), Backoff(1.0, 60.0)
    assert [one.next() for _ in range(20)] != [other.next() for _ in range(20)]


def test_after_a_success_the_next_pause_is_a_first_one() -> None:
    backoff = Backoff(0.1, 5.0)
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.1
