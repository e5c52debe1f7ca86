"""The frames of an emulated agent are those that pika would send."""

from types import SimpleNamespace
from typing import cast

from pika import frame, spec

from bus.ports import Message
from bus.rabbitmq.channel import Channel
from nodeagent.emulated_line import Line, Pen, ack

SAID = Message(key="event.job.finished.node.e-1", body=b'{"n": 1}', id="some-id", type="event.job.finished")


def channel(number: int) -> Channel:
    return cast("Channel", SimpleNamespace(raw=SimpleNamespace(channel_number=number)))


def test_a_message_is_three_frames_with_all_that_readers_need() -> None:
    pen = Pen(channel(2), "fleetbus", "node.e-1")
    for _ in range(2):
        method, header, body = (frame.decode_frame(data)[1] for data in pen.write(SAID, 1_700_000_000))
        assert isinstance(method, frame.Method)
        assert isinstance(method.method, spec.Basic.Publish)
        published = method.method
        assert (published.exchange, published.routing_key, published.mandatory) == ("fleetbus", SAID.key, True)
        assert isinstance(header, frame.Header)
        properties = header.properties
        assert (header.body_size, properties.delivery_mode, properties.timestamp) == (len(SAID.body), 2, 1_700_000_000)
        assert (properties.message_id, properties.type, properties.user_id) == (SAID.id, SAID.type, "node.e-1")
        assert properties.content_type == "application/cloudevents+json"
        assert isinstance(body, frame.Body)
        assert body.fragment == SAID.body
        assert {each.channel_number for each in (method, header, body)} == {2}


def test_a_delivery_is_acknowledged_on_the_channel_it_came_over() -> None:
    found = frame.decode_frame(ack(channel(3), 7))[1]
    assert isinstance(found, frame.Method)
    assert isinstance(found.method, spec.Basic.Ack)
    assert (found.channel_number, found.method.delivery_tag, found.method.multiple) == (3, 7, False)


def test_only_a_confirm_of_its_channel_is_led_past_pika() -> None:
    line = Line.__new__(Line)
    heard: list[tuple[int, bool, bool]] = []
    line._confirming, line._on_confirm = 1, lambda *said: heard.append(said)
    line.bytes_received = 0
    confirm = frame.Method(1, spec.Basic.Ack(delivery_tag=9, multiple=True)).marshal()
    refusal = frame.Method(1, spec.Basic.Nack(delivery_tag=9)).marshal()
    of_another = frame.Method(2, spec.Basic.Ack(delivery_tag=9)).marshal()
    assert line._is_confirm(confirm)
    assert heard == [(9, True, True)]
    assert line.bytes_received == len(confirm)
    assert not line._is_confirm(refusal)
    assert not line._is_confirm(of_another)
    assert len(heard) == 1
