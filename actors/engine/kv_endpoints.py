"""The endpoints of a publisher of KV events, by vLLM's rules."""

from __future__ import annotations

import zmq


def of_rank(endpoint: str, rank: int) -> str:
    """The endpoint of a data-parallel rank, as vLLM counts: the port goes up, inproc gets a suffix.

    Raises `ValueError` where no rank but the first can have one.
    """
    if rank == 0:
        return endpoint
    if endpoint.startswith("inproc://"):
        return f"{endpoint}_dp{rank}"
    address, _, port = endpoint.rpartition(":")
    if not endpoint.startswith("tcp://") or not port.isdigit():
        raise ValueError(
            f"kv_events_config endpoint {endpoint!r}: ranks need tcp://host:port or inproc://name, "
            "to which their number is added"
        )
    if port == "0":  # the system chooses
        return endpoint
    if int(port) + rank > 65535:
        raise ValueError(
            f"kv_events_config endpoint {endpoint!r}: rank {rank} would get port "
            f"{int(port) + rank}; choose one of at most {65535 - rank}"
        )
    return f"{address}:{int(port) + rank}"


def is_bound(endpoint: str) -> bool:
    """Whether a publisher binds this endpoint, as vLLM's does; it connects to the others."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


def bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind; returns the endpoint, with the port that the system chose where it did.

    Raises `ValueError`, and closes the socket, if the endpoint cannot be had.
    """
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ValueError(f"KV events cannot be bound to {endpoint}: {error}") from None
    return socket.get_string(zmq.LAST_ENDPOINT) if endpoint.endswith(":0") else endpoint


def connect(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """As `bind`, to where a reader is bound or will be."""
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ValueError(f"KV events cannot go to {endpoint}: {error}") from None
    return endpoint
