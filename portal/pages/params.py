"""The form for a script's parameters, made from its header: from fields to values and back."""

import json
from typing import Any

import msgspec
from msgspec import Struct

from events.header import Header, Param, check_params, convert_params
from portal.bodies import Form

#: What a form field's name begins with.
PREFIX = "p."


class Field(Struct, frozen=True, kw_only=True):
    """One parameter as a form shows it. `kind`: select, lines, number, secret or text."""

    name: str
    type: str
    kind: str
    required: bool
    value: str
    descr: str
    options: list[str]
    problem: str


def header_of(script: dict[str, Any]) -> Header | None:
    """The header that a document of the view `scripts` holds; None when it cannot be read."""
    try:
        return msgspec.convert(script.get("header"), Header)
    except msgspec.ValidationError:
        return None


def fields(header: Header, form: Form | None = None, problems: dict[str, str] | None = None) -> list[Field]:
    """The fields, with the defaults, or with what was given and what is wrong with it."""
    return [_field(param, form, (problems or {}).get(param.name, "")) for param in header.params]


def _field(param: Param, form: Form | None, problem: str) -> Field:
    given = None if form is None else form.get(PREFIX + param.name)
    return Field(
        name=PREFIX + param.name,
        type=param.type,
        kind=_kind(param),
        required=param.required,
        value=_text(param) if given is None else given,
        descr=param.descr,
        options=_options(param),
        problem=problem,
    )


def _kind(param: Param) -> str:
    if param.choices or param.type == "bool":
        return "select"
    return {"int": "number", "float": "number", "secret": "secret", "str": "text"}.get(param.type, "lines")


def _options(param: Param) -> list[str]:
    values = [_said(value) for value in param.choices] or (["true", "false"] if param.type == "bool" else [])
    return values if param.required or not param.nullable else ["", *values]


def _text(param: Param) -> str:
    return "" if param.required or param.default is None else _said(param.default)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def values(header: Header, form: Form) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters that a form gives, and what is wrong with them by name.

    An empty field of an optional parameter means that it was not given.
    """
    given = {
        param.name: form[PREFIX + param.name].replace("\r\n", "\n")
        for param in header.params
        if PREFIX + param.name in form
    }
    optional = {param.name for param in header.params if not param.required}
    named = {name: text for name, text in given.items() if text != "" or name not in optional}
    params = convert_params(header, named)
    problems = check_params(header, params)
    return params, {problem.param: problem.message for problem in reversed(problems)}
