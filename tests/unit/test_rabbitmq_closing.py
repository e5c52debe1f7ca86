"""Whoever waits for RabbitMQ while the bus is closed is told so."""

import asyncio
import concurrent.futures
import threading

from bus.errors import BusError, Closed
from bus.rabbitmq.connection import Connection
from bus.rabbitmq.link import Address, Link, Login


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


def test_a_link_that_is_called_off_while_it_is_greeted_is_closed() -> None:
    async def call_off() -> None:
        begun: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

        class Greeting(Link):
            async def greet(self, login: Login) -> None:
                begun.set_result(self)
                await asyncio.Event().wait()

        # whoever listens says nothing, until the other goes
        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
            address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
            opening = asyncio.create_task(
                Greeting.open(address, Login("handlers", "x", "/", "", "test"), lambda _link, _chunk: None)
            )
            link = await asyncio.wait_for(begun, 60.0)
            opening.cancel()
            await asyncio.wait({opening}, timeout=60.0)
            assert opening.cancelled()
            assert link._transport is not None
            assert link._transport.is_closing()

    asyncio.run(call_off())
