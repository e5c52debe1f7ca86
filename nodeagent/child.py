"""The inside of a job's process: forked from a warm worker, it runs one script once and is gone.

Since every job has a process of its own, no job sees what another left behind: modules, variables, threads, handlers.
Only a script that says `keep_process` gets the process of its last run again, if that is fit for it (`leftovers`).
It is given its job through one pipe (`Assignment`) and tells of itself through another (`Report`), in frames.
"""

import faulthandler
import inspect
import json
import linecache
import marshal
import os
import signal
import struct
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from nodeagent.leftovers import Ground
from nodeagent.outcome import MAX_ERROR, MAX_TRACEBACK, shortened
from nodeagent.processes import JOB_MARK, WORKER_MARK, die_with_parent
from nodeagent.tracebacks import of_exception
from nodeagent.work import Work

#: Makes a job write down where it is, even while it is busy in C code. No script is likely to use this signal itself.
WHERE_SIGNAL = signal.SIGRTMIN + 5
#: The largest result, in bytes of JSON.
MAX_RESULT = 10_000_000
#: The largest file that may hold a secret, in bytes.
_MAX_SECRET = 64_000
#: A shorter secret is not masked: it would take half of all output with it.
_MIN_MASKED = 4
#: The kernel, short of memory, takes jobs before it takes workers and agent.
_OOM_SCORE = "500"
_MAX_RESULT_DEPTH = 50

#: The exit code of a process that did not get as far as a report.
EXIT_UNSETTLED = 70

FRAME_HEAD = struct.Struct("<I")


class Masks(Struct, frozen=True, tag=True):
    """Texts that must not be shown. Told before the script's action begins."""

    texts: tuple[str, ...]


class Returned(Struct, frozen=True, tag=True):
    """`kept`: the process is fit for another job of this script, and waits for it."""

    result: bytes
    kept: bool = False


class Raised(Struct, frozen=True, tag=True):
    error: str
    traceback: str


class Interrupted(Struct, frozen=True, tag=True):
    """SIGTERM unwound the script."""


Report = Masks | Returned | Raised | Interrupted


class Assignment(Struct, frozen=True):
    """What a waiting process is given through its gate: a job, and its script as compiled by the worker.

    `secrets` names the parameters that are references to secrets. `keep`: the process may be kept after it.
    """

    work: Work
    filename: str
    code: bytes
    secrets: tuple[str, ...]
    keep: bool = False


class Pipes(Struct, frozen=True):
    """The ends that the job's process has of its pipes."""

    out: int
    err: int
    report: int
    where: int
    gate: int


_assignments = msgspec.msgpack.Decoder(Assignment)


class _Stopped(BaseException):
    """Raised inside the script by SIGTERM, so that its `finally` blocks run."""


class _Refused(Exception):
    """The script was not run, or what it returned cannot be used; the message says why."""


def run_job(pipes: Pipes, directory: Path, worker: int) -> NoReturn:
    """All of the life of a job's process; called right after the fork, and never returns.

    It is made before there is a job for it: it settles, waits for one at its gate, and then waits to be let through.
    """
    me = os.getpid()
    try:
        _settle(pipes, directory, worker)
        job = _read_assignment(pipes.gate)
        ground = Ground(directory) if job.keep else None
        while _serve(job, pipes, ground, me):
            job = _read_assignment(pipes.gate)
    except BaseException:  # noqa: BLE001  # nothing may unwind from here into the worker's loop
        os._exit(EXIT_UNSETTLED)
    os._exit(0)


def _serve(job: Assignment, pipes: Pipes, ground: Ground | None, me: int) -> bool:
    """One job, once it is let through. Whether this process waits for the next one."""
    _take_job(job)
    if not os.read(pipes.gate, 1):
        return False
    report = _run(job, pipes.report)
    if os.getpid() != me:  # a process that the script forked and that came back here
        return False
    if isinstance(report, Returned) and ground is not None and not job.secrets and ground.restored(job.filename):
        _send(pipes.report, Returned(report.result, kept=True))
        signal.signal(signal.SIGTERM, _on_term)
        return True
    _send(pipes.report, report)
    return False


def write_frame(pipe: int, body: bytes) -> None:
    """Write a frame, length first; blocks until the other side has taken it. Raises BrokenPipeError when it is gone."""
    frame = memoryview(FRAME_HEAD.pack(len(body)) + body)
    while frame:
        frame = frame[os.write(pipe, frame) :]


# -------------------------------------------------------------------- before the script


def _settle(pipes: Pipes, directory: Path, worker: int) -> None:
    """Make the process its own master: group, signals, descriptors, directory."""
    os.setpgid(0, 0)
    die_with_parent(worker)
    _take_signals(pipes.where)
    _take_descriptors(pipes)
    Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    os.chdir(directory)


def _read_assignment(gate: int) -> Assignment:
    head = _read_exactly(gate, FRAME_HEAD.size)
    return _assignments.decode(_read_exactly(gate, FRAME_HEAD.unpack(head)[0]))


def _read_exactly(gate: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += (piece := os.read(gate, size - len(data)))
        if not piece:
            os._exit(0)  # the worker is gone, or has no job for it any more
    return data


def _take_job(job: Assignment) -> None:
    work = job.work
    os.environ.pop(WORKER_MARK, None)
    os.environ.update(work.env)
    os.environ.update({JOB_MARK: work.job_id, "FLEETBUS_NODE_ID": work.node_id, "FLEETBUS_ACTOR": work.actor})
    lines = work.source.splitlines(keepends=True)
    linecache.cache[job.filename] = (len(work.source), None, lines, job.filename)


def _take_signals(where: int) -> None:
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _on_term)
    faulthandler.register(WHERE_SIGNAL, file=where, all_threads=False)
    faulthandler.enable(file=where, all_threads=False)


def _on_term(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped


def _take_descriptors(pipes: Pipes) -> None:
    """Leave the script with standard input (empty), output and error, and nothing of the worker's."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (pipes.out, 1), (pipes.err, 2)):
        os.dup2(source, target)
    kept = sorted({2, pipes.report, pipes.where, pipes.gate})
    for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, target in (("stdout", 1), ("stderr", 2)):
        # line by line, so that lines of both streams and of child processes come out in their order
        stream = open(target, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# --------------------------------------------------------------------------- the script


def _run(job: Assignment, pipe: int) -> Report:
    """Call the script, and say what came of it; secrets are masked in all of it."""
    masks: tuple[str, ...] = ()
    try:
        params, masks = _resolved(job)
        if masks:
            _send(pipe, Masks(masks))
        report: Report = Returned(_encoded(_call(job, params)))
    except _Stopped:
        report = Interrupted()
    except _Refused as error:
        report = Raised(str(error), "")
    except SystemExit as error:
        report = _exited(error)
    except BaseException as error:  # noqa: BLE001  # whatever a script raises is its failure, not ours
        report = Raised(_sentence(error), of_exception(error, job.filename))
    finally:
        # from here on the process only reports; SIGTERM must not cut the report in two
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _flush()
    return _masked_report(report, masks)


def _call(job: Assignment, params: Mapping[str, Any]) -> Any:
    module = ModuleType("jumpscript")
    module.__file__ = job.filename
    sys.modules["jumpscript"] = module
    exec(marshal.loads(job.code), module.__dict__)  # noqa: S102, S302  # to run scripts is what a worker is for
    result = module.__dict__["action"](**params)
    return _awaited(result) if inspect.iscoroutine(result) else result


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # loaded by the worker when it read the script, for those that need it

    return asyncio.run(coroutine)


def _exited(error: SystemExit) -> Report:
    if error.code in {None, 0}:
        return Returned(b"null")
    # as in any Python program, a text says why it ended
    said = error.code if isinstance(error.code, str) and error.code else ""
    return Raised(said or f"the script called sys.exit({_shown(error.code, repr)})", "")


def _sentence(error: BaseException) -> str:
    text = _shown(error, str)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(value: object, show: Callable[[object], str]) -> str:
    try:
        return show(value)
    except Exception:  # noqa: BLE001  # an object of the script's own may be unable to show itself
        return ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112  # the script may have closed or replaced it
            continue


def _send(pipe: int, report: Report) -> None:
    write_frame(pipe, msgspec.msgpack.encode(report))


# ------------------------------------------------------------------------------ secrets


def _resolved(job: Assignment) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The parameters with their secrets looked up, and the texts to be masked from now on."""
    params = job.work.params
    secrets = {name: _secret(name, params[name]) for name in job.secrets}
    lines = {line for secret in secrets.values() for line in [secret, *secret.splitlines()]}
    masks = sorted((line for line in lines if len(line) >= _MIN_MASKED), key=len, reverse=True)
    return params | secrets, tuple(masks)


def _secret(name: str, reference: str) -> str:
    kind, _, place = reference.partition(":")
    try:
        if kind == "env":
            return os.environ[place]
        with Path(place).open(encoding="utf-8") as file:
            text = file.read(_MAX_SECRET + 1)
    except KeyError:
        raise _Refused(f"secret {name}: the agent's environment on this node has no variable {place}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise _Refused(f"secret {name}: the file {place} cannot be read on this node: {reason}") from None
    if len(text) > _MAX_SECRET:
        raise _Refused(f"secret {name}: the file {place} is larger than {_MAX_SECRET:,} characters")
    return text.removesuffix("\n")


def _masked_report(report: Report, masks: tuple[str, ...]) -> Report:
    match report:
        case Returned(result=result) if masks:
            return Returned(_masked(result.decode(), map(_json_escaped, masks)).encode())
        case Raised(error=error, traceback=trace):
            error, trace = _masked(error, masks), _masked(trace, masks)
            return Raised(shortened(error, MAX_ERROR), shortened(trace, MAX_TRACEBACK))
        case _:
            return report


def _masked(text: str, masks: Iterable[str]) -> str:
    for mask in masks:
        text = text.replace(mask, "***")
    return text


def _json_escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


# ------------------------------------------------------------------------------- result


def _encoded(result: Any) -> bytes:
    if found := _unsayable(result, "result", 0):
        raise _Refused(found)
    encoded = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(encoded) > MAX_RESULT:
        raise _Refused(
            f"the result has {len(encoded):,} bytes of JSON, at most {MAX_RESULT:,} are allowed; "
            "write large data to a file on the node and return its path"
        )
    return encoded


def _unsayable(value: Any, place: str, depth: int) -> str:
    """Which part of a result JSON cannot say; empty when it can say all of it."""
    match value:
        case None | bool() | int():
            return ""
        case float():
            return "" if abs(value) < float("inf") else f"{place} is {value}, which is no number in JSON"
        case str():
            return _unsayable_text(value, place)
        case list() | tuple() | dict() if depth >= _MAX_RESULT_DEPTH:
            return f"the result is nested deeper than {_MAX_RESULT_DEPTH} levels"
        case list() | tuple():
            found = (_unsayable(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value))
        case dict():
            found = (_unsayable_item(key, item, place, depth + 1) for key, item in value.items())
        case _:
            return (
                f"{place} is a {type(value).__name__}, which JSON cannot say; action may return None, bool, int, "
                "float, str, and lists and dicts of these"
            )
    return next(filter(None, found), "")


def _unsayable_item(key: Any, item: Any, place: str, depth: int) -> str:
    if not isinstance(key, str):
        return f"{place} has the key {key!r:.60}, a {type(key).__name__}; keys must be str"
    return _unsayable_text(key, f"a key of {place}") or _unsayable(item, f"{place}.{key:.60}", depth)


def _unsayable_text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f'{place} holds bytes that are no Unicode text (decode with errors="replace")'
    return ""
