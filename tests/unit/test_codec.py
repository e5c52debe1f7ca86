"""Bytes to events and back; what is no event is refused with a reason."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.codec import BadEvent, decode, decode_any, encode, origin
from events.envelope import MAX_BODY_BYTES, Event, derived_id
from events.job import JobFinished, JobOutput, SubmitJob, Target

ID = "01900000-0000-7000-8000-000000000001"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def submit(**changes: Any) -> Event:
    fields: dict[str, Any] = {
        "id": ID,
        "source": "test",
        "type": "command.job.submit",
        "subject": "facts",
        "time": NOW,
        "actor": "user:alice",
        "data": SubmitJob(script="facts", target=Target(node="n1")),
    }
    return Event(**{**fields, **changes})


def body_with(**changes: Any) -> bytes:
    body = json.loads(encode(submit()))
    body.update(changes)
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


def test_an_event_survives_the_wire() -> None:
    event = submit(correlationid=ID, expires=NOW, producer=ID, seq=7)
    read = decode(encode(event))
    assert read.data == event.data
    assert (read.id, read.time, read.expires, read.seq) == (event.id, NOW, NOW, 7)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(result=json_values, tail=st.text(max_size=50), lines=st.integers(0, 10**9))
def test_any_result_survives_the_wire(result: object, tail: str, lines: int) -> None:
    data = JobFinished(
        job=ID, node="n1", outcome="succeeded", duration=0.5, result=result, output=JobOutput(lines=lines, tail=tail)
    )
    event = submit(type="event.job.finished", data=data, actor="node:n1")
    assert decode(encode(event)).data == data


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"not json", "not a CloudEvents"),
        (b"\xff\xfe", "not a CloudEvents"),
        (b"[" * 100_000, "not a CloudEvents"),
        (b"{}", "missing required field"),
        (body_with(specversion="0.3"), "specversion"),
        (body_with(id="x"), "$.id"),
        (body_with(time="2026-01-02T03:04:05"), "$.time"),
        (body_with(actor="alice"), "$.actor"),
        (body_with(type="command.job.fly"), "not a type of fleetbus"),
        (body_with(type="event.job.exploded"), "not a type of fleetbus"),
        (body_with(data={"script": "facts"}), "target"),
        (body_with(data={"script": "../etc", "target": {}}), "$.script"),
        (body_with(dataschema="urn:fleetbus:event.job.queued:1"), "does not belong"),
        (body_with(dataschema="urn:fleetbus:command.job.submit:0"), "does not belong"),
        (body_with(seq=2**60), "$.seq"),
        (b"x" * (MAX_BODY_BYTES + 1), "at most 1,000,000"),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(body: bytes, said: str) -> None:
    with pytest.raises(BadEvent) as error:
        decode(body)
    assert said in str(error.value)


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    with pytest.raises(BadEvent):
        decode(body)


def test_the_fact_of_another_service_keeps_its_json() -> None:
    event = submit(type="event.billing.invoice.paid", actor="service:billing", data={"amount": 3})
    assert decode(encode(event)).data == {"amount": 3}


def test_an_event_too_large_is_refused_before_it_is_sent() -> None:
    large = submit(data=SubmitJob(script="facts", target=Target(node="n1"), params={"x": "y" * MAX_BODY_BYTES}))
    with pytest.raises(BadEvent, match="at most 1,000,000"):
        encode(large)


def test_a_later_version_of_a_type_is_read_as_todays() -> None:
    body = body_with(
        dataschema="urn:fleetbus:command.job.submit:9", data={"script": "a", "target": {"node": "n1"}, "new_field": 1}
    )
    assert decode(body).data.script == "a"


def test_the_place_of_a_bad_record_in_its_producers_count_is_readable() -> None:
    body = body_with(producer=ID, seq=5, time="never")
    found = origin(body)
    assert found is not None
    assert (found.producer, found.seq) == (ID, 5)
    assert origin(b"rubbish") is None


def test_a_derived_id_is_the_same_for_ever() -> None:
    assert derived_id(ID, "n1") == "90b82c83-b02d-5420-ac11-9279d1830498"
    assert derived_id(ID, "n1") == derived_id(ID, "n1") != derived_id(ID, "n2")


def told(read: Callable[..., Event], body: bytes, *key: str) -> Event | str:
    try:
        return read(body, *key)
    except BadEvent as error:
        return str(error)


WRITTEN = encode(submit(correlationid=ID, causationid=ID, expires=NOW, seattoken=ID, producer=ID, seq=7))


@given(st.binary(max_size=4), st.integers(0, len(WRITTEN)), st.integers(0, 4))
def test_the_short_way_reads_what_the_long_one_does_and_no_more(noise: bytes, at: int, instead: int) -> None:
    body = WRITTEN[:at] + noise + WRITTEN[at + instead :]
    assert told(decode, body) == told(decode_any, body)


#: What is in the body, with more behind it, of another type, of none.
KEYS = ("command.job.submit", "command.job.submit.node.n1", "command.job.cancel", "event.job", "")


@given(st.binary(max_size=4), st.integers(0, len(WRITTEN)), st.integers(0, 4), st.sampled_from(KEYS))
def test_the_key_has_no_say_in_what_is_read(noise: bytes, at: int, instead: int, key: str) -> None:
    body = WRITTEN[:at] + noise + WRITTEN[at + instead :]
    for _ in range(2):
        assert told(decode, WRITTEN, key) == decode_any(WRITTEN)
        assert told(decode, body, key) == told(decode_any, body)


@pytest.mark.parametrize("change", [
    {"id": ID.upper()}, {"correlationid": "x"}, {"causationid": ID + "\n"}, {"seattoken": 7}, {"producer": ""},
    {"actor": "user:alice\n"}, {"actor": "alice"}, {"seq": 0}, {"type": "command.job.cancel"}, {"specversion": None},
    {"dataschema": "urn:fleetbus:command.job.submit:2"}, {"dataschema": "urn:fleetbus:command.job.cancel:1"},
    {"dataschema": None}, {"source": ""}, {"data": {"script": "facts"}}, {"datacontenttype": "text/plain"},
    {"time": "2026-01-02T03:04:05"}, {"expires": "soon"}, {"more": {"dataschema": "urn:x"}},
    {"source": '"dataschema":"urn:fleetbus:command.job.cancel:1"'},
])  # fmt: skip
def test_both_ways_agree_on_every_attribute(change: dict[str, Any]) -> None:
    for order in (json.loads(WRITTEN) | change, change | json.loads(WRITTEN) | change):
        body = json.dumps({key: value for key, value in order.items() if value is not None}).encode()
        for compact in (body, body.replace(b'": ', b'":').replace(b', "', b',"')):
            for key in KEYS:
                assert told(decode, compact, key) == told(decode_any, compact)
