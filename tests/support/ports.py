"""A port for a server that a test starts."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_PORTS = range(20_000, 32_000)
"""Below those that systems give to clients, which come and go by the hundred in these tests."""


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    chance = random.SystemRandom()
    for _ in range(100):
        port = chance.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port of {_PORTS} is free")
