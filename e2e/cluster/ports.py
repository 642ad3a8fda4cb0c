"""Free TCP ports on the loopback interface."""

import contextlib
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FALLBACK_END = 32_768


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on at the moment.

    They lie below the range from which the kernel picks the local ports of outgoing connections: otherwise, while the
    API server is stopped, a client that tries to reconnect can be given its very port and keep it.

    Parameters
    ----------
    count
        How many; they are different from each other.
    """
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _FALLBACK_END
    candidates = random.sample(range(_LOWEST, max(end, _LOWEST + 2000)), 50 * count)
    free: list[int] = []
    with contextlib.ExitStack() as held:
        while len(free) < count:
            port = candidates.pop()
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server((LOOPBACK, port)))
                free.append(port)
    return free
