"""Whatever is sent to the API, by the letter of its document or against it: it answers, and never with a 5xx."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from portal.app import openapi_document
from tests.portal_house import SOON, House

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch, House(tmp_path_factory.mktemp("house")) as house:
        # what takes longer than a person waits is a 503, and on a busy machine no defect
        patch.setattr("portal.travel.WAIT", SOON)
        patch.setattr("portal.api.nodes.DECIDE_SECONDS", SOON)
        house.agent("n1", "cpu")
        house.publish("echo")
        house.api.post("/jobs", params={"wait": 20}, json={"script": "echo", "target": {"node": "n1"}})
        house.api.post("/jobs", params={"wait": 20}, json={"script": "echo", "target": {"all": True}})
        yield house


schema = schemathesis.openapi.from_dict(openapi_document())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


# schemathesis' own parametrization gives all operations one node id, of which xdist runs a single one
OPERATIONS = {each.ok().label: each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)}


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_the_api_answers_whatever_it_is_sent(label: str, house: House) -> None:
    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(case=OPERATIONS[label].as_strategy())
    def ask(case: schemathesis.Case[Any]) -> None:
        _ask(case, house)

    ask()


def test_every_operation_of_the_document_is_tried() -> None:
    paths = openapi_document()["paths"].values()
    verbs = {"get", "put", "post", "delete", "patch"}
    assert len(OPERATIONS) == sum(len(verbs.intersection(path)) for path in paths)


def _ask(case: schemathesis.Case[Any], house: House) -> None:
    query: dict[str, Any] = case.query or {}
    if _seconds(query.get("wait")) > 0.2:
        query["wait"] = "0.2"
    if case.path.endswith("/events/stream"):
        # it has no end otherwise
        query["follow"] = "false"
    case.query = query
    headers = {"Authorization": f"Bearer {house.token}"}
    case.call_and_validate(base_url=house.url, headers=headers, checks=CHECKS, timeout=3 * SOON)


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
