"""`fleetbus run` and `fleetbus exec`: a script on nodes, and what comes of it."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from bus.clock import new_id
from fleetbus.commands import show
from fleetbus.commands.options import talks
from fleetbus.errors import FAILED, Failure, Wrong
from fleetbus.output import Printer

if TYPE_CHECKING:
    from fleetbus.api import Api

#: Seconds after a first Ctrl-C during which a second one cancels.
SECOND_THOUGHT = 2.0
#: Seconds that a portal may take to come back before a job is sent.
RESTART_SECONDS = 5.0


def _target_options(function: Any) -> Any:
    for option in reversed(
        (
            click.option("--node", "nodes", multiple=True, metavar="NODE", help="On this node; may be given again."),
            click.option("--role", metavar="ROLE", help="On one node that holds the role."),
            click.option("--all", "everywhere", is_flag=True, help="On every node, or every one of the role."),
            click.option(
                "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Seconds a run may take."
            ),
            click.option(
                "--start-within",
                type=click.FloatRange(min=0, min_open=True),
                metavar="S",
                help="Seconds after which it must not start any more.",
            ),
            click.option(
                "--batch", "rollout", metavar="N|P%", help="At most so many nodes, or percent of them, at a time."
            ),
            click.option(
                "--max-failures",
                type=click.IntRange(min=0),
                metavar="N",
                help="When more runs fail, the rest is cancelled.",
            ),
            click.option("--no-wait", is_flag=True, help="Print the id and do not wait for the end."),
        )
    ):
        function = option(function)
    return function


@click.command("run")
@click.argument("script")
@_target_options
@click.option(
    "--arg", "args", multiple=True, metavar="K=V", help="A parameter: K=V as its script says, K:=JSON as it is."
)
@talks
def run(*, api: "Api", out: Printer, script: str, args: Sequence[str], **options: Any) -> None:
    """Run SCRIPT on nodes and wait for its end.

    What it prints and its result go to stdout. Ctrl-C leaves it running and prints its id; twice cancels it.
    """
    params = _params(api, script, args)
    submit(api, out, script, params, **options)


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("argv", nargs=-1, required=True, metavar="-- ARGV...")
@_target_options
@talks
def exec_(*, api: "Api", out: Printer, argv: Sequence[str], **options: Any) -> None:
    """Run a program on nodes: the script `shell`, which agents refuse unless their owner allows it."""
    submit(api, out, "shell", {"argv": list(argv)}, **options)


def submit(
    api: "Api",
    out: Printer,
    script: str,
    params: dict[str, Any],
    *,
    nodes: Sequence[str],
    role: str | None,
    everywhere: bool,
    timeout: float | None,
    start_within: float | None,
    rollout: str | None,
    max_failures: int | None,
    no_wait: bool,
) -> None:
    """Sends the order, and shows what comes of it."""
    from fleetbus import follow

    given = {
        "script": script,
        "target": target(api, nodes, role, everywhere=everywhere),
        "params": params,
        "timeout": timeout,
        "start_within": start_within,
        "rollout": _rollout(rollout, max_failures),
    }
    order = {name: value for name, value in given.items() if value not in (None, {})} | {"target": given["target"]}
    id = new_id()
    with attached(api, id):
        sent = api.send("POST", "/jobs", order, id=id) if no_wait else api.submit(order, id=id)
        if no_wait or sent.get("event") is None:
            _undecided(out, sent, no_wait=no_wait)
            return
        watched = follow.from_outcome(sent)
        if not watched.batch:
            show.waiting(sent["event"])
            show.follow_one(api, out, watched)
        else:
            show.follow_batch(api, out, watched)


def _undecided(out: Printer, sent: dict[str, Any], *, no_wait: bool) -> None:
    out.done(sent["id"], {"id": sent["id"]})
    if not no_wait:
        raise Failure(
            "nobody has decided on it yet; are the handlers running?",
            f"`fleetbus job wait {sent['id']}` comes back to it",
        )


def target(api: "Api", nodes: Sequence[str], role: str | None, *, everywhere: bool) -> dict[str, Any]:
    """Where to run. Without a word about it, the only node there is. Raises `Wrong`."""
    if nodes and (role or everywhere):
        raise Wrong("--node names nodes, --role and --all choose them; give one or the other")
    if nodes:
        names = list(dict.fromkeys(nodes))
        return {"node": names[0]} if len(names) == 1 else {"nodes": names}
    if role or everywhere:
        return ({"role": role} if role else {}) | ({"all": True} if everywhere else {})
    known = [
        node["id"]
        for node in api.pages("/nodes", {}, limit=500, patience=RESTART_SECONDS)
        if node["state"] != "removed"
    ]
    if len(known) == 1:
        return {"node": known[0]}
    if not known:
        raise Wrong("there is no node yet", "`fleetbus node invite` prints the command by which a machine joins")
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    raise Wrong("say where: there is more than one node", "--node NODE, --role ROLE or --all", f"there is: {shown}")


def _rollout(size: str | None, max_failures: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if max_failures is None else {"max_failures": max_failures}
    if size is None:
        return found
    try:
        if size.endswith("%"):
            percent = float(size[:-1])
            if not 0 < percent <= 100:
                raise ValueError
            return found | {"percent": percent}
        if int(size) < 1:
            raise ValueError
        return found | {"size": int(size)}
    except ValueError:
        raise Wrong(
            f"--batch is {size!r}; right would be a number of nodes such as 5, or a part of them such as 20%"
        ) from None


def _params(api: "Api", script: str, args: Sequence[str]) -> dict[str, Any]:
    """Parameters from `K=V`, which become what the script's header says, and from `K:=JSON`. Raises `Wrong`."""
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    for arg in args:
        name, equals, text = arg.partition("=")
        if not equals or not name.strip(":"):
            raise Wrong(f"--arg is {arg!r}; right would be NAME=VALUE, or NAME:=JSON")
        if name in texts or name.removesuffix(":") in values:
            raise Wrong(f"--arg {name.removesuffix(':')} is given twice")
        if name.endswith(":"):
            values[name[:-1]] = _from_json(name[:-1], text)
        else:
            texts[name] = text
    return (_converted(api, script, texts) if texts else {}) | values


def _from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Wrong(f"--arg {name}:= takes JSON, and this is none: {error}", f"--arg {name}=… takes text") from None


def _converted(api: "Api", script: str, texts: dict[str, str]) -> dict[str, Any]:
    import msgspec

    from events.header import Header, convert_params
    from fleetbus.api import Problem

    try:
        header = api.get(f"/scripts/{script}", patience=RESTART_SECONDS)["header"]
    except Problem as error:
        if error.status == 404:
            return dict(texts)  # the decider says which scripts there are
        raise
    if not isinstance(header, dict):
        return dict(texts)
    return convert_params(msgspec.convert(header, Header), texts)


@contextmanager
def attached(api: "Api", id: str) -> Iterator[None]:
    """Ctrl-C leaves the job or batch running, and says how to come back to it. A second one cancels it."""
    try:
        yield
    except KeyboardInterrupt:
        try:
            click.echo(f"\nleft it running: {id}", err=True)
            click.echo(f"  `fleetbus job wait {id}` comes back to it; Ctrl-C again cancels it", err=True)
            time.sleep(SECOND_THOUGHT)
        except KeyboardInterrupt:
            api.send("POST", f"/jobs/{id}/cancel", id=new_id())
            click.echo(f"cancelled: {id}", err=True)
        raise SystemExit(FAILED) from None
