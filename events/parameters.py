"""The parameters of a jumpscript: what `action` takes, and whether given values fit."""

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

from msgspec import Struct

__all__ = [
    "PARAM_TYPES",
    "Param",
    "ParamProblem",
    "ParamType",
    "Signature",
    "check_params",
    "convert_params",
    "is_json",
    "is_secret_reference",
]

#: `secret` is a text that is looked up on the node; `any` is whatever JSON can say.
ParamType = Literal["str", "int", "float", "bool", "list", "dict", "secret", "any"]
PARAM_TYPES: tuple[str, ...] = get_args(ParamType)

#: Where a secret may come from: a variable of the agent's environment, or a file on the node by its absolute path.
_SECRET_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/[^\0\n]+")
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
#: Lists and dicts may be nested this deep; beyond it, nobody's reader can be trusted to come back.
_MAX_DEPTH = 50
_MAX_INT = 2**63 - 1


class Param(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One parameter of `action`. `default` has a meaning only when it is not `required`."""

    name: str
    type: ParamType = "any"
    required: bool = True
    default: Any = None
    #: None is a value of its own for this parameter (`str | None`, or the default is None).
    nullable: bool = False
    descr: str = ""
    #: The only values allowed; empty means all.
    choices: tuple[Any, ...] = ()


class ParamProblem(Struct, frozen=True):
    """One reason why given parameters cannot be used. `message` says what would be right and never holds a secret."""

    param: str
    kind: Literal["unknown", "missing", "type", "choice", "secret"]
    message: str


class Signature(Protocol):
    """What `check_params` and `convert_params` need to know of a header."""

    @property
    def params(self) -> tuple[Param, ...]: ...
    @property
    def open_params(self) -> bool: ...


def check_params(header: Signature, given: Mapping[str, Any]) -> list[ParamProblem]:
    """All that is wrong with `given` (name to JSON value); an empty list means that the script can be run with it."""
    problems: list[ParamProblem] = []
    known = {param.name: param for param in header.params}
    for name, value in given.items():
        if param := known.get(name):
            problems += _check_value(param, value)
        elif not header.open_params:
            problems.append(ParamProblem(name, "unknown", _no_such_parameter(name, list(known))))
        elif not is_json(value):
            problems.append(ParamProblem(name, "type", f"{name} must be a JSON value"))
    for param in header.params:
        if param.required and param.name not in given:
            problems.append(ParamProblem(param.name, "missing", f"{param.name} ({param.type}) is missing"))
    return problems


def convert_params(header: Signature, given: Mapping[str, str]) -> dict[str, Any]:
    """Make values of the right types from texts, as a command line (`K=V`) or a form has them.

    A text that cannot be converted stays a text, so that `check_params` can say what is wrong with it. An empty text
    for an optional parameter other than a `str` means that it was not given.
    """
    known = {param.name: param for param in header.params}
    converted: dict[str, Any] = {}
    for name, text in given.items():
        param = known.get(name)
        if param is None:
            converted[name] = _from_any(text)
        elif text or param.required or param.type == "str":
            converted[name] = _convert(param, text)
    return converted


def is_json(value: object, *, _depth: int = 0) -> bool:
    """Whether `value` survives JSON unchanged: finite, 64-bit, real Unicode text, str keys, at most 50 levels deep."""
    match value:
        case None | bool():
            return True
        case int() | float():
            return -_MAX_INT - 1 <= value <= _MAX_INT if isinstance(value, int) else math.isfinite(value)
        case str():
            return _is_text(value)
        case list() | tuple() | dict() if _depth < _MAX_DEPTH:
            keys, items = (value.keys(), value.values()) if isinstance(value, dict) else ((), value)
            return all(isinstance(key, str) and _is_text(key) for key in keys) and all(
                is_json(item, _depth=_depth + 1) for item in items
            )
        case _:
            return False


def is_secret_reference(value: object) -> bool:
    return isinstance(value, str) and _SECRET_REFERENCE.fullmatch(value) is not None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


#: What a value of each type looks like, given that it is a JSON value.
_LOOKS_RIGHT: dict[ParamType, Callable[[object], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list | tuple),
    "dict": lambda value: isinstance(value, dict),
    "any": lambda _: True,
}


def _check_value(param: Param, value: Any) -> list[ParamProblem]:
    if value is None and param.nullable:
        return []
    if param.type == "secret":
        return [] if is_secret_reference(value) else [_literal_secret(param)]
    if not is_json(value) or not _LOOKS_RIGHT[param.type](value):
        article = "an" if param.type in {"int", "any"} else "a"
        wanted = "JSON value" if param.type == "any" else param.type
        message = f"{param.name} must be {article} {wanted}, not the {type(value).__name__} {_shown(value)}"
        return [ParamProblem(param.name, "type", message)]
    if param.choices and value not in param.choices:
        message = f"{param.name} must be one of {_listed(param.choices)}, not {_shown(value)}"
        return [ParamProblem(param.name, "choice", message)]
    return []


def _literal_secret(param: Param) -> ParamProblem:
    # the value may be the secret itself, and the log cannot forget: it is never shown
    message = (
        f"{param.name} is a secret: give env:NAME (a variable of the agent's environment) or file:/PATH (a file on the "
        "node); a literal is refused because the log cannot forget it"
    )
    return ParamProblem(param.name, "secret", message)


def _no_such_parameter(name: str, known: Sequence[str]) -> str:
    if not known:
        return f"there is no parameter {_shown(name)}: this script takes none"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"there is no parameter {_shown(name)}{hint} (there is: {', '.join(known)})"


def _convert(param: Param, text: str) -> Any:
    if param.nullable and text == "null" and param.type != "str":
        return None
    return _CONVERTERS[param.type](text)


def _from_int(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _from_float(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _from_bool(text: str) -> Any:
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else text


def _from_list(text: str) -> Any:
    """Read a JSON array, or items between commas (each a text)."""
    if text.lstrip().startswith("["):
        return _from_any(text)
    return [item.strip() for item in text.split(",")] if text else []


def _from_any(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if is_json(value) else text


#: How a text becomes a value of each type; what cannot be converted comes back as it is.
_CONVERTERS: dict[ParamType, Callable[[str], Any]] = {
    "str": str,
    "secret": str,
    "int": _from_int,
    "float": _from_float,
    "bool": _from_bool,
    "list": _from_list,
    "dict": _from_any,
    "any": _from_any,
}


def _listed(values: Sequence[object]) -> str:
    return ", ".join(_shown(value) for value in values)


def _shown(value: object) -> str:
    """A value as an error message shows it: short, and without surprises."""
    try:
        text = ascii(value) if not isinstance(value, str) or not _is_text(value) else repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, a list of itself
        text = f"(a {type(value).__name__})"
    return text if len(text) <= 60 else text[:57] + "..."
