"""What a fork does to open connections and held locks, and what is done about it.

A child has copies of its parent's sockets, which both must not use, and of all locks as they were, also of those that
other threads held, which nobody in the child will ever release.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

import kombu


class Forked(Protocol):
    """Who has something to do in a child, before anything else happens there."""

    def after_fork(self) -> None: ...


#: kombu computes these properties under locks of the class, when it connects. In the order in which they need each
#: other: a thread that has one lock may wait for a later one.
_PROPERTIES = ("recoverable_connection_errors", "recoverable_channel_errors", "connection_errors", "channel_errors")

_forked: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell(forked: Forked) -> None:
    """From now on it hears of forks, as long as it lives."""
    _forked.add(forked)


def _before() -> None:
    """Nobody else has the locks during the fork. They are held for moments only."""
    for name in _PROPERTIES:
        getattr(kombu.Connection, name).lock.acquire()


def _after() -> None:
    for name in reversed(_PROPERTIES):
        getattr(kombu.Connection, name).lock.release()


def _after_in_child() -> None:
    _after()
    for forked in list(_forked):
        forked.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
