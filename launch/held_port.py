"""The gateways' port is the topology's, from before the first gateway to after the last."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from launch.cli.console import USAGE, Failure


@contextlib.contextmanager
def held(host: str, port: int) -> Iterator[None]:
    """Gateways, which are of the same user, listen on it with SO_REUSEPORT; nobody else can, also
    while none of them is there. Raises `Failure` where somebody has it.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as sock:
        # Connections of earlier topologies that linger must not count as somebody.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host.strip("[]"), port))
        except OSError as error:
            text = f"gateway.port = {port}: {error.strerror} on {host}; choose another"
            raise Failure(text, code=USAGE) from None
        # Only now: of two that start at once, the second finds it taken. It never listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield
