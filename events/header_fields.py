"""The fields of a jumpscript's header: their literals, and what each may be."""

import ast
import re
from collections.abc import Callable
from typing import Any

from events.names import ROLE_PATTERN, SCRIPT_PATTERN
from events.parameters import is_json

_MAX_TEXT = 4_000
#: Ten years: longer than anyone waits, short enough for every clock and database.
_MAX_SECONDS = 10 * 366 * 86_400
_MAX_RETRIES = 10
_PLAIN_NAME = re.compile(r"[a-z0-9_-]{1,63}")
#: Cron's five fields or an alias. What croniter offers beyond that (random and hashed fields, seconds) is left out:
#: every node must compute the same slots.
_CRON_FIELD = r"(?:[0-9*,/-]|mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)+"
_CRON_ALIAS = r"@(?:hourly|daily|midnight|weekly|monthly|yearly|annually)"
_CRON = re.compile(rf"{_CRON_FIELD}(?: {_CRON_FIELD}){{4}}|{_CRON_ALIAS}", re.IGNORECASE)


class HeaderError(ValueError):
    """A file is not a usable jumpscript. `line` counts from 1; 0 means the file as a whole."""

    def __init__(self, field: str, line: int, message: str, filename: str = "") -> None:
        self.field = field
        self.line = line
        self.message = message
        self.filename = filename
        place = f"{filename or 'script'}{f', line {line}' if line else ''}"
        super().__init__(f"{place}: {field}: {message}")


class BadValue(ValueError):
    """A value does not fit its field; the message says what would be right."""


def literal(node: ast.expr) -> Any:
    """The value of a literal, or of a product of numbers as in `period = 60 * 5`. Raises BadValue."""
    try:
        value = _product(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise BadValue(
            "must be a literal, because the header is read without running the file "
            "(a variable of the script's own needs another name)"
        ) from None
    if not is_json(value):
        raise BadValue("must be something that JSON can say: text, number, True, False, None, list or dict")
    return _with_lists(value)


def _with_lists(value: Any) -> Any:
    """Tuples are lists once they have been through JSON, so they are lists from the start."""
    match value:
        case list() | tuple():
            return [_with_lists(item) for item in value]
        case dict():
            return {key: _with_lists(item) for key, item in value.items()}
        case _:
            return value


def _product(node: ast.expr) -> Any:
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            factors = _product(left), _product(right)
            if all(type(factor) in {int, float} and abs(factor) <= _MAX_SECONDS for factor in factors):
                return factors[0] * factors[1]
            raise BadValue("not a product of numbers")
        case _:
            return ast.literal_eval(node)


def script_name(value: Any) -> str:
    name = _text(value)
    if not re.fullmatch(SCRIPT_PATTERN, name):
        raise BadValue("must be lower-case letters, digits, _, . and -, at most 100, as in disk_usage")
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadValue(f"must be a text, not {type(value).__name__}")
    if len(value) > _MAX_TEXT:
        raise BadValue(f"has {len(value):,} characters; at most {_MAX_TEXT:,} are allowed")
    return value.strip()


def _descr(value: Any) -> str:
    if text := _text(value):
        return text
    raise BadValue("is empty; say in a sentence what the script does")


def _version(value: Any) -> str:
    return str(value) if type(value) in {int, float} else _text(value)


def _queue(value: Any) -> str:
    queue = _text(value)
    if queue and not _PLAIN_NAME.fullmatch(queue):
        raise BadValue("must be lower-case letters, digits, _ and -, at most 63, as in io")
    return queue


def _roles(value: Any) -> tuple[str, ...]:
    """`*` in the original jumpscripts means every node, which is what no role means here."""
    roles = tuple(role for role in _names(value) if role != "*")
    for role in roles:
        if not re.fullmatch(ROLE_PATTERN, role):
            raise BadValue(f"{role[:60]!a} is no role; a role is a-z, 0-9, - and dots, as in computenode.kvm")
    return roles


def _requires(value: Any) -> tuple[str, ...]:
    for name in _names(value):
        if not _PLAIN_NAME.fullmatch(name):
            raise BadValue(f"{name[:60]!a} is no capability; one looks like shell")
    return tuple(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise BadValue('must be a list of texts, as in ["computenode"]')
    return tuple(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"must be True or False, not {type(value).__name__}")
    return value


def _whole(lowest: int, highest: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise BadValue(f"must be a whole number from {lowest} to {highest}")
        return value

    return check


def _timeout(value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_SECONDS:
        return value
    raise BadValue("must be seconds greater than 0, or None for the limit of the queue")


def _period(value: Any) -> int | str:
    if type(value) is int and 0 <= value <= _MAX_SECONDS:
        return value
    if isinstance(value, str):
        return _cron(" ".join(value.split())) or 0
    raise BadValue('must be whole seconds, 0 for never, or a cron line such as "*/5 * * * *"')


def _cron(line: str) -> str:
    if line and not (_CRON.fullmatch(line) and _comes_due(line)):
        raise BadValue(
            'is no cron line that ever comes due; it has minute, hour, day, month and weekday, as in "30 4 * * 1", '
            "or is one of @hourly, @daily, @weekly, @monthly, @yearly; all in UTC"
        )
    return line


def _comes_due(line: str) -> bool:
    # here, because workers read headers too, and each fork of theirs would pay for what they have loaded
    from croniter import CroniterError, croniter

    try:
        croniter(line, 0).get_next(float)
    except (CroniterError, ValueError, KeyError):
        return False
    return True


#: The fields of a header, and how each is checked: from a literal to its value, or BadValue.
FIELDS: dict[str, Callable[[Any], Any]] = {
    "name": script_name,
    "descr": _descr,
    "organization": _text,
    "category": _text,
    "author": _text,
    "license": _text,
    "version": _version,
    "roles": _roles,
    "queue": _queue,
    "is_async": _flag,
    "period": _period,
    "startatboot": _flag,
    "order": _whole(-1_000_000, 1_000_000),
    "timeout": _timeout,
    "log": _flag,
    "enable": _flag,
    "retries": _whole(0, _MAX_RETRIES),
    "keep_process": _flag,
    "requires": _requires,
}
