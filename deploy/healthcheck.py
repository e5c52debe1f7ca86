"""Whether the service in this container is well: exit code 0, or 1 with a word about it.

healthcheck.py bus [PID]     the process (1, the container's first, and what it started) is connected to the broker
healthcheck.py portal        the portal answers, and says that nothing is failing
"""

import os
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import psutil


def on_the_bus(pid: int) -> str:
    """What is wrong, or ""."""
    port = urlsplit(os.environ["FLEETBUS_BUS_URL"]).port or 5672
    service = psutil.Process(pid)
    # with an init process in the container, the service is its child
    if any(_reaches(process, port) for process in (service, *service.children(recursive=True))):
        return ""
    return f"no connection to port {port}"


def _reaches(process: psutil.Process, port: int) -> bool:
    try:
        found = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_ESTABLISHED and getattr(one.raddr, "port", 0) == port for one in found)


def portal() -> str:
    """What is wrong, or ""."""
    address = f"http://127.0.0.1:{os.environ.get('FLEETBUS_PORT', '8000')}/api/v1/health"
    try:
        with urllib.request.urlopen(address, timeout=4) as answer:  # the address is ours
            return "" if answer.status == 200 else f"status {answer.status}"
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")[:500]
    except OSError as error:
        return str(error)


def main() -> None:
    match sys.argv[1:]:
        case ["bus", *pid]:
            wrong = on_the_bus(int(pid[0]) if pid else 1)
        case ["portal"]:
            wrong = portal()
        case _:
            wrong = str(__doc__)
    sys.exit(wrong or 0)


if __name__ == "__main__":
    main()
