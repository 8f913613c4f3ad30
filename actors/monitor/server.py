"""`/health`, `/live` and `/ready` of the machine, in the actor's own process."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bus.http import HttpServer

Answer = tuple[int, bytes]
"""Status and JSON."""

Ask = Callable[[], Answer]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CONNECTIONS = 256
"""Open at once; more are answered 503. Probes are few, and the table is for people."""


def bind(host: str, port: int) -> socket.socket:
    """Raises ValueError where one cannot listen."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ValueError(
            f"cannot listen on {host}:{port} for health: {error.strerror}. "
            "Choose another host or port, or stop what has it."
        ) from None
    return sock


class Application:
    """An ASGI application: the paths of `answers`, for GET and HEAD."""

    def __init__(self, answers: dict[str, Ask]) -> None:
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answers.get(scope["path"].rstrip("/"))
        allow: list[tuple[bytes, bytes]] = []
        if answer is None:
            paths = ", ".join(self._answers)
            status, body = 404, f'{{"error":"there are {paths}"}}'.encode()
        elif scope["method"] not in ("GET", "HEAD"):
            status, body = 405, b'{"error":"only GET and HEAD"}'
            allow = [(b"allow", b"GET, HEAD")]
        else:
            status, body = answer()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *allow,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def serve(sock: socket.socket, answers: dict[str, Ask]) -> HttpServer:
    """A server that is not started yet."""
    return HttpServer(
        Application(answers), sock, limit_concurrency=CONNECTIONS, timeout_keep_alive=30
    )
