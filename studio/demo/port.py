"""A port to serve at."""

from __future__ import annotations

import socket


def free_port(first: int = 8000) -> int:
    """A port of the 100 from `first` on that nobody listens at; Ray's own processes use 10002-19999.

    Raises OSError if all are taken.
    """
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise OSError(f"ports {first} to {first + 99} are all taken")
