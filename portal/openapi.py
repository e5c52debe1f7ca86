"""The OpenAPI 3.1 document, made from the same Structs by which requests are read.

A responder carries an `Operation`; the table of routes gives the paths. Nothing is written down twice.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from portal.problems import CONTENT_TYPE as PROBLEM
from portal.problems import ProblemDocument

METHODS = ("get", "post", "put", "patch", "delete")
REF = "#/components/schemas/{name}"

F = TypeVar("F", bound=Callable[..., Any])


class Text(Struct):
    """Marks an answer or a body that is text of another media type than JSON."""

    media_type: str


class Operation(Struct, kw_only=True):
    """What one method of one path takes and gives."""

    summary: str
    query: type[Struct] | None = None
    body: type[Struct] | Text | None = None
    answers: dict[int, type[Struct] | Text | None]
    problems: tuple[int, ...] = ()
    keyed: bool = False
    public: bool = False


def operation(
    summary: str,
    *,
    query: type[Struct] | None = None,
    body: type[Struct] | Text | None = None,
    answers: Mapping[int, type[Struct] | Text | None],
    problems: Iterable[int] = (),
    keyed: bool = False,
) -> Callable[[F], F]:
    """Describes a responder. `keyed`: it takes an `Idempotency-Key`; `problems`: beside those that any may give."""

    def mark(responder: F) -> F:
        responder.operation = Operation(  # type: ignore[attr-defined]
            summary=summary, query=query, body=body, answers=dict(answers), problems=tuple(problems), keyed=keyed
        )
        return responder

    return mark


def document(routes: Iterable[tuple[str, object]], version: str, server: str = "/") -> dict[str, Any]:
    """The whole document for these (path, resource) pairs."""
    operations = [found for path, resource in routes for found in _operations(path, resource)]
    shapes = {ProblemDocument} | {
        shape for _, _, one, _ in operations for shape in (one.body, *one.answers.values()) if isinstance(shape, type)
    }
    queries = {one.query for _, _, one, _ in operations if one.query}
    _, components = msgspec.json.schema_components([*shapes, *queries], ref_template=REF)
    parameters = {shape: components.pop(shape.__name__) for shape in queries}
    paths: dict[str, dict[str, Any]] = {}
    for path, method, one, public in operations:
        paths.setdefault(path, {})[method] = _operation(path, method, one, public, parameters)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fleetbus",
            "version": version,
            "summary": "One event-sourced system that runs a fleet of machines",
            "description": "Errors are problem documents (RFC 9457): what was wrong, where, and what would be right.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "fleetbus_session"},
            },
        },
    }


def _operations(path: str, resource: object) -> Iterable[tuple[str, str, Operation, bool]]:
    for method in METHODS:
        one = getattr(getattr(resource, f"on_{method}", None), "operation", None)
        if one is not None:
            yield path, method, one, bool(getattr(resource, "public", False))


def _operation(
    path: str, method: str, one: Operation, public: bool, parameters: dict[type[Struct], dict[str, Any]]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(path, method),
        "summary": one.summary,
        "tags": [path.split("/")[3]],
        "parameters": [*_path_parameters(path), *_query_parameters(one, parameters), *_key_parameter(one)],
        "responses": {str(status): _answer(status, shape) for status, shape in one.answers.items()},
    }
    for status in _problem_statuses(one, public, "{" in path):
        described["responses"][str(status)] = _problem(status)
    if one.body is not None:
        described["requestBody"] = {"required": True, "content": _content(one.body)}
    if public:
        described["security"] = []
    return described


def _operation_id(path: str, method: str) -> str:
    words = re.sub(r"[{}]", "", path.removeprefix("/api/v1/")).replace(".", "/").split("/")
    return method + "".join(word.capitalize() for word in words)


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(one: Operation, parameters: dict[type[Struct], dict[str, Any]]) -> list[dict[str, Any]]:
    if one.query is None:
        return []
    schema = parameters[one.query]
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": _plain(field)}
        | ({"description": field["description"]} if "description" in field else {})
        for name, field in schema["properties"].items()
    ]


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if key != "description"}


def _key_parameter(one: Operation) -> list[dict[str, Any]]:
    if not one.keyed:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": 200}
    description = "the id of the command (a UUID), or any text from which it is derived: once at most is it done"
    return [{"name": "Idempotency-Key", "in": "header", "schema": schema, "description": description}]


def _problem_statuses(one: Operation, public: bool, named: bool) -> list[int]:
    found = {400, 503, *one.problems}
    found |= set() if public else {401, 403}
    found |= {404} if named else set()
    found |= {413, 415, 422} if one.body is not None else set()
    found |= {409} if one.keyed else set()
    return sorted(found - one.answers.keys())


def _answer(status: int, shape: type[Struct] | Text | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "done" if status < 300 else "an answer"}
    if shape is not None:
        answer["content"] = _content(shape)
    return answer


def _content(shape: type[Struct] | Text) -> dict[str, Any]:
    if isinstance(shape, Text):
        return {shape.media_type: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": {"$ref": REF.format(name=shape.__name__)}}}


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": REF.format(name=ProblemDocument.__name__)}
    return {"description": f"a problem document, status {status}", "content": {PROBLEM: {"schema": schema}}}
