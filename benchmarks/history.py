"""A long history of a fleet at work, written straight into the log of the embedded side."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from tests.stories import STEP, Story

NODES = 50
SCRIPTS = 5
#: Events that are written together.
PIECE = 20_000


def write_history(folder: Path, events: int, heed: Callable[[int], None] = lambda _: None) -> int:
    """Writes a log of at least `events` records that ends now; how many there are. `heed` is told how far it is.

    All its jobs have ended, each with four events: asked for, queued, started, finished. One event follows another by
    10 ms.
    """
    story = Story(begin=datetime.now(UTC) - STEP * events, name=f"history-{events}")
    for n in range(SCRIPTS):
        story.script(f"script-{n}")
    for n in range(NODES):
        story.node(f"node-{n:02}", roles=("cpu",))
    written = story.flush(folder)
    for n in count():
        if written + len(story.said) >= events:
            break
        job = story.job(f"script-{n % SCRIPTS}", node=f"node-{n % NODES:02}", params={"n": n})
        story.started(job)
        story.finished(job, result={"n": n})
        if len(story.said) >= PIECE:
            written = story.flush(folder)
            heed(written)
    return story.flush(folder)
