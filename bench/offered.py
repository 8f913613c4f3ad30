"""Load that does not wait for its answers: so many requests a second, whatever becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
BROKEN = 0
"""In place of a status: no whole answer came."""
KEPT = 4096
"""Bytes of an answer's end that are looked at."""


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request, for a connection that is kept."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "\r\n"]).encode() + body


@dataclass
class Outcome:
    """`status` of HTTP; seconds to the last byte since it was due, and since it was sent.

    `kind` is which of the requests it was. `retry_after`: the header was there.
    """

    kind: int
    status: int
    whole: float
    took: float
    retry_after: bool


class Connection(asyncio.Protocol):
    """One request after the other."""

    transport: asyncio.Transport

    def __init__(self, done: Callable[[Connection, Outcome], None]) -> None:
        self._done = done
        self._head, self._tail = b"", b""
        self._kind, self._since, self._sent = 0, 0.0, 0.0
        self._left: int | None = None
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, kind: int, request: bytes, since: float) -> None:
        self._head, self._tail, self._left = b"", b"", None
        self._kind, self._since, self._sent = kind, since, time.perf_counter()
        self._in_body = False
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, self._in_body = head, True
            length = LENGTH.search(head)
            self._left = int(length[1]) if length else None
        self._tail = (self._tail + data)[-KEPT:]
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (self._left is None and self._tail.endswith(b"0\r\n\r\n")):
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if self._since:
            self._end(BROKEN)

    def _end(self, status: int | None = None) -> None:
        now, since, self._since = time.perf_counter(), self._since, 0.0
        if status is None:
            status = int(self._head[9:12])
            if status == 200 and (b'"error"' in self._tail or b"data: [DONE]" not in self._tail):
                status = BROKEN
        retry_after = b"\r\nretry-after: " in self._head.lower()
        took = now - self._sent
        self._done(self, Outcome(self._kind, status, now - since, took, retry_after))


@dataclass
class Load:
    """Sends the `requests` in turns to a port of 127.0.0.1, over at most `most` connections.

    `unsent` is what found none of them free.
    """

    port: int
    requests: Sequence[bytes]
    most: int = 2000
    outcomes: list[Outcome] = field(default_factory=list)
    unsent: int = 0
    _idle: list[Connection] = field(default_factory=list)
    _all: set[Connection] = field(default_factory=set)
    _sent: int = 0
    _again: bool = False

    async def offer(self, rate: float, seconds: float) -> None:
        """`rate` requests a second; those that are not answered at the end are left alone."""
        began = time.perf_counter()
        sent = 0
        while (passed := time.perf_counter() - began) < seconds:
            for number in range(sent, int(passed * rate)):
                await self._send(began + number / rate)
            sent = int(passed * rate)
            await asyncio.sleep(0.005)

    async def saturate(self, width: int, seconds: float) -> None:
        """`width` requests at a time, each followed by the next."""
        self._again = True
        for _ in range(width):
            await self._send(time.perf_counter())
        await asyncio.sleep(seconds)
        self._again = False

    def statuses(self) -> Counter[int]:
        return Counter(outcome.status for outcome in self.outcomes)

    def close(self) -> None:
        for connection in self._all:
            connection.transport.abort()

    async def _send(self, since: float) -> None:
        if not self._idle:
            if len(self._all) >= self.most:
                self.unsent += 1
                return
            loop = asyncio.get_running_loop()
            made = await loop.create_connection(lambda: Connection(self._ended), *_at(self.port))
            self._all.add(made[1])
            self._idle.append(made[1])
        self._ask(self._idle.pop(), since)

    def _ask(self, connection: Connection, since: float) -> None:
        kind = self._sent % len(self.requests)
        self._sent += 1
        connection.ask(kind, self.requests[kind], since)

    def _ended(self, connection: Connection, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if connection.transport.is_closing():
            self._all.discard(connection)
        elif self._again:
            self._ask(connection, time.perf_counter())
        else:
            self._idle.append(connection)


class Reader:
    """Reads one long answer after the other: as fast as it comes, or one byte a second."""

    def __init__(self, port: int, request: bytes, *, slow: bool) -> None:
        self._port = port
        self._request = request
        self._slow = slow
        self.begun = 0
        """Answers that it got, whole or not."""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # cut off: it asks again
                await self._read()
            await asyncio.sleep(0.05)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            if self._slow:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.setblocking(False)
            await loop.sock_connect(sock, _at(self._port))
            await loop.sock_sendall(sock, self._request)
            if b" 200 " not in await loop.sock_recv(sock, 14):
                return  # refused, as most are
            self.begun += 1
            tail = b""
            while not tail.endswith(b"0\r\n\r\n"):
                if self._slow:
                    await asyncio.sleep(1)
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return  # cut off; what is in our own buffer could be read for long
                data = await loop.sock_recv(sock, 1 if self._slow else 1 << 16)
                if not data:
                    return
                tail = (tail + data)[-8:]


def _at(port: int) -> tuple[str, int]:
    return ("127.0.0.1", port)
