"""The distribution's packages that the tests need, and how to install them without side effects.

Uses the standard library alone: it runs before there is an environment to install into.
"""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.servers.errors import MissingPackagesError, ServerError


class Package(NamedTuple):
    """A Debian package and a file or a program by which its presence shows."""

    name: str
    evidence: str
    units: tuple[str, ...] = ()


SERVERS = (
    Package(
        "rabbitmq-server",
        "/usr/lib/rabbitmq/bin/rabbitmq-server",
        ("rabbitmq-server.service", "epmd.service", "epmd.socket"),
    ),
    Package("redis-server", "redis-server", ("redis-server.service",)),
    Package("influxdb", "influxd", ("influxdb.service",)),
)

#: What libvirt-python is compiled with. Its ``test:///default`` needs no hypervisor.
BUILD = (
    Package("libvirt-dev", "/usr/include/libvirt/libvirt.h"),
    Package("pkg-config", "pkg-config"),
    Package("gcc", "gcc"),
    Package("libc6-dev", "/usr/include/stdio.h"),
)

#: What the examples for other services are written in, and what makes certificates.
TOOLS = (
    Package("nodejs", "node"),
    Package("curl", "curl"),
    Package("openssl", "openssl"),
    # what the fault suite cuts networks with
    Package("iproute2", "ip"),
    Package("nftables", "nft", ("nftables.service",)),
)

#: Asked by Debian's maintainer scripts whether they may start a service.
POLICY = Path("/usr/sbin/policy-rc.d")


def missing(packages: tuple[Package, ...] = SERVERS + BUILD + TOOLS) -> list[Package]:
    """Return those of `packages` that are not installed."""
    return [package for package in (*packages, *_python_headers()) if not _is_present(package)]


def require_programs() -> None:
    """Raise MissingPackagesError, naming the remedy, unless every server is installed."""
    if absent := [package.name for package in SERVERS if not _is_present(package)]:
        raise MissingPackagesError(
            f"not installed: {', '.join(absent)}\n"
            f"`python3 -m tests.servers.packages` as root installs it, or: {_command(absent)}"
        )


def install() -> None:
    """Install what is missing, without starting any of the system's services, now or at boot.

    Raises MissingPackagesError when we are not root, ServerError when apt-get fails.
    """
    packages = missing()
    if not packages:
        return
    names = [package.name for package in packages]
    if os.geteuid() != 0:
        raise MissingPackagesError(f"not installed: {', '.join(names)}\nrun as root: {_command(names)}")
    print(f"installing {', '.join(names)}", flush=True)  # noqa: T201 - a long step is named
    with _services_may_not_start():
        _apt_get(names)
    _disable([unit for package in packages for unit in package.units])
    if absent := missing():
        raise ServerError(f"still missing after the installation: {absent}")


def _is_present(package: Package) -> bool:
    # programs of servers lie in /usr/sbin, which a person's PATH need not name
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return shutil.which(package.evidence, path=path) is not None or (
        package.evidence.startswith("/") and Path(package.evidence).exists()
    )


def _python_headers() -> list[Package]:
    """Debian's Python comes without the headers that extension modules need."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_relative_to("/usr/include"):
        return []
    return [Package(f"python{sys.version_info.major}.{sys.version_info.minor}-dev", str(header))]


def _command(names: list[str]) -> str:
    return f"apt-get install --no-install-recommends {' '.join(names)}"


def _apt_get(names: list[str]) -> None:
    """Install packages, from lists that are up to date as far as their sources answer."""
    update = _run("apt-get", "update", "-q")
    # another checkout may be installing at this moment
    wait = ("-o", "DPkg::Lock::Timeout=600")
    result = _run("apt-get", *wait, "install", "-q", "-y", "--no-install-recommends", *names)
    if result.returncode != 0:
        said = "\n".join((update.stderr + result.stdout + result.stderr).splitlines()[-20:])
        raise ServerError(f"apt-get could not install {', '.join(names)}:\n{said}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def _services_may_not_start() -> Iterator[None]:
    """Answer no to every maintainer script that asks whether it may start a service."""
    if POLICY.exists():
        if subprocess.run([POLICY, "rabbitmq-server", "start"], check=False).returncode != 101:
            raise ServerError(f"{POLICY} lets services start; install the packages by hand")
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(POLICY.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    try:
        yield
    finally:
        POLICY.unlink()


def _disable(units: list[str]) -> None:
    """Undo what the installation arranged for the next boot, where systemd would carry it out."""
    if units and shutil.which("systemctl"):
        _run("systemctl", "--quiet", "disable", *units)


if __name__ == "__main__":
    try:
        install()
    except ServerError as problem:
        sys.exit(f"error: {problem}")
