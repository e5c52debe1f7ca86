"""What a machine is made of, as the kernel tells it."""

import os
import platform
import shutil
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

descr = "What this machine is: processors, memory, disks, network, system. Runs when the agent starts and every hour."
organization = "fleetbus"
category = "inventory"
startatboot = True
period = 3600
order = 0
timeout = 60


def action() -> dict[str, Any]:
    return {
        "hostname": socket.gethostname(),
        "os": operating_system(),
        "cpu": processors(),
        "memory": memory(),
        "swap": swap(),
        "virtualization": virtualization(),
        "booted_at": datetime.fromtimestamp(psutil.boot_time(), UTC).isoformat(timespec="seconds"),
        "uptime_seconds": int(time.time() - psutil.boot_time()),
        "disks": disks(),
        "filesystems": filesystems(),
        "nics": nics(),
    }


def operating_system() -> dict[str, Any]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:  # a system without /etc/os-release
        release = {}
    return {
        "name": release.get("PRETTY_NAME", platform.system()),
        "id": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def processors() -> dict[str, Any]:
    """`count` are those that the kernel schedules on, `cores` the physical ones, `usable` those this agent may use."""
    return {
        "model": processor_model(),
        "count": psutil.cpu_count(logical=True),
        "cores": psutil.cpu_count(logical=False),
        "usable": len(os.sched_getaffinity(0)),
    }


def processor_model() -> str:
    for line in text_of("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "Hardware", "cpu model"}:
            return value.strip()
    return platform.processor() or platform.machine()


def memory() -> dict[str, int]:
    found = psutil.virtual_memory()
    return {"total_bytes": found.total, "available_bytes": found.available}


def swap() -> dict[str, int]:
    found = psutil.swap_memory()
    return {"total_bytes": found.total, "used_bytes": found.used}


def virtualization() -> dict[str, str]:
    """What kind of virtual machine and container this runs in; `none` on bare metal."""
    if tool := shutil.which("systemd-detect-virt"):
        return {kind: detected(tool, f"--{kind}") for kind in ("vm", "container")}
    in_machine = " hypervisor " in text_of("/proc/cpuinfo")
    return {"vm": "unknown" if in_machine else "none", "container": "unknown"}


def detected(tool: str, kind: str) -> str:
    # its exit code is 1 for "none"
    answer = subprocess.run([tool, kind], capture_output=True, text=True, timeout=10, check=False)
    return answer.stdout.strip() or "unknown"


# -------------------------------------------------------------------------------- disks


def disks() -> list[dict[str, Any]]:
    """Whole disks. `used_bytes` is what their mounted file systems hold, also through LVM, RAID and encryption."""
    mounted = filesystems()
    names = sorted(place.name for place in Path("/sys/block").iterdir())
    return [disk(name, mounted) for name in names if is_disk(name)]


def is_disk(name: str) -> bool:
    """Loops, memory disks and mapped devices are the kernel's own; a drive without a medium has no size."""
    virtual = os.path.realpath(f"/sys/block/{name}").startswith("/sys/devices/virtual/")
    return not virtual and sectors(f"/sys/block/{name}") > 0


def disk(name: str, mounted: list[dict[str, Any]]) -> dict[str, Any]:
    place = f"/sys/block/{name}"
    own = [system for system in mounted if name in disks_below(system["device"])]
    return {
        "name": name,
        "model": text_of(f"{place}/device/model").strip() or None,
        "size_bytes": sectors(place),
        "used_bytes": sum(system["used_bytes"] for system in own) if own else None,
        "rotational": text_of(f"{place}/queue/rotational").strip() == "1",
        "removable": text_of(f"{place}/removable").strip() == "1",
        "mountpoints": [system["mountpoint"] for system in own],
        "partitions": [
            {"name": part.name, "size_bytes": sectors(str(part))}
            for part in sorted(Path(place).glob(f"{name}*"))
            if (part / "partition").exists()
        ],
    }


def disks_below(device: str) -> set[str]:
    """The names of the whole disks that a device lies on."""
    name = Path(os.path.realpath(device)).name
    place = Path(f"/sys/class/block/{name}")
    if slaves := list(place.glob("slaves/*")):
        return {disk for slave in slaves for disk in disks_below(f"/dev/{slave.name}")}
    if (place / "partition").exists():
        return {Path(os.path.realpath(place)).parent.name}
    return {name}


def filesystems() -> list[dict[str, Any]]:
    """Mounted file systems that hold files: one per device, where it is mounted first, and always `/`."""
    found: dict[str, dict[str, Any]] = {}
    root = [mount for mount in psutil.disk_partitions(all=True) if mount.mountpoint == "/"]
    for mount in [*psutil.disk_partitions(), *root[-1:]]:
        try:
            usage = psutil.disk_usage(mount.mountpoint)
        except OSError:  # unmounted meanwhile, or a medium that was pulled out
            continue
        system = {
            "device": mount.device,
            "mountpoint": mount.mountpoint,
            "fstype": mount.fstype,
            "total_bytes": usage.total,
            "used_bytes": usage.used,
            "free_bytes": usage.free,
        }
        found.setdefault(mount.device, system)
    return sorted(found.values(), key=lambda system: str(system["mountpoint"]))


def sectors(place: str) -> int:
    """The size of a block device in bytes. The kernel counts in sectors of 512 bytes, whatever the device does."""
    return int(text_of(f"{place}/size").strip() or 0) * 512


# ------------------------------------------------------------------------------ network


def nics() -> list[dict[str, Any]]:
    """Network interfaces, those that are up first, the loopback last."""
    stats = psutil.net_if_stats()
    found = [nic(name, addresses, stats.get(name)) for name, addresses in psutil.net_if_addrs().items()]
    return sorted(found, key=lambda nic: (nic["name"] == "lo", not nic["up"], nic["name"]))


def nic(name: str, addresses: list[Any], stats: Any) -> dict[str, Any]:
    macs = [one.address for one in addresses if one.family == psutil.AF_LINK]
    ips = [one for one in addresses if one.family in {socket.AF_INET, socket.AF_INET6}]
    return {
        "name": name,
        "mac": next((mac for mac in macs if mac != "00:00:00:00:00:00"), None),
        # the zone behind % only repeats the name
        "addresses": [one.address.partition("%")[0] for one in ips],
        "up": bool(stats and stats.isup),
        "speed_mbit": stats.speed if stats and stats.speed else None,
        "mtu": stats.mtu if stats else None,
    }


def text_of(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # not every kernel has every file
        return ""
