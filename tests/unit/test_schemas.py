"""The schemas are what the Structs say, and what is published satisfies them and CloudEvents."""

import json
from datetime import UTC, datetime

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat

import schemas
from events import schema
from events.codec import encode
from events.envelope import Event
from events.job import SubmitJob, Target
from events.registry import TYPES

COMMAND = Event(
    id="01900000-0000-7000-8000-000000000001",
    source="test",
    type="command.job.submit",
    subject="facts",
    time=datetime(2026, 1, 2, tzinfo=UTC),
    actor="user:alice",
    correlationid="01900000-0000-7000-8000-000000000001",
    expires=datetime(2026, 1, 2, 1, tzinfo=UTC),
    data=SubmitJob(script="facts", target=Target(node="n1")),
)


def test_no_schema_differs_from_its_struct() -> None:
    assert schema.stale() == []


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_type_has_a_schema_that_is_one(name: str) -> None:
    found = schemas.load(name, TYPES[name].version)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$id"] == f"urn:fleetbus:{name}:{TYPES[name].version}"


def test_what_is_published_satisfies_the_schemas_of_envelope_and_data() -> None:
    body = json.loads(encode(COMMAND))
    jsonschema.validate(body, schemas.load("envelope", 1))
    jsonschema.validate(body["data"], schemas.load("command.job.submit", 1))


def test_the_cloudevents_package_reads_what_is_published() -> None:
    event = JSONFormat().read(None, encode(COMMAND))
    assert event.get_id() == COMMAND.id
    assert event.get_type() == "command.job.submit"
    assert event.get_time() == COMMAND.time
    assert event.get_extension("actor") == "user:alice"
