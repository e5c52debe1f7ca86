"""What the pen writes is what pika would send."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pika import frame, spec

from bus.rabbitmq.pen import Pen, Properties, acks

#: The least that AMQP 0.9.1 allows, and what RabbitMQ offers.
FRAME_MAX = 4096, 131_072

texts = st.text(max_size=60)
some_properties = st.builds(
    Properties,
    content_type=st.none() | texts,
    message_id=st.none() | texts,
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    type=st.none() | texts,
    user_id=st.none() | texts,
    delivery_mode=st.none() | st.sampled_from([1, 2]),
)
#: Of a body, to the size that fills whole frames.
near = st.integers(-2, 2)


def by_pika(channel: int, exchange: str, frame_max: int, key: str, body: bytes, properties: Properties) -> bytes:
    publish = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
    header = spec.BasicProperties(
        content_type=properties.content_type,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.type,
        user_id=properties.user_id,
        delivery_mode=properties.delivery_mode,
    )
    longest = frame_max - 8
    pieces = [body[at : at + longest] for at in range(0, len(body), longest)]
    frames = [frame.Method(channel, publish), frame.Header(channel, len(body), header)]
    return b"".join(each.marshal() for each in [*frames, *(frame.Body(channel, piece) for piece in pieces)])


@settings(deadline=None)
@given(st.integers(1, 2047), texts, st.lists(st.tuples(texts, st.binary(max_size=300), some_properties), max_size=6))
def test_messages_are_written_as_pika_writes_them(
    channel: int, exchange: str, messages: list[tuple[str, bytes, Properties]]
) -> None:
    pen = Pen(channel, exchange, FRAME_MAX[0])
    # each twice: made, and kept
    for key, body, properties in [*messages, *messages]:
        expected = by_pika(channel, exchange, FRAME_MAX[0], key, body, properties)
        assert b"".join(pen.frames(key, body, properties)) == expected


@settings(deadline=None)
@given(st.sampled_from(FRAME_MAX), st.integers(0, 3), near)
@example(FRAME_MAX[0], 0, 0)
def test_a_body_is_cut_where_pika_cuts_it(frame_max: int, frames: int, more: int) -> None:
    body = bytes(max(0, frames * (frame_max - 8) + more))
    said = Properties(message_id="an id", timestamp=1_700_000_000, type="event.test.said")
    written = b"".join(Pen(1, "fleetbus", frame_max).frames("event.test.said", body, said))
    assert written == by_pika(1, "fleetbus", frame_max, "event.test.said", body, said)


@settings(deadline=None)
@given(st.integers(0, 255), st.characters(categories=["L"]))
def test_the_longest_texts_are_written_as_pika_writes_them(length: int, letter: str) -> None:
    text = letter * (length // len(letter.encode()))
    said = Properties(message_id=text, type=text, user_id=text, content_type=text)
    written = b"".join(Pen(1, text, FRAME_MAX[0]).frames(text, b"x", said))
    assert written == by_pika(1, text, FRAME_MAX[0], text, b"x", said)


def test_a_pen_forgets_what_it_kept_and_goes_on() -> None:
    pen = Pen(1, "fleetbus", FRAME_MAX[0])
    for n in [*range(6_000), 0]:
        key = f"event.test.n{n}"
        assert b"".join(pen.frames(key, b"", Properties())) == by_pika(1, "fleetbus", 4096, key, b"", Properties())


@settings(deadline=None)
@given(st.integers(1, 2047), st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_deliveries_are_acknowledged_as_pika_does(channel: int, tags: list[int]) -> None:
    by_pika = [frame.Method(channel, spec.Basic.Ack(delivery_tag=tag)).marshal() for tag in tags]
    assert list(acks(channel, tags)) == by_pika
