"""Ports of 127.0.0.1 for servers that take several, each at a fixed distance from the first."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

LOWEST = 2_000
KERNELS = 32_768
"""From here on Linux gives ports to whoever asks for any, so not to us before we listen."""
TRIES = 1_000


def free_from(offsets: Collection[int]) -> int:
    """A port from which all at these distances were free a moment ago.

    Raises `OSError` if none is found.
    """
    for _ in range(TRIES):
        base = random.randrange(LOWEST, KERNELS - max(offsets))
        try:
            for offset in offsets:
                socket.create_server(("127.0.0.1", base + offset)).close()
        except OSError:
            continue
        return base
    raise OSError(f"no port from which {len(offsets)} are free, between {LOWEST} and {KERNELS}")


def of_events(ranks: int) -> list[int]:
    """The distances from `--kv-event-port` that Callboard takes for the KV events of all ranks."""
    return [kind + rank for kind in range(0, 3_000, 500) for rank in range(ranks)]
