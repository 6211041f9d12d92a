"""Ports that nobody listens on."""

import itertools
import os
import secrets
import socket
from contextlib import suppress

# Below those that Linux gives to connections, of which Ray opens hundreds while a server starts, and above those of
# Ray's workers.
_FIRST, _PORTS, _PROCESSES = 20_000, 3_000, 4
_turns = itertools.count(secrets.randbelow(_PORTS))


def free_port() -> int:
    """None is given twice, and test processes side by side have ranges of their own."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = _FIRST + process % _PROCESSES * _PORTS + next(_turns) % _PORTS
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
