"""`fleetbus node`: the machines of the fleet."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bus.clock import new_id
from fleetbus.commands.options import talks
from fleetbus.errors import Wrong
from fleetbus.output import Column, Printer, as_json, moment, state

if TYPE_CHECKING:
    from fleetbus.api import Api

COLUMNS: tuple[Column, ...] = (
    ("NODE", lambda node: node["id"]),
    ("STATE", lambda node: node["state"]),
    ("ROLES", lambda node: ", ".join(node["roles"])),
    ("MAINTENANCE", lambda node: (node["maintenance_reason"] or "yes") if node["maintenance"] else ""),
    ("ALLOWS", lambda node: ", ".join(node["allows"])),
    ("SINCE", lambda node: moment(node["offline_since"] or node["connected_at"] or node["joined_at"])),
)


@click.group("node")
def node() -> None:
    """Machines with an agent."""


@node.command("list")
@click.option("--role", help="Nodes that hold this role.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(("joined", "online", "offline", "removed")),
    help="In this state; may be given again.",
)
@talks
def list_(*, api: "Api", out: Printer, role: str | None, states: Sequence[str]) -> None:
    """List nodes; those that were removed only with --state removed."""
    query = {"role": role, "state": ",".join(states) or "joined,online,offline"}
    none = "there is no such node" if role or states else "there is no node yet; `fleetbus node invite` invites one"
    out.items(api.pages("/nodes", query, limit=100_000), COLUMNS, none)


@node.command("show")
@click.argument("name", metavar="NODE")
@talks
def show(*, api: "Api", out: Printer, name: str) -> None:
    """Show a node, and the facts that it last told of itself."""
    found = api.get(f"/nodes/{name}")
    facts = api.get("/jobs", {"script": "facts", "node": name, "state": "succeeded", "limit": 1})["items"]
    found["facts"] = facts[0]["result"] if facts else None
    out.fields(
        found,
        (
            ("node", found["id"]),
            ("state", state(found["state"])),
            ("roles", ", ".join(found["roles"])),
            ("maintenance", (found["maintenance_reason"] or "yes") if found["maintenance"] else ""),
            ("allows", ", ".join(found["allows"])),
            ("host", found["hostname"]),
            ("version", found["version"]),
            ("joined", moment(found["joined_at"])),
            ("connected", moment(found["connected_at"])),
            ("offline", moment(found["offline_since"])),
            ("facts", as_json(found["facts"]) if found["facts"] else ""),
        ),
    )


@node.command("roles")
@click.argument("name", metavar="NODE")
@click.argument("roles", nargs=-1)
@click.option("--none", "nothing", is_flag=True, help="The node holds no role from now on.")
@talks
def roles(*, api: "Api", out: Printer, name: str, roles: Sequence[str], nothing: bool) -> None:
    """Show the roles of NODE, or give it exactly these ROLES."""
    if roles and nothing:
        raise Wrong("--none takes no roles beside it")
    found = _change(api, name, {"roles": list(roles)}) if roles or nothing else api.get(f"/nodes/{name}")
    out.done(", ".join(found["roles"]) or "no roles", {"id": name, "roles": found["roles"]})


@node.command("maintenance")
@click.argument("name", metavar="NODE")
@click.argument("on", type=click.Choice(("on", "off")))
@click.option("--reason", default="", help="Why, for those who wonder.")
@talks
def maintenance(*, api: "Api", out: Printer, name: str, on: str, reason: str) -> None:
    """Give NODE no new jobs (on), or give it jobs again (off)."""
    found = _change(api, name, {"maintenance": on == "on", "reason": reason})
    text = "gets no new jobs" if found["maintenance"] else "gets jobs"
    document = {"id": name, "maintenance": found["maintenance"], "reason": found["maintenance_reason"]}
    out.done(f"{name} {text}", document)


def _change(api: "Api", name: str, change: dict[str, Any]) -> dict[str, Any]:
    """The node after the change; waits for the views to show it."""
    answer: dict[str, Any] = api.ask("PATCH", f"/nodes/{name}", change, id=new_id())
    if "position" in answer or "state" not in answer:
        shown: dict[str, Any] = api.get(f"/nodes/{name}", {"at_least": answer.get("position")})
        return shown
    return answer


@node.command("invite")
@click.option("--role", "roles", multiple=True, help="A role that it will hold; may be given again.")
@talks
def invite(*, api: "Api", out: Printer, roles: Sequence[str]) -> None:
    """Print the one command by which another machine joins. It works once, for 15 minutes."""
    found = api.send("POST", "/nodes/invitations", {"roles": list(roles)})
    if out.for_eyes:
        click.echo(f"on the new machine, before {moment(found['valid_until'])}:", err=True)
    out.done(found["command"], found)


@node.command("remove")
@click.argument("name", metavar="NODE")
@talks
def remove(*, api: "Api", out: Printer, name: str) -> None:
    """Take NODE out of the fleet; it is not listened to until it joins again. Its account on the bus goes, too."""
    sent = api.ask("DELETE", f"/nodes/{name}", id=new_id())
    if warning := sent.get("warning"):
        click.echo(f"warning: {warning}", err=True)
    out.done(f"{name} was removed", sent)
