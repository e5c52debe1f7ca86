"""Where the portal listens, and how it is reached there."""

import errno
import ipaddress
import socket
from contextlib import closing, suppress

import psutil

from fleetbus.errors import NotReached, Wrong


def check_free(host: str, port: int) -> None:
    """Raises `NotReached` when somebody listens there, `Wrong` when nobody could."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise NotReached(f"port {port} of {host} is in use{_user_of(port)}", "name another with --port") from None
        raise Wrong(f"the portal cannot listen at {host}, port {port}: {error.strerror}") from None


def _user_of(port: int) -> str:
    """Who listens there, as far as this user may know."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                process = psutil.Process(connection.pid)
                return f" by {process.name()} (process {process.pid})"
    return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def url_of(host: str, port: int) -> str:
    """How this machine reaches a portal that listens there."""
    everywhere = not host.strip(".:0")
    shown = ("[::1]" if ":" in host else "127.0.0.1") if everywhere else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
