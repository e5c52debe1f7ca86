"""Whether names can be resolved and ports can be reached from here."""

import socket
import time
from typing import Any

descr = "Resolves names and connects to ports from this node: targets are host:port, or a host alone for its name only."
organization = "fleetbus"
category = "monitor.healthcheck"
queue = "io"
timeout = 300
params = {
    "targets": {"descr": "host:port, [IPv6]:port, or a host alone"},
    "timeout_seconds": {"descr": "how long to wait for each connection"},
}


def action(targets: list[str], timeout_seconds: float = 3.0) -> dict[str, Any]:
    checks = [check(target, timeout_seconds) for target in targets]
    for one in checks:
        print(f"{one['target']}: {'ok' if one['ok'] else one['error']}")
    return {"ok": all(one["ok"] for one in checks), "checks": checks}


def check(target: str, timeout_seconds: float) -> dict[str, Any]:
    began = time.monotonic()
    answer: dict[str, Any] = {"target": target, "ok": False, "addresses": [], "error": ""}
    try:
        host, port = parted(target)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        answer["addresses"] = sorted({str(address[0]) for *_, address in found})
        if port is not None:
            answer["address"] = connected(host, port, timeout_seconds)
        answer["ok"] = True
    except OSError as error:  # also what goes wrong with names
        answer["error"] = error.strerror or str(error)
    except ValueError as error:
        answer["error"] = str(error)
    answer["seconds"] = round(time.monotonic() - began, 4)
    return answer


def connected(host: str, port: int, timeout_seconds: float) -> str:
    """Connect to the first address that answers, and tell which it was."""
    with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
        return str(connection.getpeername()[0])


def parted(target: str) -> tuple[str, int | None]:
    """Host and port of a target; an IPv6 address with a port stands in brackets."""
    if target.startswith("["):
        host, _, rest = target[1:].partition("]")
        port = rest.removeprefix(":")
    elif target.count(":") == 1:
        host, _, port = target.partition(":")
    else:
        host, port = target, ""
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError("is no target; write host:port, [IPv6]:port or a host alone")
    return host, int(port) if port else None
