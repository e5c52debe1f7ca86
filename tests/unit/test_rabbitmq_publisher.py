"""What a publisher says before anything is sent. Nobody listens at the address, and nobody needs to."""

from collections.abc import Iterator

import pytest

from bus.errors import Refused
from bus.ports import Message
from bus.rabbitmq import RabbitBus


@pytest.fixture
def bus() -> Iterator[RabbitBus]:
    bus = RabbitBus("amqp://handlers:x@127.0.0.1:1/nowhere")
    yield bus
    bus.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("k" * 256, "256 bytes"),
        ("ü" * 128, "256 bytes"),
        ("\N{PILE OF POO}" * 64, "256 bytes"),
        ("half a \ud83d", "characters that are none"),
    ],
)
def test_what_amqp_cannot_say_is_refused_at_once(bus: RabbitBus, text: str, said: str) -> None:
    for message in (
        Message(text, b""),
        Message("event.test.said", b"", text),
        Message("event.test.said", b"", "", text),
    ):
        with pytest.raises(Refused, match=said):
            bus.publish(message).result(0)


def test_what_amqp_can_just_say_is_not_refused(bus: RabbitBus) -> None:
    for text in ("k" * 255, "ü" * 127, "\N{PILE OF POO}" * 63):
        assert not bus.publish(Message(text, b"", text, text)).done()


def test_what_was_published_cannot_be_called_back(bus: RabbitBus) -> None:
    future = bus.publish(Message("event.test.said", b""))
    assert not future.cancel()
    assert not future.cancelled()
