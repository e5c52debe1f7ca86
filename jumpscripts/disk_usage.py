"""How full the mounted file systems are."""

import os
import sys
from typing import Any

import psutil

descr = "Space and inodes of every mounted file system, with a warning where little is left."
organization = "fleetbus"
category = "monitor.healthcheck"
timeout = 60
params = {
    "warn_percent": {"descr": "warn from this share of space or inodes on, in percent"},
    "mountpoint": {"descr": "only the file system that holds this path"},
}


def action(warn_percent: int = 90, mountpoint: str = "") -> dict[str, Any]:
    places = [mountpoint] if mountpoint else sorted(mountpoints())
    found = [look(place, warn_percent) for place in places]
    for system in found:
        if system["state"] == "warning":
            print(f"{system['mountpoint']}: {system['reason']}", file=sys.stderr)
    return {
        "state": "warning" if any(system["state"] == "warning" for system in found) else "ok",
        "filesystems": found,
    }


def mountpoints() -> set[str]:
    """One place for each device that holds files, and always the root."""
    places = {mount.device: mount.mountpoint for mount in reversed(psutil.disk_partitions())}
    return {*places.values(), "/"}


def look(place: str, warn_percent: int) -> dict[str, Any]:
    """Percentages as `df` counts them: what is reserved for root is not there for anybody else."""
    numbers = os.statvfs(place)
    unit = numbers.f_frsize
    used = numbers.f_blocks - numbers.f_bfree
    space = percent(used, used + numbers.f_bavail)
    inodes = percent(numbers.f_files - numbers.f_ffree, numbers.f_files)
    short = [
        f"{share:g} % of {what} used" for share, what in ((space, "space"), (inodes, "inodes")) if share >= warn_percent
    ]
    return {
        "mountpoint": place,
        "total_bytes": numbers.f_blocks * unit,
        "used_bytes": used * unit,
        "free_bytes": numbers.f_bavail * unit,
        "used_percent": space,
        "inodes_used_percent": inodes,
        "state": "warning" if short else "ok",
        "reason": ", ".join(short),
    }


def percent(part: int, whole: int) -> float:
    """Some file systems have no fixed number of inodes, and say 0."""
    return round(100 * part / whole, 1) if whole else 0.0
