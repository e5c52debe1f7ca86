"""The header of a jumpscript, read without running it.

A jumpscript is one Python file: module variables that describe it, and a function `action` that does the work.

    descr = "Free space of every mounted file system."
    period = 300

    def action(warn_percent: int = 90) -> dict: ...

The header is the literals assigned at the top level to the names in `header_fields.FIELDS`; all other names are the
script's own. Parameters are those of `action`: annotations and defaults say what they are, and a literal dict `params`
may add `type`, `descr` and `choices`. Files of the original jumpscripts can be read as well: `async = True`, a syntax
error in today's Python, is taken for `is_async = True`.
"""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from msgspec import Struct

from events.header_fields import FIELDS, BadValue, HeaderError, literal, script_name
from events.header_params import Action, read_params
from events.parameters import Param, ParamProblem, check_params, convert_params
from events.script import MAX_SOURCE

__all__ = [
    "DEFAULT_QUEUE",
    "Header",
    "HeaderError",
    "Param",
    "ParamProblem",
    "check_params",
    "convert_params",
    "modern_source",
    "parse_header",
    "script_hash",
]

#: The queue of a script that names none.
DEFAULT_QUEUE = "default"

_OLD_ASYNC = re.compile(r"^async\s*=", re.MULTILINE)


class Header(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a jumpscript says of itself."""

    name: str
    descr: str
    organization: str = "unknown"
    category: str = "unknown"
    author: str = "unknown"
    license: str = "unknown"
    version: str = "1.0"
    #: Nodes that hold one of these may run it; empty means every node.
    roles: tuple[str, ...] = ()
    #: The worker queue on the node.
    queue: str = DEFAULT_QUEUE
    #: As the original jumpscripts say it. Every job runs in a worker, whatever this is.
    is_async: bool = False
    #: Seconds, a cron line in UTC, or 0: only on demand.
    period: int | str = 0
    #: Run once when the agent starts.
    startatboot: bool = False
    #: Boot and periodic runs that are due together begin in this order, lowest first.
    order: int = 1
    #: Seconds; None means the limit of the queue.
    timeout: int | float | None = None
    #: False: a run of the agent's own that ends well leaves no record, only telemetry.
    log: bool = True
    #: False: it is never started by the agent itself.
    enable: bool = True
    #: How often a failed job is run again, each time as a new job.
    retries: int = 0
    #: True: its process may be kept for its next job on the node, with what it imported.
    keep_process: bool = False
    #: What the owner of a node must have allowed its agent before this script may run there (`shell`).
    requires: tuple[str, ...] = ()
    params: tuple[Param, ...] = ()
    #: `action` takes `**kwargs`: parameters beyond `params` are let through.
    open_params: bool = False

    @property
    def runs_by_itself(self) -> bool:
        """Whether an agent starts it without being asked."""
        return self.enable and (bool(self.period) or self.startatboot)


def parse_header(source: str, filename: str = "") -> Header:
    """Read the header of a script; nothing of it is executed. `filename` gives the name where the file says none.

    Raises HeaderError, and nothing else, for any text that is not a usable jumpscript.
    """
    try:
        return _read(source, filename)
    except HeaderError as error:
        raise HeaderError(error.field, error.line, error.message, filename) from None


def script_hash(source: str) -> str:
    """The identity of a version of a script: SHA-256 of its UTF-8 bytes, in 64 hexadecimal digits."""
    return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()


def modern_source(source: str) -> str:
    """The source as today's Python can compile it: `async = …` at the top level becomes `is_async = …`.

    Lines keep their numbers. Anything else that is no Python is left as it is.
    """
    if not _OLD_ASYNC.search(source):
        return source
    lines = list(io.StringIO(source))
    try:
        for row in _old_async_rows(source):
            lines[row - 1] = "is_" + lines[row - 1]
    except (tokenize.TokenError, SyntaxError, IndexError):
        return source
    return "".join(lines)


def _old_async_rows(source: str) -> Iterator[int]:
    """Rows that begin with the tokens `async =`. Tokens, since a text in triple quotes may hold the same line."""
    depth, previous = 0, None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        old = previous is not None and previous.string == "async" and previous.start[1] == 0
        if old and token.string == "=" and not depth:
            yield token.start[0]
        previous = token


def _read(source: str, filename: str) -> Header:
    tree = _syntax_tree(source)
    assigned = dict(_assignments(tree))
    fields = {name: _field(name, node) for name, node in assigned.items() if name in FIELDS}
    if "descr" not in fields:
        raise HeaderError("descr", 0, 'is missing; write descr = "what the script does" at the top of the file')
    fields["name"] = fields.get("name") or _name_of_file(filename)
    fields["queue"] = fields.get("queue") or DEFAULT_QUEUE
    action = _action(tree)
    header = Header(**fields, params=read_params(action, assigned), open_params=action.args.kwarg is not None)
    _check_runs_alone(header, action)
    return header


def _syntax_tree(source: str) -> ast.Module:
    if len(source) > MAX_SOURCE:
        raise HeaderError("source", 0, f"has {len(source):,} characters; at most {MAX_SOURCE:,} are allowed")
    try:
        source.encode()
        return ast.parse(modern_source(source))
    except SyntaxError as error:
        raise HeaderError("source", error.lineno or 0, f"is not valid Python: {error.msg}") from None
    except UnicodeEncodeError:
        raise HeaderError("source", 0, "is not Unicode text; save the file as UTF-8") from None
    except (ValueError, RecursionError, MemoryError, OverflowError):
        raise HeaderError("source", 0, "is not valid Python: it holds a zero byte or is nested too deep") from None


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names that are assigned at the top level, and what; the last of equal names wins, as in Python."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def _field(name: str, node: ast.expr) -> Any:
    try:
        return FIELDS[name](literal(node))
    except BadValue as error:
        raise HeaderError(name, node.lineno, str(error)) from None


def _name_of_file(filename: str) -> str:
    try:
        return script_name(PurePath(filename).name.lower().removesuffix(".py"))
    except BadValue:
        raise HeaderError("name", 0, 'does not follow from the file name; write name = "my_script"') from None


def _action(tree: ast.Module) -> Action:
    functions = [statement for statement in tree.body if isinstance(statement, Action) and statement.name == "action"]
    if not functions:
        raise HeaderError("action", 0, "is missing; write def action(): … at the top level, it is what runs")
    return functions[-1]


def _check_runs_alone(header: Header, action: Action) -> None:
    needed = [param.name for param in header.params if param.required]
    if needed and (header.period or header.startatboot):
        message = f"nobody gives parameters to a script that starts by itself; give {', '.join(needed)} a default"
        raise HeaderError("action", action.lineno, message)
