"""A rival's worker: an empty actor, results in Redis. Its URLs come from the environment."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RabbitmqBroker(url=os.environ.get("BENCH_DRAMATIQ_BROKER", "amqp://localhost"))
backend = RedisBackend(url=os.environ.get("BENCH_BACKEND", "redis://localhost"))
broker.add_middleware(Results(backend=backend))  # type: ignore[no-untyped-call]  # dramatiq has few types
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def empty() -> None:
    """Does nothing."""
