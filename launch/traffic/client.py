"""Streamed completions over HTTP/1.1, a connection each, on asyncio and httptools."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

SILENCE = 600.0
"""Seconds without a byte after which a server is taken for dead."""
CONNECT = 30.0
"""Seconds in which a connection must be there."""
MAX_ANSWER = 16 << 20
"""Bytes of an answer that is read whole, and of one event of a stream."""
READ = 64 << 10


class RequestError(Exception):
    """It failed. `kind` is the same for all failures of one kind."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Server(msgspec.Struct, frozen=True):
    """`key` is sent as its bearer token, unless empty."""

    host: str
    port: int
    tls: bool = False
    path: str = ""
    key: str = ""

    @classmethod
    def at(cls, url: str, key: str = "") -> Server:
        """Raises `ValueError` with a sentence."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server: write http://HOST:PORT")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or (443 if tls else 80), tls, path, key)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}{self.path}"


class Exchange:
    """One request and its answer. `status` is that of the answer, 0 before it came."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.complete = False

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code() or 0)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._body += data

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.complete = True

    async def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Raises `RequestError`."""
        server = self._server
        lines = {
            "Host": f"{server.host}:{server.port}",
            "Connection": "close",
            "Content-Length": str(len(body)),
            **({"Content-Type": "application/json"} if body else {}),
            **({"Authorization": f"Bearer {server.key}"} if server.key else {}),
            **headers,
        }
        head = f"{method} {server.path}{path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        try:
            async with asyncio.timeout(CONNECT):
                self._reader, self._writer = await asyncio.open_connection(
                    server.host, server.port, ssl=server.tls or None
                )
            self._writer.write(f"{head}\r\n".encode() + body)
            await self._writer.drain()
        except TimeoutError:
            raise RequestError("no connection", f"no connection in {CONNECT:g} s") from None
        except OSError as error:
            raise RequestError("no connection", str(error)) from None

    async def more(self) -> bytes:
        """What of the answer's body came next; empty at its end. Raises `RequestError`."""
        assert self._reader is not None
        while not self._body and not self.complete:
            try:
                async with asyncio.timeout(SILENCE):
                    data = await self._reader.read(READ)
                if not data:
                    raise RequestError("cut off", "the connection ended before the answer did")
                self._parser.feed_data(data)
            except TimeoutError:
                raise RequestError("silent", f"nothing came for {SILENCE:g} s") from None
            except OSError as error:
                raise RequestError("cut off", str(error)) from None
            except httptools.HttpParserError as error:
                raise RequestError("no HTTP", f"the answer is no HTTP: {error}") from None
        found = bytes(self._body)
        self._body.clear()
        return found

    async def whole(self) -> bytes:
        """The answer's body. Raises `RequestError`."""
        found = bytearray()
        while data := await self.more():
            found += data
            if len(found) > MAX_ANSWER:
                raise RequestError("too long", f"an answer of more than {MAX_ANSWER} bytes")
        return bytes(found)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


async def get(server: Server, path: str) -> tuple[int, bytes]:
    """Status and body. Raises `RequestError`."""
    exchange = Exchange(server)
    try:
        await exchange.send("GET", path, b"", {})
        body = await exchange.whole()
        return exchange.status, body
    finally:
        exchange.close()


class Usage(msgspec.Struct):
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None


class Chunk(msgspec.Struct):
    """One event of a streamed completion, as far as it matters here."""

    choices: list[Any] = []
    usage: Usage | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(Chunk).decode


def chunk(data: bytes) -> Chunk:
    """Raises `RequestError`."""
    try:
        return _chunk(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError("no completion", f"an event is no completion: {error}") from None


def failure(status: int, body: bytes) -> RequestError:
    """Of an answer that is none: its kind is the status, its text the server's."""
    text = body.decode(errors="replace").strip()
    try:
        error = _chunk(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = None
    if isinstance(error, dict):
        text = str(error.get("message", text))
    return RequestError(f"HTTP {status}", text[:500] or "no reason was given")
