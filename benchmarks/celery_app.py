"""The rival's worker: an empty task, acknowledged late, results in Redis. Its URLs come from the environment."""

import os

from celery import Celery

app = Celery("bench", broker=os.environ.get("BENCH_BROKER"), backend=os.environ.get("BENCH_BACKEND"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
    result_expires=600,
)


@app.task(name="bench.empty")  # type: ignore[untyped-decorator]  # celery has no types
def empty() -> None:
    """Does nothing."""
