"""`/health`, `/live` and `/ready` of the machine, by uvicorn on the actor's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any

import uvicorn

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
        if answer is None:
            paths = ", ".join(self._answers)
            status, body = 404, f'{{"error":"there are {paths}"}}'.encode()
        elif scope["method"] not in ("GET", "HEAD"):
            status, body = 405, b'{"error":"only GET and HEAD"}'
        else:
            status, body = answer()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the actor's process, which drains us."""
        yield


class HealthServer:
    """Serves from `start` to `stop`."""

    def __init__(self, sock: socket.socket, answers: dict[str, Ask]) -> None:
        self._sock = sock
        config = uvicorn.Config(
            Application(answers),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=30,
        )
        logging.getLogger("uvicorn.access").propagate = False
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        host, port = self._sock.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))
        await self._server.up.wait()

    async def stop(self) -> None:
        if self._task is None:
            self._sock.close()
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait([self._task], timeout=1.0)
        if not done:
            self._server.force_exit = True
            await asyncio.wait([self._task], timeout=1.0)
