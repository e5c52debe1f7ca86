"""Packages for which there is a newer version."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

descr = "Debian and Ubuntu packages that can be upgraded, and which of them for security."
organization = "fleetbus"
category = "inventory"
queue = "io"
timeout = 600
params = {"refresh": {"descr": "ask the package sources for news first (apt-get update; needs root)"}}

#: name/suites version architecture [upgradable from: version]
ROW = re.compile(
    r"(?P<name>[^/\s]+)/(?P<suites>\S+) (?P<to>\S+) (?P<architecture>\S+) \[upgradable from: (?P<from>[^\]]+)\]"
)


def action(refresh: bool = False) -> dict[str, Any]:
    if not shutil.which("apt"):
        raise RuntimeError("this node has no apt: only Debian and its relatives are known")
    if refresh:
        run("apt-get", "update", "--quiet")
    packages = [package(found) for found in map(ROW.match, run("apt", "list", "--upgradable").splitlines()) if found]
    return {
        "upgrades": len(packages),
        "security": sum(one["security"] for one in packages),
        "reboot_required": Path("/run/reboot-required").exists(),
        "packages": packages,
    }


def package(row: re.Match[str]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "from": row["from"],
        "to": row["to"],
        "architecture": row["architecture"],
        "security": "-security" in row["suites"],
    }


def run(*command: str) -> str:
    # in the language that is parsed
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
    return answer.stdout
