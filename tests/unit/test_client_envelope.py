"""What the client says is what the platform reads: the two share no code, so their words are compared here."""

import ast
import json
import math
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import RFC_4122, UUID

import jsonschema
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st

import fleetbus_client
import schemas
from bus.admission import AdmissionState, Admitted, admit, check
from bus.ports import Record
from events import codec, names
from events.actors import service_user
from events.envelope import CONTENT_TYPE, MAX_BODY_BYTES, Event
from events.job import SubmitJob, Target
from fleetbus_client import Misuse, envelope
from portal.commands import EXPIRES_AFTER

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PAID = "event.billing.invoice.paid"
SUBMIT = {"script": "facts", "target": {"node": "n1"}}


def fact(data: Any = MappingProxyType({}), **changes: Any) -> envelope.Envelope:
    given: dict[str, Any] = {"service": "billing", "type": PAID, "subject": "invoice 17", "data": data, **changes}
    return envelope.fact(**given)


def command(data: Any = MappingProxyType(SUBMIT), **changes: Any) -> envelope.Envelope:
    given = {"service": "billing", "type": "command.job.submit", "subject": "facts", "data": data, **changes}
    return envelope.command(**given)


def read(said: envelope.Envelope, user: str = "service.billing") -> Event:
    """As every reader of the log reads it."""
    return check(Record(offset=0, body=said.body, key=said.type, user=user))


# ---------------------------------------------------------------- what is said is what is read


def test_a_fact_is_admitted_with_everything_that_was_said() -> None:
    story, cause = envelope.new_id(), envelope.new_id()
    said = fact({"amount": 12.5}, time=NOW, correlation=story, causation=cause)
    event = read(said)
    assert (event.id, event.type, event.subject, event.time) == (said.id, PAID, "invoice 17", NOW)
    assert (event.actor, event.data) == ("service:billing", {"amount": 12.5})
    assert (event.correlationid, event.causationid, event.expires) == (story, cause, None)


def test_a_command_is_admitted_with_typed_data() -> None:
    event = read(command(expires=timedelta(seconds=90)))
    assert event.data == SubmitJob(script="facts", target=Target(node="n1"))
    assert event.expires == event.time + timedelta(seconds=90)
    assert event.correlationid == event.id


def test_a_command_expires_as_the_portals_do_unless_it_is_told_otherwise() -> None:
    assert envelope.EXPIRES_AFTER == EXPIRES_AFTER
    event = read(command())
    assert event.expires == event.time + EXPIRES_AFTER
    assert read(command(expires=None)).expires is None
    until = datetime.now(timezone(timedelta(hours=2))) + timedelta(hours=1)
    assert read(command(expires=until)).expires == until


def test_the_log_counts_what_is_sent_twice_once() -> None:
    said, state = fact(), AdmissionState()
    records = [Record(offset=n, body=said.body, key=said.type, user="service.billing") for n in range(2)]
    assert [isinstance(admit(state, record), Admitted) for record in records] == [True, False]


def test_the_schema_that_the_data_fits_is_named() -> None:
    assert read(command(version=1)).dataschema == "urn:fleetbus:command.job.submit:1"
    assert read(fact()).dataschema == f"urn:fleetbus:service:{PAID}"
    assert read(fact(dataschema="https://billing.example/paid")).dataschema == "https://billing.example/paid"


def test_another_service_could_not_say_it() -> None:
    with pytest.raises(codec.BadEvent, match="may not speak as 'service:billing'"):
        read(fact(), user="service.shop")


def test_it_is_a_cloudevent_for_others_too() -> None:
    said = fact({"amount": 12.5}, correlation=envelope.new_id())
    message = HTTPMessage(headers={"content-type": envelope.CONTENT_TYPE}, body=said.body)
    event = from_http_event(message)
    assert (event.get_id(), event.get_type(), event.get_data()) == (said.id, PAID, {"amount": 12.5})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(envelope.SMALLEST_INT, envelope.LARGEST_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.text(min_size=1, max_size=200))
def test_whatever_data_and_subject_pass_are_read_as_they_were(data: dict[str, Any], subject: str) -> None:
    event = read(fact(data, subject=subject))
    assert event.data == data
    assert event.subject == subject


everything = st.recursive(
    st.none() | st.integers() | st.floats() | st.binary() | st.text(st.characters()) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@given(everything, everything)
def test_whatever_is_not_refused_here_is_not_refused_there(data: Any, subject: Any) -> None:
    try:
        said = fact(data, subject=subject)
    except Misuse:
        return
    read(said)


def test_ids_are_uuids_of_version_7_in_the_order_of_their_making() -> None:
    before = datetime.now(UTC)
    first = UUID(envelope.new_id())
    assert (first.version, first.variant) == (7, RFC_4122)
    made = datetime.fromtimestamp((first.int >> 80) / 1000, UTC)
    assert abs(made - before) < timedelta(seconds=5)
    assert len({envelope.new_id() for _ in range(1000)}) == 1000


# ---------------------------------------------------------------- what does not fit is said before it is sent


@pytest.mark.parametrize(
    ("type", "why"),
    [
        ("event.shop.order.made", "is for service:shop to say, and this is service:billing"),
        ("event.billing", "no fact of a service"),
        ("command.job.submit", "no fact of a service"),
        ("telemetry.stats.billing", "no fact of a service"),
        ("event.billing.Invoice Paid", "no type of an event"),
        ("event.billing.paid\n", "no type of an event"),
        ("", "no type of an event"),
        (None, "no type of an event"),
        (f"event.billing.{'x' * 200}", "at most 200"),
    ],
)
def test_a_fact_of_another_type_is_refused(type: Any, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        fact(type=type)


@pytest.mark.parametrize("type", ["event.job.submit", "command.job", "command", "job.submit"])
def test_a_command_of_another_type_is_refused(type: str) -> None:
    with pytest.raises(Misuse, match=r"command\.<what>\.<do>"):
        command(type=type)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "data is of type NoneType; right would be a dict"),
        ([1], "data is of type list"),
        ({"a": {"when": NOW}}, r"data\.a\.when is of type datetime"),
        ({"a": [1, {1: 2}]}, r"data\.a\[1\] has the key 1"),
        ({"a": math.nan}, r"data\.a is nan"),
        ({"a": [math.inf]}, r"data\.a\[0\] is inf"),
        ({"a": 2**64}, r"data\.a does not fit into 64 bits"),
        ({"a": "\ud800"}, r"data\.a has half of a surrogate pair"),
        ({"\ud800": 1}, "half of a surrogate pair"),
        ({"a": "x" * MAX_BODY_BYTES}, "at most 1,000,000 fit into one event"),
    ],
)
def test_data_that_is_no_json_object_is_refused_with_its_place(data: Any, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        fact(data)


def test_data_that_contains_itself_is_refused() -> None:
    data: dict[str, Any] = {}
    data["self"] = data
    with pytest.raises(Misuse, match="nested more than 100 levels"):
        fact(data)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"subject": ""}, "1 to 200 characters"),
        ({"subject": "x" * 201}, "1 to 200 characters"),
        ({"subject": "\udfff"}, "half of a surrogate pair"),
        ({"id": "17"}, "id is '17'; right would be a UUID"),
        ({"id": envelope.new_id().upper()}, "UUID in lower case"),
        ({"time": datetime(2026, 1, 1)}, "a datetime with a time zone"),  # noqa: DTZ001  # that is the point
        ({"correlation": "x"}, "correlation is 'x'"),
        ({"causation": "x"}, "causation is 'x'"),
        ({"dataschema": "x" * 301}, "at most 300"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Misuse, match=why):
        fact(**changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"expires": timedelta(seconds=-1)}, "which has passed"),
        ({"expires": NOW}, "which has passed"),
        ({"expires": 60}, "a datetime with a time zone"),
        ({"version": 0}, "the first version of a schema is 1"),
    ],
)
def test_a_command_that_nobody_would_act_on_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Misuse, match=why):
        command(**changes)


# ---------------------------------------------------------------- the words of both sides


def test_client_and_platform_agree_on_words_and_limits() -> None:
    assert envelope.CONTENT_TYPE == CONTENT_TYPE
    assert envelope.MAX_BODY_BYTES == MAX_BODY_BYTES
    mine = (envelope.UUID_PATTERN, envelope.SERVICE_PATTERN, envelope.TYPE_PATTERN)
    theirs = (names.UUID_PATTERN, names.SERVICE_PATTERN, names.TYPE_PATTERN)
    assert mine == tuple(pattern.removeprefix("^").removesuffix(r"$(?!\n)") for pattern in theirs)
    assert fleetbus_client.AmqpClient("amqp://service.billing:x@host").user == service_user("billing")


@pytest.mark.parametrize("said", [fact({"amount": 12.5}), command()])
def test_the_schema_of_the_envelope_takes_it(said: envelope.Envelope) -> None:
    schema = json.loads(Path(schemas.__file__).with_name("envelope.v1.json").read_text())
    jsonschema.validate(json.loads(said.body), schema, cls=jsonschema.Draft202012Validator)


def test_the_client_imports_nothing_of_the_platform_and_little_else() -> None:
    files = Path(fleetbus_client.__file__).parent.glob("*.py")
    trees = [ast.parse(file.read_text(), feature_version=(3, 9)) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    # the last one is for type checkers only, which bring it along
    assert roots == {"fleetbus_client", "kombu", "amqp", "typing_extensions"}
