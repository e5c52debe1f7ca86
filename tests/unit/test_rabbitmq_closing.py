"""Whoever waits for RabbitMQ while the bus is closed is told so."""

import asyncio
import concurrent.futures
import threading

from bus.errors import BusError, Closed
from bus.rabbitmq.connection import Connection


def test_a_question_that_is_under_way_when_the_bus_closes_fails_with_closed() -> None:
    # nobody listens there, and nobody needs to
    connection = Connection("amqp://handlers:x@127.0.0.1:1/nowhere")
    begun = threading.Event()
    found: list[Exception] = []

    async def question() -> None:
        begun.set()
        await asyncio.Event().wait()

    def ask() -> None:
        try:
            connection.wait(question(), 60.0)
        except (BusError, concurrent.futures.CancelledError) as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(60.0)
    connection.close()
    asking.join(60.0)
    assert [type(error) for error in found] == [Closed]
