"""The HTTP server of an actor: nobody who is about to ask is reset when it closes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bus.http import ON_ITS_WAY, HttpServer

GUARD = 20.0
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The head of the answer."""
    writer.write(ASK)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), GUARD)
    assert await reader.readexactly(2) == b"ok"
    return head.lower()


def run(scenario: Callable[[HttpServer, int], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        server = HttpServer(app, sock, timeout_keep_alive=75)
        await server.start()
        try:
            await scenario(server, sock.getsockname()[1])
        finally:
            await server.stop()

    asyncio.run(main())


def test_a_request_that_was_on_its_way_is_answered_and_is_the_last_one() -> None:
    async def scenario(server: HttpServer, port: int) -> None:
        fresh = await asyncio.open_connection("127.0.0.1", port)
        used = await asyncio.open_connection("127.0.0.1", port)
        assert b"connection: close" not in await ask(*used)
        server.close_listener()
        while True:  # until it has closed
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:  # refused, or reset where it had waited to be accepted
                break
            writer.close()
        for reader, writer in (fresh, used):
            assert b"connection: close" in await ask(reader, writer)
            assert await asyncio.wait_for(reader.read(), GUARD) == b""
            writer.close()

    run(scenario)


def test_idle_connections_are_closed_in_the_end() -> None:
    async def scenario(server: HttpServer, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await ask(reader, writer)
        began = time.monotonic()
        server.close_listener()
        assert await asyncio.wait_for(reader.read(), GUARD) == b""
        assert time.monotonic() - began > ON_ITS_WAY / 2
        writer.close()

    run(scenario)


def test_without_connections_nothing_is_waited_for() -> None:
    async def scenario(server: HttpServer, port: int) -> None:
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < GUARD

    run(scenario)
