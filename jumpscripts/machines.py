"""The virtual machines of a hypervisor."""

from typing import Any

descr = "Virtual machines (libvirt domains) on this node: state, processors, memory."
organization = "fleetbus"
category = "inventory"
queue = "hypervisor"
timeout = 120
params = {"uri": {"descr": "the hypervisor, as libvirt names it; test:///default is one to try things with"}}

#: libvirt's virDomainState.
STATES = ("no state", "running", "blocked", "paused", "shutting down", "off", "crashed", "suspended")


def action(uri: str = "qemu:///system") -> dict[str, Any]:
    libvirt = library()
    # what libvirt would print comes as an exception as well
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        connection = libvirt.openReadOnly(uri)
    except libvirt.libvirtError as error:
        raise SystemExit(f"cannot reach the hypervisor {uri}: {error}") from None
    try:
        domains = sorted((machine(domain) for domain in connection.listAllDomains()), key=lambda one: str(one["name"]))
        return {
            "hypervisor": connection.getType(),
            "host": connection.getHostname(),
            "running": sum(one["state"] == "running" for one in domains),
            "machines": domains,
        }
    finally:
        connection.close()


def library() -> Any:
    try:
        import libvirt
    except ImportError:
        raise SystemExit(
            "libvirt's library for Python is not installed on this node; install fleetbus with its extra "
            "`hypervisor` (it needs libvirt's development files), or the package python3-libvirt"
        ) from None
    return libvirt


def machine(domain: Any) -> dict[str, Any]:
    state, max_kilobytes, kilobytes, processors, cpu_time = domain.info()
    return {
        "name": domain.name(),
        "id": domain.UUIDString(),
        "state": STATES[state] if state < len(STATES) else f"state {state}",
        "processors": processors,
        "memory_bytes": kilobytes * 1024,
        "max_memory_bytes": max_kilobytes * 1024,
        "cpu_seconds": round(cpu_time / 1e9, 2),
        "persistent": bool(domain.isPersistent()),
        "autostart": bool(domain.autostart()) if domain.isPersistent() else False,
    }
