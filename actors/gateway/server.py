"""uvicorn on the actor's own loop, behind a socket that is bound before anything else starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator

import uvicorn

from actors.gateway.http.asgi import Application
from actors.gateway.options import Options, OptionsError

BACKLOG = 4096
KEEP_ALIVE = 75
"""Seconds that a connection may be idle between requests."""
STALLED = 30_000
"""Milliseconds after which the kernel drops a connection whose client takes no bytes."""


def bind(options: Options) -> socket.socket:
    """Raises OptionsError, for a port in use above all."""
    kind = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    sock = socket.socket(kind, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted connections inherit what follows. Vanished clients are noticed, even idle ones.
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


class HttpServer:
    """Serves from `start` to `stop`."""

    def __init__(self, app: Application, options: Options, sock: socket.socket) -> None:
        """Raises OptionsError for a certificate and key that do not fit."""
        self._sock = sock
        try:
            config = uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                ssl_certfile=options.ssl_certfile,
                ssl_keyfile=options.ssl_keyfile,
            )
            config.load()
        except (ssl.SSLError, OSError) as error:
            raise OptionsError(
                f"ssl_certfile {options.ssl_certfile!r} and ssl_keyfile {options.ssl_keyfile!r} "
                f"are no pair of certificate and key: {error}"
            ) from None
        # For each connection uvicorn asks the first of these whether anybody listens.
        logging.getLogger("uvicorn.access").propagate = False
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._server = _Server(config)
        host, port = sock.getsockname()[:2]
        scheme = "https" if config.is_ssl else "http"
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        """Where it listens, as a URL."""
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._server.server_state.connections)

    @property
    def total_requests(self) -> int:
        """Answered so far."""
        return self._server.server_state.total_requests

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))
        await self._server.up.wait()

    def close_listener(self) -> None:
        """Take no new connections and close idle ones; responses in progress go on."""
        self._server.should_exit = True

    async def stop(self, timeout: float = 2.0) -> None:
        """End. Responses that are not finished after `timeout` seconds are cut off."""
        if self._task is None:
            self._sock.close()
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        if not done:
            self._server.force_exit = True
            for task in list(self._server.server_state.tasks):
                task.cancel()
            for connection in list(self._server.server_state.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.wait([self._task], timeout=timeout)
