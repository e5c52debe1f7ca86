"""`fleetbus script`: the jumpscripts that the fleet knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.clock import new_id
from fleetbus.commands.options import talks
from fleetbus.errors import Wrong
from fleetbus.output import Column, Printer, moment

if TYPE_CHECKING:
    from fleetbus.api import Api


def _header(script: Any) -> dict[str, Any]:
    """What the script says of itself; {} when it cannot be read today."""
    return script["header"] if isinstance(script["header"], dict) else {}


COLUMNS: tuple[Column, ...] = (
    ("SCRIPT", lambda script: script["id"]),
    ("WHAT", lambda script: "(retired)" if script["retired"] else _header(script).get("descr", "").split("\n")[0]),
    ("RUNS", lambda script: _by_itself(_header(script))),
    ("VERSION", lambda script: script["hash"][:12]),
    ("PUBLISHED", lambda script: moment(script["published_at"])),
)


def _by_itself(header: dict[str, Any]) -> str:
    """When nodes run it without being asked."""
    if not header.get("enable", True):
        return ""
    period = header.get("period")
    when = [f"every {period} s" if isinstance(period, int) else str(period)] if period else []
    return ", ".join([*when, "at boot"] if header.get("startatboot") else when)


@click.group("script")
def script() -> None:
    """Jumpscripts: Python files with a header and a function `action`."""


@script.command("list")
@click.option("--retired", is_flag=True, help="Those that were retired.")
@talks
def list_(*, api: "Api", out: Printer, retired: bool) -> None:
    """List scripts."""
    found = api.pages("/scripts", {"retired": str(retired).lower()}, limit=100_000)
    out.items(found, COLUMNS, "there is no such script; `fleetbus script publish FILE` makes one known")


@script.command("show")
@click.argument("name")
@click.option("--version", "version", default="", metavar="HASH", help="An earlier version, by its whole hash.")
@click.option("--source", is_flag=True, help="Print the source and nothing else.")
@talks
def show(*, api: "Api", out: Printer, name: str, version: str, source: bool) -> None:
    """Show a script: what it says of itself, its parameters and versions."""
    found = api.get(f"/scripts/{name}", {"hash": version})
    if source:
        click.echo(found["source"], nl=not found["source"].endswith("\n"))
        return
    header = _header(found)
    out.fields(
        found,
        (
            ("script", found["id"] + (" (retired)" if found["retired"] else "")),
            ("what", header.get("descr", "")),
            ("params", "\n".join(_param(param) for param in header.get("params", ()))),
            ("roles", ", ".join(header.get("roles", ()))),
            ("queue", header.get("queue", "")),
            ("runs", _by_itself(header)),
            ("requires", ", ".join(header.get("requires", ()))),
            ("unreadable", found["header"] if isinstance(found["header"], str) else ""),
            ("by", found["by"]),
            ("versions", "\n".join(f"{one['hash']}  {moment(one['at'])}  {one['by']}" for one in found["versions"])),
        ),
    )


def _param(param: dict[str, Any]) -> str:
    default = "" if param["required"] else f" = {param['default']!r}"
    choices = f", one of {', '.join(map(str, param['choices']))}" if param.get("choices") else ""
    descr = f"  {param['descr']}" if param.get("descr") else ""
    return f"{param['name']}: {param['type']}{default}{choices}{descr}"


@script.command("publish")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@talks
def publish(*, api: "Api", out: Printer, files: Sequence[Path]) -> None:
    """Publish scripts: their names mean these sources from now on. Jobs under way keep what they began with."""
    read = [_read(path) for path in files]
    for name, source in read:
        sent = api.ask("PUT", f"/scripts/{name}", text=source, id=new_id())
        fact = (sent.get("event") or {}).get("data", {})
        document = {"name": name, "hash": fact.get("hash"), "id": sent["id"]}
        if out.for_eyes:
            click.echo(f"{name} {(fact.get('hash') or 'sent')[:12]}")
        else:
            out.line(document)


def _read(path: Path) -> tuple[str, str]:
    """The name and the source of a script. Raises `Wrong` when it is none, before anything is published."""
    from events.header import HeaderError, parse_header

    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Wrong(f"cannot read {path}: {error}") from None
    try:
        return parse_header(source, path.name).name, source
    except HeaderError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise Wrong(f"{where}: {error.field} {error.message}") from None


@script.command("retire")
@click.argument("name")
@talks
def retire(*, api: "Api", out: Printer, name: str) -> None:
    """Let no new job name the script, and no node run it by itself."""
    sent = api.ask("DELETE", f"/scripts/{name}", id=new_id())
    out.done(f"{name} was retired", sent)
