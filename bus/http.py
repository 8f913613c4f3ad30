"""HTTP of an actor: uvicorn on the actor's own loop, behind a socket that is bound before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Generator
from typing import Any

import uvicorn

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for 0 s."""


ON_ITS_WAY = 0.5
"""Seconds for which connections without a request are kept when their listener has closed: whoever
is about to send one shall get an answer and not a reset."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """A request that is on its way when the listener closes is still answered."""
        for listener in self.servers:
            listener.close()
        for sock in sockets or ():
            sock.close()
        state: Any = self.server_state  # connections of many kinds; ours are those of HTTP
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        waits = time.monotonic() + ON_ITS_WAY
        idle = True
        while idle and time.monotonic() < waits and not self.force_exit:
            idle = False
            for connection in state.connections:
                if _is_idle(connection):
                    idle = True
                else:
                    connection.cycle.keep_alive = False
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the actor's process, which drains us."""
        yield


def _is_idle(connection: Any) -> bool:
    return connection.cycle is None or connection.cycle.response_complete


class HttpServer:
    """Serves an ASGI application from `start` to `stop`."""

    def __init__(self, app: Any, sock: socket.socket, **settings: Any) -> None:
        """`settings` are uvicorn's, beside those of every actor.

        Raises `ssl.SSLError` or `OSError` for a certificate and key that do not fit.
        """
        self._sock = sock
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            **settings,
        )
        config.load()
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

    def abort(self, scope: Any) -> None:
        """Reset the connection of the request with this ASGI scope: what waits for its client, here
        and in the kernel, is thrown away. ASGI has no way to say that.
        """
        for connection in list(self._server.server_state.connections):
            cycle = getattr(connection, "cycle", None)  # None before its first request
            if cycle is not None and cycle.scope is scope and connection.transport is not None:
                sock = connection.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.transport.abort()

    def close_listener(self) -> None:
        """Take no new connections; responses in progress go on. Idle connections are closed when
        they have had time for a request that was on its way.
        """
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
