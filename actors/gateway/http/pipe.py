"""A response that is written from outside its request's task.

A task per connection that wakes up for every batch of tokens costs 9.2 µs a token with uvicorn; the
same bytes written without waking it cost 6.7 (wrk, 64 connections, one token a write, socket
write included). So `Pipe` runs ASGI's `send` itself: the coroutine ends without suspending unless
the client reads too slowly, and only then a task is made to wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from actors.gateway.http.asgi import Header, Message, Send


class Flusher:
    """Writes what pipes have gathered: once per turn of the loop, one `send` for each pipe."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: FilteringBoundLogger) -> None:
        self._loop = loop
        self._log = log
        self._dirty: list[Pipe] = []
        self._since = 0.0

    def add(self, pipe: Pipe) -> None:
        if not self._dirty:
            self._loop.call_soon(self.flush)
            self._since = self._loop.time()
        self._dirty.append(pipe)

    def flush_if_older(self, seconds: float) -> None:
        """For callers that keep the loop busy for long: nothing gathered waits longer than this."""
        if self._dirty and self._loop.time() - self._since > seconds:
            self.flush()

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for pipe in dirty:
            try:
                pipe.flush()
            except Exception:  # noqa: BLE001  # one response must not keep back the others
                self._log.exception("response not written")
                pipe.abort()


class Pipe:
    """One response. `on_stuck` is called once if `limit` bytes wait for a client that reads too
    slowly.

    Nothing is sent before the first `write` or `respond`: until then another status can be chosen.
    """

    __slots__ = (
        "_aborted",
        "_dirty",
        "_ending",
        "_flusher",
        "_headers",
        "_limit",
        "_on_stuck",
        "_parts",
        "_send",
        "_waiter",
        "_waiting",
        "closed",
        "late_headers",
        "started",
        "stuck",
    )

    def __init__(
        self,
        send: Send,
        flusher: Flusher,
        headers: Sequence[Header],
        *,
        limit: int,
        on_stuck: Callable[[], object],
    ) -> None:
        self._send = send
        self._flusher = flusher
        self._headers = headers
        self._limit = limit
        self._on_stuck = on_stuck
        self._parts: list[bytes] = []
        self._dirty = False
        self._ending = False
        self._waiter: asyncio.Task[None] | None = None
        self._waiting = 0
        self.late_headers: Callable[[], Sequence[Header]] | None = None
        """Headers that are known only when the response begins."""
        self.started = False
        self.closed = False
        self.stuck = False
        self._aborted = False

    def write(self, parts: Sequence[bytes]) -> None:
        """Gather a piece of a streamed body, given in parts."""
        if self.closed:
            return
        self._parts += parts
        if not self._dirty:
            self._dirty = True
            self._flusher.add(self)
        if self._waiter is not None:
            self._waiting += sum(map(len, parts))
            if self._waiting > self._limit:
                self.stuck = True
                self.abort()
                self._on_stuck()

    @property
    def finished(self) -> bool:
        """Whether the whole response was handed to the server."""
        return self.closed and not self._aborted

    @property
    def gathered(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._parts)

    def end(self) -> None:
        """The body is complete with what was gathered."""
        self._ending = True
        if not self._dirty:
            self._dirty = True
            self._flusher.add(self)

    def flush(self) -> None:
        """Hand everything to the server, unless the client is still busy with what came before."""
        if self._waiter is not None or self.closed:
            return
        self._dirty = False
        self._run(self._write_out())

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """A whole response at once."""
        if self.started or self.closed:
            return
        self.started = self.closed = True
        self._run(self._whole(status, [*self._first_headers(), *headers], body))

    def abort(self) -> None:
        """Nothing more will be written, not even what waits."""
        self.closed = self._aborted = True
        self._parts.clear()
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None

    def _first_headers(self) -> Sequence[Header]:
        return (
            self._headers if self.late_headers is None else [*self._headers, *self.late_headers()]
        )

    def _run(self, writing: Coroutine[Any, Any, None]) -> None:
        """Run it here as far as it goes; the rest, if the client is slow, in a task."""
        try:
            waits_for = writing.send(None)
        except StopIteration:
            return
        self._waiter = asyncio.get_running_loop().create_task(self._wait(writing, waits_for))

    async def _wait(self, writing: Coroutine[Any, Any, None], waits_for: object) -> None:
        await _resume(writing, waits_for)
        self._waiter = None
        if self._dirty:
            self.flush()

    async def _write_out(self) -> None:
        if not self.started:
            self.started = True
            await self._send(_start(200, [*_STREAM, *self._first_headers()]))
        body = b"".join(self._parts)
        self._parts.clear()
        self._waiting = 0
        self.closed = self._ending
        message: Message = {
            "type": "http.response.body",
            "body": body,
            "more_body": not self._ending,
        }
        await self._send(message)

    async def _whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self._send(_start(status, [_JSON, length, *headers]))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


_JSON: Header = (b"content-type", b"application/json")
_STREAM: Sequence[Header] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)


def _start(status: int, headers: Sequence[Header]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


@coroutine
def _resume(started: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was run by hand up to its first suspension."""
    while True:
        try:
            value = yield waits_for
        except asyncio.CancelledError:
            started.close()  # the awaiting task was cancelled: so is what it awaits
            raise
        try:
            waits_for = started.send(value)
        except StopIteration:
            return
