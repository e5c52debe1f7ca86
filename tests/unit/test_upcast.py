"""Yesterday's shapes are read as today's."""

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest

import schemas
from events.codec import BadEvent, decode, encode
from events.envelope import Event
from events.job import BatchCreated
from events.registry import TYPES, Definition
from events.upcast import STEPS, lift

ID = "01900000-0000-7000-8000-000000000001"

BATCH_1: dict[str, Any] = {
    "batch": ID,
    "order": {"script": "echo", "hash": "a" * 64, "by": "user:alice"},
    "target": {"role": "cpu", "all": True},
    "via": "cpu",
    "start_by": "2026-01-02T00:00:00Z",
    "jobs": [{"job": ID, "node": "n1"}, {"job": ID, "node": "n2", "reason": "n2 is offline"}],
}


def body(version: int, data: object) -> bytes:
    event = Event(
        id=ID,
        source="test",
        type="event.batch.created",
        subject=ID,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        actor="system:fleet",
        data=data,
        dataschema=f"urn:fleetbus:event.batch.created:{version}",
    )
    return encode(event)


def test_a_batch_of_version_1_gives_each_job_the_batchs_role() -> None:
    data = decode(body(1, BATCH_1)).data
    assert isinstance(data, BatchCreated)
    assert [(job.node, job.via, job.reason) for job in data.jobs] == [("n1", "cpu", ""), ("n2", "cpu", "n2 is offline")]


def test_what_was_version_1_is_no_version_2() -> None:
    with pytest.raises(BadEvent, match="via"):
        decode(body(2, BATCH_1))


def test_the_schema_of_version_1_still_says_what_version_1_was() -> None:
    jsonschema.validate(json.loads(body(1, BATCH_1))["data"], schemas.load("event.batch.created", 1))


def test_rubbish_of_an_old_version_is_bad_and_raises_nothing_else() -> None:
    rubbish_of_all_kinds: list[dict[str, object]] = [{}, {"jobs": 3}, {"jobs": [3]}, {"jobs": [None]}]
    for rubbish in rubbish_of_all_kinds:
        with pytest.raises(BadEvent):
            decode(body(1, rubbish))


@pytest.mark.parametrize(("name", "definition"), [(name, TYPES[name]) for name in sorted(TYPES)])
def test_every_earlier_version_has_its_step_and_its_schema(name: str, definition: Definition) -> None:
    for version in range(1, definition.version):
        assert (name, version) in STEPS
        assert schemas.load(name, version)


def test_a_missing_step_is_said() -> None:
    with pytest.raises(LookupError, match=r"no step lifts event.job.lost from version 1 to 2"):
        lift("event.job.lost", 1, 2, {})
