"""A jumpscript made ready to run: checked, compiled, and kept as long as it is in use."""

import importlib
import inspect
import marshal
from collections.abc import Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from msgspec import Struct

from events.header import Header, HeaderError, check_params, modern_source, parse_header, script_hash
from nodeagent.outcome import Failed
from nodeagent.tracebacks import of_exception

#: Versions of scripts that a worker keeps compiled.
_KEPT = 64


class Script(Struct, frozen=True):
    """`filename` is what tracebacks show: name and version. `code` is compiled, and as `marshal` writes it."""

    filename: str
    header: Header
    code: bytes

    def problems(self, params: Mapping[str, Any]) -> str:
        """All that is wrong with the parameters, in one sentence; empty when they fit."""
        return "; ".join(problem.message for problem in check_params(self.header, params))

    def secrets(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of those parameters that are references to secrets."""
        secret = (param.name for param in self.header.params if param.type == "secret")
        return tuple(name for name in secret if params.get(name) is not None)


@lru_cache(maxsize=_KEPT)
def prepare(name: str, source: str) -> Script | Failed:
    """Read and compile a script; nothing of it runs. A script that cannot run is a failure that says why."""
    filename = f"{name}@{script_hash(source)[:12]}"
    try:
        header = parse_header(source, name)
        code = compile(modern_source(source), filename, "exec", dont_inherit=True)
    except HeaderError as error:
        return Failed(str(error))
    except SyntaxError as error:  # what only the compiler sees, such as `return` outside of a function
        return Failed(f"{filename}, line {error.lineno}: {error.msg}", of_exception(error, filename))
    except (ValueError, RecursionError, MemoryError) as error:
        return Failed(f"{filename} does not compile: {error}")
    if any(isinstance(part, CodeType) and part.co_flags & inspect.CO_COROUTINE for part in code.co_consts):
        importlib.import_module("asyncio")  # large: only in workers that run such scripts, but then once
    return Script(filename, header, marshal.dumps(code))
