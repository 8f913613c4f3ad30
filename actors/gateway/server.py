"""The gateway's listening socket, bound before anything else starts, and what serves on it."""

from __future__ import annotations

import socket
import ssl

from actors.gateway.http.asgi import Application
from actors.gateway.options import Options, OptionsError
from bus.http import HttpServer

BACKLOG = 4096
KEEP_ALIVE = 75
"""Seconds that a connection may be idle between requests."""
STALLED = 30_000
"""Milliseconds after which the kernel drops a connection whose client takes no bytes."""
SEND_BUFFER = 256 << 10
"""Bytes that the kernel is asked to keep for a slow client, of which it makes twice as many. By
itself it would take 4 MiB, which `max_pending_bytes` could not see.
"""


def bind(options: Options) -> socket.socket:
    """Raises OptionsError, for a port in use above all."""
    kind = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    sock = socket.socket(kind, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted connections inherit what follows. Vanished clients are noticed, even idle ones.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, STALLED // 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        sock.setblocking(False)
        sock.bind((options.host, options.port))
    except OSError as error:
        sock.close()
        raise OptionsError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}. "
            "Choose another --host or --port, or stop what has it."
        ) from None
    return sock


def serve(app: Application, options: Options, sock: socket.socket) -> HttpServer:
    """A server, not started yet. Raises OptionsError for a certificate and key that do not fit."""
    try:
        return HttpServer(
            app,
            sock,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            ssl_certfile=options.ssl_certfile,
            ssl_keyfile=options.ssl_keyfile,
        )
    except (ssl.SSLError, OSError) as error:
        raise OptionsError(
            f"ssl_certfile {options.ssl_certfile!r} and ssl_keyfile {options.ssl_keyfile!r} "
            f"are no pair of certificate and key: {error}"
        ) from None
