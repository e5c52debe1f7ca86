"""What the service manager says of services."""

import shutil
import subprocess
from typing import Any

descr = "The state of systemd services: of those named, or without names of all that have failed."
organization = "fleetbus"
category = "monitor.healthcheck"
timeout = 60
params = {"names": {"descr": "units such as ssh or nginx.service; none means those that have failed"}}

PROPERTIES = "Id,Description,LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,ActiveEnterTimestamp"


def action(names: list[str] | None = None) -> dict[str, Any]:
    if missing := no_manager():
        print(missing)
        return {"manager": None, "reason": missing, "services": []}
    units = [checked(name) for name in names] if names else failed_units()
    services = [service(unit) for unit in units]
    return {"manager": "systemd", "ok": all(one["active"] == "active" for one in services), "services": services}


def no_manager() -> str:
    """Why services cannot be asked for; empty when they can."""
    if not shutil.which("systemctl"):
        return "this node has no systemd: there is no program systemctl"
    state = systemctl("is-system-running").stdout.strip()
    if state in {"offline", "unknown", ""}:
        return f"systemd does not run this node (is-system-running says {state or 'nothing'})"
    return ""


def checked(name: str) -> str:
    """A name goes to systemctl as an argument of its own, and must not be taken for an option."""
    if not name or name.startswith("-"):
        raise ValueError(f"{name!r} is no name of a service")
    return name


def failed_units() -> list[str]:
    lines = systemctl("list-units", "--failed", "--plain", "--no-legend").stdout.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def service(unit: str) -> dict[str, Any]:
    lines = systemctl("show", f"--property={PROPERTIES}", "--", unit).stdout.splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    return {
        "unit": said.get("Id", unit),
        "description": said.get("Description", ""),
        "loaded": said.get("LoadState", ""),
        "active": said.get("ActiveState", ""),
        "state": said.get("SubState", ""),
        "enabled": said.get("UnitFileState", ""),
        "pid": int(said.get("MainPID") or 0) or None,
        "restarts": int(said.get("NRestarts") or 0),
        "since": said.get("ActiveEnterTimestamp", ""),
    }


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    # exit codes tell of states, not of errors
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=30, check=False)
