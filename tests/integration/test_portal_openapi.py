"""The OpenAPI document: valid, whole, and what the API really does."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from portal.app import API_ROUTES
from portal.openapi import METHODS
from tests.portal_house import House


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1", "cpu")
        house.publish("echo")
        yield house


@pytest.fixture(scope="module")
def document(house: House) -> dict[str, Any]:
    found: dict[str, Any] = house.api.get("/openapi.json").json()
    return found


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    errors = [
        f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()
    ]
    assert errors == []


def test_every_responder_of_the_api_is_described(document: dict[str, Any]) -> None:
    there = {(path, method) for path, resource in API_ROUTES for method in METHODS if hasattr(resource, f"on_{method}")}
    assert there == {(path, method) for path, found in document["paths"].items() for method in found}


def test_what_needs_no_login_says_so(document: dict[str, Any]) -> None:
    free = {path for path, found in document["paths"].items() for one in found.values() if one.get("security") == []}
    assert free == {"/api/v1/health", "/api/v1/login", "/api/v1/nodes/join"}


def test_operations_have_ids_of_their_own(document: dict[str, Any]) -> None:
    ids = [one["operationId"] for found in document["paths"].values() for one in found.values()]
    assert len(ids) == len(set(ids))


def test_the_document_is_small_enough_to_be_read(document: dict[str, Any]) -> None:
    assert len(json.dumps(document)) < 300_000
