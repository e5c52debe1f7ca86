"""Looking for garbage in circles seldom, while many objects are made and none of them is in any."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects that are new when Python looks at them (else 700). A batch of a rebuild has some hundred thousand, which live
#: until it is stored: looked at every 700, again and again, they took a tenth of a rebuild.
NEW_OBJECTS = 100_000

_lock = threading.Lock()
_users = 0
_before = gc.get_threshold()


@contextmanager
def rare_collections() -> Iterator[None]:
    """In all threads, until the last who asked for it leaves."""
    global _users, _before  # noqa: PLW0603  # the collector is one for the process, too
    with _lock:
        if _users == 0:
            _before = gc.get_threshold()
            gc.set_threshold(NEW_OBJECTS, *_before[1:])
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                gc.set_threshold(*_before)
