"""Ports for servers that tests start."""

import random
import socket
from contextlib import suppress

_PORTS = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections, and above those of Ray's workers."""


def free_port():
    """Return a port of the loopback interface at which nobody listens.

    A connection of another test cannot take it before the server does. Nor can a client that asks whether the server is
    there connect to itself, as happens where the system may give it the same port.
    """
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
