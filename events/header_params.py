"""From the signature of `action` to the parameters of a jumpscript."""

import ast
from collections.abc import Mapping
from typing import Any, NoReturn

from msgspec import Struct

from events.header_fields import BadValue, HeaderError, literal
from events.parameters import PARAM_TYPES, Param, ParamType, check_params, is_json, is_secret_reference

Action = ast.FunctionDef | ast.AsyncFunctionDef

#: What a default, or an item of `Literal[…]`, says of its parameter's type.
_TYPE_OF: dict[type, ParamType] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    list: "list",
    tuple: "list",
    dict: "dict",
}
_ANNOTATIONS: dict[str, ParamType] = {
    "str": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "list": "list",
    "List": "list",
    "dict": "dict",
    "Dict": "dict",
}


class _Noted(Struct, frozen=True):
    """What an annotation says."""

    type: ParamType | None = None
    nullable: bool = False
    choices: tuple[Any, ...] = ()


class _Extra(Struct, frozen=True):
    """What the dict `params` adds to a parameter."""

    type: ParamType | None = None
    descr: str = ""
    choices: tuple[Any, ...] = ()


class _One(Struct, frozen=True):
    """The signature of one parameter alone."""

    params: tuple[Param, ...]
    open_params: bool = False


def read_params(action: Action, assigned: Mapping[str, ast.expr]) -> tuple[Param, ...]:
    """The parameters of `action`; `assigned` are the module's variables, for `params` and for defaults by name.

    Raises HeaderError for a signature that cannot be called with named parameters, or where defaults do not fit.
    """
    arguments = action.args
    if arguments.vararg or arguments.posonlyargs:
        _refuse(action, "action is called with named parameters; write them without * and /")
    extras = _extras(assigned.get("params"))
    without_default = [None] * (len(arguments.args) - len(arguments.defaults))
    pairs = [
        *zip(arguments.args, [*without_default, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    params = tuple(
        _param(argument, _constant(default, assigned), extras.get(argument.arg, _Extra()))
        for argument, default in pairs
    )
    if unknown := extras.keys() - {param.name for param in params}:
        raise HeaderError("params", assigned["params"].lineno, f"action has no parameter {', '.join(sorted(unknown))}")
    return params


def _param(argument: ast.arg, default: ast.expr | None, extra: _Extra) -> Param:
    noted = _annotation(argument.annotation)
    value = _default(default)
    param = Param(
        name=argument.arg,
        type=extra.type or noted.type or _TYPE_OF.get(type(value), "any"),
        required=default is None,
        default=value,
        nullable=noted.nullable or (default is not None and value is None),
        descr=extra.descr,
        choices=extra.choices or noted.choices,
    )
    _check_fits(param, default or argument)
    return param


def _constant(node: ast.expr | None, assigned: Mapping[str, ast.expr]) -> ast.expr | None:
    """Looks up a default that is one of the script's own constants."""
    return assigned.get(node.id, node) if isinstance(node, ast.Name) else node


def _default(node: ast.expr | None) -> Any:
    """A default's value; None also where only running the script would tell."""
    try:
        return None if node is None else literal(node)
    except BadValue:
        return None


def _check_fits(param: Param, node: ast.expr | ast.arg) -> None:
    if param.choices and param.type in {"list", "dict", "secret"}:
        _refuse(node, f"{param.name}: choices are for single values, not for a {param.type}")
    if param.type == "secret" and param.default and not is_secret_reference(param.default):
        _refuse(node, f"{param.name}: the default of a secret is env:NAME, file:/PATH or None")
    if param.type != "secret" and param.default is not None:
        for problem in check_params(_One((param,)), {param.name: param.default}):
            _refuse(node, f"the default does not fit: {problem.message}")


def _refuse(node: ast.expr | ast.arg | Action, message: str) -> NoReturn:
    raise HeaderError("action", node.lineno, message)


# -------------------------------------------------------------------------- annotations


def _annotation(node: ast.expr | None) -> _Noted:
    """What an annotation says; nothing for one that it cannot read."""
    match node:
        case ast.Constant(value=str(text)):  # an annotation in quotes
            return _quoted(text)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _Noted(_ANNOTATIONS.get(name))
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _nullable(left)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _subscript(name, inner)
        case _:
            return _Noted()


def _quoted(text: str) -> _Noted:
    try:
        inner = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Noted()
    return _Noted() if isinstance(inner, ast.Constant) else _annotation(inner)


def _nullable(node: ast.expr) -> _Noted:
    noted = _annotation(node)
    return _Noted(noted.type, nullable=True, choices=noted.choices)


def _subscript(name: str, inner: ast.expr) -> _Noted:
    if name == "Optional":
        return _nullable(inner)
    if name != "Literal":
        return _Noted(_ANNOTATIONS.get(name))
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    values = tuple(item.value for item in items if isinstance(item, ast.Constant))
    kinds = {_TYPE_OF.get(type(value), "any") for value in values}
    return _Noted(kinds.pop(), choices=values) if len(kinds) == 1 and is_json(values) else _Noted()


# -------------------------------------------------------------------- the dict `params`


def _extras(node: ast.expr | None) -> dict[str, _Extra]:
    if node is None:
        return {}
    try:
        value = literal(node)
        if not isinstance(value, dict) or not all(isinstance(extra, dict) for extra in value.values()):
            raise BadValue('must be a dict of dicts, as in params = {"path": {"descr": "the file to read"}}')
        return {name: _extra(name, extra) for name, extra in value.items()}
    except BadValue as error:
        raise HeaderError("params", node.lineno, str(error)) from None


def _extra(name: str, extra: Mapping[str, Any]) -> _Extra:
    kind, descr, choices = extra.get("type"), extra.get("descr", ""), extra.get("choices", ())
    if unknown := extra.keys() - {"type", "descr", "choices"}:
        raise BadValue(f"{name}: {', '.join(sorted(unknown))} is not known; there are type, descr and choices")
    if kind is not None and kind not in PARAM_TYPES:
        raise BadValue(f"{name}: the type must be one of {', '.join(PARAM_TYPES)}")
    if not isinstance(descr, str):
        raise BadValue(f"{name}: descr must be a text")
    if not isinstance(choices, list | tuple):
        raise BadValue(f"{name}: choices must be a list of the values allowed")
    return _Extra(kind, descr, tuple(choices))
