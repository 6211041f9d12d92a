"""Ports that nobody listens on."""

import secrets
import socket
from contextlib import suppress

# Below those that Linux gives to connections, of which Ray opens hundreds while a server starts, and above those of
# Ray's workers.
_FIRST, _PORTS = 20_000, 12_000


def free_port() -> int:
    """Draw one, so that tests side by side hardly get the same."""
    while True:
        port = _FIRST + secrets.randbelow(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
