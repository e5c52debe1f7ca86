"""Who an agent is and where its bus is: from options and environment, or from an invitation that it took up earlier."""

import os
import re
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events.names import NODE_PATTERN
from fleetbus.datafolder import node_id
from fleetbus.errors import Failure, Wrong
from fleetbus.settings import Settings, default_data

#: What was told when the node joined. It holds the password of the node's user.
FILE = "joined.json"


class Membership(Struct, frozen=True):
    node: str
    bus_url: str


def agent_folder(settings: Settings) -> Path:
    """The agent's own folder: the one that is set, else one beside that of `fleetbus up`."""
    return settings.data or default_data().with_name("fleetbus-agent")


def identified(settings: Settings, folder: Path, node: str | None) -> Settings:
    """The settings with the node's id and bus. Raises `Wrong` when the id cannot be one, `Failure`."""
    known = _load(folder)
    id = node or settings.node or (known.node if known else "") or node_id(folder)
    if not re.match(NODE_PATTERN, id):
        raise Wrong(f"{id!r} is no id of a node; right would be 1 to 63 of a-z, 0-9 and -")
    url = settings.bus_url or (known.bus_url if known and known.node == id else "")
    return replace(settings, node=id, bus_url=url)


def join(settings: Settings, folder: Path, portal_url: str, token: str | None) -> Settings:
    """Takes up an invitation, and remembers what came of it. Raises `Wrong`, `Failure`."""
    if not token:
        raise Wrong(
            "--join needs the token of an invitation: --token, or FLEETBUS_JOIN_TOKEN",
            "`fleetbus node invite` prints the whole command",
        )
    known = _load(folder)
    if known is not None and known.node == settings.node:
        raise Wrong(
            f"{folder} belongs to the node {known.node} of a fleet already",
            f"without --join the agent goes on there; to join another fleet, remove {folder / FILE}, or give --data",
        )
    from fleetbus.api import Api
    from fleetbus.credentials import Fleet

    with Api(Fleet(portal_url.rstrip("/"))) as api:
        answer = api.send("POST", "/nodes/join", {"token": token, "node": settings.node})
    found = Membership(node=answer["node"], bus_url=answer["bus_url"])
    _check_reachable(found)
    _save(folder, found)
    return replace(settings, bus_url=found.bus_url)


def _check_reachable(found: Membership) -> None:
    scheme, _, path = found.bus_url.partition("://")
    if scheme == "sqlite" and not Path(path).is_dir():
        raise Failure(
            f"that fleet keeps its bus in {path}, which is on another machine",
            "past one machine the engine is RabbitMQ; `fleetbus log copy` moves a log there",
        )


def _load(folder: Path) -> Membership | None:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Failure(f"cannot read {folder / FILE}: {error}", "remove it and join again") from None


def _save(folder: Path, found: Membership) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(found))
    except OSError as error:
        raise Failure(f"cannot write {folder / FILE}: {error.strerror}") from None
