"""How simulated engines read each other's KV blocks: one TCP connection for each request.

A line of JSON asks, a line `ok` or `gone` answers. `beat` keeps the blocks from being given up
while the reader waits, `read` and `done` stand around the time that the transfer takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from actors.engine.backend import InvalidRequest
from schemas.transfer import TransferState

HOST = "127.0.0.1"
INTERVAL = 1.0
"""Seconds between two reports."""
MAX_LINE = 4096

Say = Literal["beat", "read", "done"]


class Ask(msgspec.Struct, frozen=True):
    """`engine` is the life whose blocks are meant: ports are given anew."""

    say: Say
    engine: str
    request: str


class Source(msgspec.Struct, frozen=True):
    """What a reader must know, by the names of vLLM's kv_transfer_params."""

    remote_engine_id: str
    remote_request_id: str
    remote_host: str
    remote_port: int


class Gone(Exception):
    """The blocks are not there any more."""


class Keeper:
    """The side of a prefill engine: keeps blocks for `lease` seconds, longer while asked to.

    `release` is called once for each request that was kept.
    """

    def __init__(self, engine: str, lease: float, release: Callable[[int], None]) -> None:
        self.engine = engine
        self.expired = 0
        self._lease = lease
        self._release = release
        self._kept: dict[int, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> dict[str, Any]:
        """Returns where to read, in words of kv_transfer_params."""
        self._server = await asyncio.start_server(self._serve, HOST, 0, limit=MAX_LINE)
        port = self._server.sockets[0].getsockname()[1]
        return {"remote_engine_id": self.engine, "remote_host": HOST, "remote_port": port}

    @property
    def held(self) -> int:
        return len(self._kept)

    def keep(self, key: int) -> None:
        self._kept[key] = self._timer(key, self._lease)

    def unread(self, transfer: Mapping[str, Any]) -> None:
        """Nobody will read this."""
        if transfer.get("remote_engine_id") == self.engine:
            self._let_go(_number(str(transfer.get("remote_request_id"))))

    async def close(self) -> None:
        for timer in self._kept.values():
            timer.cancel()
        self._kept.clear()
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while line := await reader.readline():
                asked = msgspec.json.decode(line, type=Ask)
                writer.write(b"ok\n" if self._answer(asked) else b"gone\n")
                await writer.drain()
        except (OSError, ValueError):  # it left, or it is no reader of ours
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def _answer(self, asked: Ask) -> bool:
        key = _number(asked.request)
        timer = self._kept.get(key)
        if timer is None or asked.engine != self.engine:
            return False
        if asked.say == "done":
            self._let_go(key)
            return True
        # As vLLM's NixlConnector: longer by two thirds of a lease from now, never shorter.
        until = asyncio.get_running_loop().time() + self._lease * 2 / 3
        if until > timer.when():
            timer.cancel()
            self._kept[key] = self._timer(key, self._lease * 2 / 3)
        return True

    def _timer(self, key: int, delay: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, self._expire, key)

    def _expire(self, key: int) -> None:
        self.expired += 1
        self._let_go(key)

    def _let_go(self, key: int) -> None:
        timer = self._kept.pop(key, None)
        if timer is not None:
            timer.cancel()
            self._release(key)


class Readers:
    """The side of a decode engine.

    `arrived` is called when the blocks of a request are there, `lost` when they are not to be had:
    one of them, once, unless the request is forgotten. `seconds` is what so many tokens take.
    """

    def __init__(
        self,
        lease: float,
        seconds: Callable[[int], float],
        arrived: Callable[[int], None],
        lost: Callable[[int, str], None],
    ) -> None:
        self.received = self.received_tokens = self.failed = 0
        self._beat = lease / 6  # as vLLM's NixlConnector
        self._patience = lease
        self._seconds = seconds
        self._arrived = arrived
        self._lost = lost
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ready: dict[int, asyncio.Future[int]] = {}

    def expect(self, key: int, transfer: Mapping[str, Any]) -> None:
        """A request has come that will read. Raises InvalidRequest where it does not say what."""
        try:
            source = msgspec.convert(transfer, Source)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"transfer: {error}") from None
        loop = asyncio.get_running_loop()
        ready = self._ready[key] = loop.create_future()
        self._tasks[key] = loop.create_task(self._read(key, source, ready))

    def begin(self, key: int, tokens: int) -> None:
        """It has blocks to read so many tokens into."""
        ready = self._ready.get(key)
        if ready is not None and not ready.done():
            ready.set_result(tokens)

    def forget(self, key: int) -> None:
        self._ready.pop(key, None)
        if task := self._tasks.pop(key, None):
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self.forget(key)
        if tasks:
            await asyncio.wait(tasks)

    async def _read(self, key: int, source: Source, ready: asyncio.Future[int]) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._patience):
                reader, writer = await asyncio.open_connection(
                    source.remote_host, source.remote_port, limit=MAX_LINE
                )
            tokens = await self._transfer(reader, writer, source, ready)
        except (OSError, TimeoutError, EOFError, ValueError, Gone) as error:
            self.failed += 1
            why = str(error) or type(error).__name__
            self._end(key)
            self._lost(key, f"KV blocks of {source.remote_engine_id} are not to be had: {why}")
        except asyncio.CancelledError:
            if writer is not None:  # it left: nobody will read them
                writer.write(_line("done", source))
            raise
        else:
            self.received += 1
            self.received_tokens += tokens
            self._end(key)
            self._arrived(key)
        finally:
            if writer is not None:
                writer.close()

    async def _transfer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: Source,
        ready: asyncio.Future[int],
    ) -> int:
        async def ask(say: Say) -> None:
            writer.write(_line(say, source))
            async with asyncio.timeout(self._patience):
                answer = await reader.readline()
            if answer != b"ok\n":
                raise Gone("given up" if answer else "the connection broke")

        await ask("beat")
        while not ready.done():
            await asyncio.wait([ready], timeout=self._beat)
            if not ready.done():
                await ask("beat")
        tokens = ready.result()
        await ask("read")
        left = self._seconds(tokens)
        while left > 0:
            await asyncio.sleep(min(left, self._beat))
            left -= self._beat
            if left > 0:
                await ask("beat")
        await ask("done")
        return tokens

    def _end(self, key: int) -> None:
        self._tasks.pop(key, None)
        self._ready.pop(key, None)


class Reports:
    """Tells of what moved when it changed, at most once in `INTERVAL`."""

    def __init__(
        self, keeper: Keeper, readers: Readers, token_bytes: int, tell: Callable[[Any], None]
    ) -> None:
        self._keeper = keeper
        self._readers = readers
        self._token_bytes = token_bytes
        self._tell = tell
        self._last = TransferState("")
        self._timer: asyncio.TimerHandle | None = None

    def state(self) -> TransferState:
        readers = self._readers
        return TransferState(
            "sim",
            readers.received,
            readers.received_tokens * self._token_bytes,
            readers.failed,
            self._keeper.expired,
            self._keeper.held,
        )

    def changed(self) -> None:
        if self._timer is None:
            self._report()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _report(self) -> None:
        self._timer = None
        if (state := self.state()) != self._last:
            self._last = state
            self._tell(state)
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._report)


def _line(say: Say, source: Source) -> bytes:
    return msgspec.json.encode(Ask(say, source.remote_engine_id, source.remote_request_id)) + b"\n"


def _number(request: str) -> int:
    return int(request) if request.isdecimal() else 0
