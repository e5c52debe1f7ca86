"""Free TCP ports on loopback that stay ours while a server is stopped and started again."""

import random
import socket

#: Below the range from which Linux takes the ports of outgoing connections (32768-60999): a
#: connection of anyone's can therefore not sit on a stopped server's port. Also free of the
#: usual ports of the servers themselves.
FIRST, LAST = 20000, 31999


def free_ports(count: int) -> list[int]:
    """Choose `count` different ports on which nothing listens now."""
    chosen: list[int] = []
    candidates = random.sample(range(FIRST, LAST + 1), LAST + 1 - FIRST)
    for port in candidates:
        if len(chosen) == count:
            return chosen
        if is_free(port):
            chosen.append(port)
    raise OSError(f"fewer than {count} free ports between {FIRST} and {LAST}")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
