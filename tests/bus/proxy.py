"""A TCP connection that a test can break: what is on its way is lost, and it may be made again."""

from __future__ import annotations

import asyncio
from typing import Any

from bus.runtime import Runtime


class Proxy:
    """Between one actor and the mailbox of another. Use `between`."""

    def __init__(self, host: str, port: str) -> None:
        self._target = host, int(port)
        self.connections = 0
        self.lose_requests = False
        self.lose_replies = False
        self.delay = 0.0
        """Seconds that everything stays on its way."""
        self.lost = 0
        """Bytes that were swallowed so far."""
        self._server: asyncio.Server
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def between(cls, asker: Runtime, server: Runtime) -> Proxy:
        """Before the first message of `asker` to `server`: it goes by a proxy from now on."""
        host, port = server.entry().mailbox.removeprefix("tcp://").split(":")
        proxy = cls(host, port)
        proxy._server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        there = f"tcp://127.0.0.1:{proxy._server.sockets[0].getsockname()[1]}"
        transport: Any = asker.transport
        connect = transport.connect_dealer

        def detour(endpoint: str, *arguments: Any) -> Any:
            mailbox = server.entry().mailbox
            return connect(there if endpoint == mailbox else endpoint, *arguments)

        transport.connect_dealer = detour
        return proxy

    def cut(self) -> None:
        """Every connection breaks; new ones carry everything again."""
        self.lose_requests = self.lose_replies = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        self.cut()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(*self._target)
        self._writers += [writer, back]
        for source, target, lost in (
            (reader, back, lambda: self.lose_requests),
            (there, writer, lambda: self.lose_replies),
        ):
            task = asyncio.ensure_future(self._pump(source, target, lost))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, lost: Any
    ) -> None:
        try:
            while data := await source.read(65_536):
                if lost():
                    self.lost += len(data)
                else:
                    await asyncio.sleep(self.delay)
                    target.write(data)
        except ConnectionError:
            pass
        finally:
            target.close()
