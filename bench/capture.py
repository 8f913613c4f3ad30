"""One streaming answer, taken apart: what a server really sends before its speed is believed."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


class WrongAnswer(Exception):
    """The server does not do what is to be measured."""


@dataclass(frozen=True)
class Answer:
    """`data_lines` without `[DONE]`; `token_lines` are those with text; sizes in bytes."""

    status: int
    data_lines: int
    token_lines: int
    http_chunks: int
    wire_bytes: int
    text: str
    finish_reason: str | None


def capture(port: int, path: str, body: bytes, timeout: float = 60.0) -> Answer:
    """POST `body` to 127.0.0.1 and read one answer to its end."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(head.encode() + body)
        while part := connection.recv(1 << 16):
            received += part
    header, _, rest = bytes(received).partition(b"\r\n\r\n")
    status = int(header.split(b" ", 2)[1])
    chunked = b"transfer-encoding: chunked" in header.lower()
    content, chunks = _dechunk(rest) if chunked else (rest, 1)
    if status != 200:
        raise WrongAnswer(f"status {status}: {content[:300].decode(errors='replace')}")
    events = [json.loads(data) for data in _data_lines(content) if data != b"[DONE]"]
    texts = [text for event in events if (text := _text(event))]
    reasons = [
        choice["finish_reason"]
        for event in events
        for choice in event.get("choices", ())
        if choice.get("finish_reason")
    ]
    return Answer(
        status=status,
        data_lines=len(events),
        token_lines=len(texts),
        http_chunks=chunks,
        wire_bytes=len(received),
        text="".join(texts),
        finish_reason=reasons[-1] if reasons else None,
    )


def require_tokens(answer: Answer, tokens: int) -> None:
    """Refuse a server that does not send one SSE data line for each of `tokens` tokens.

    Two lines fewer are let pass: a token may be half of a character and appear with the next.
    """
    if not tokens - 2 <= answer.token_lines <= tokens:
        raise WrongAnswer(f"{answer.token_lines} SSE data lines with text for {tokens} tokens")
    if answer.finish_reason != "length":
        raise WrongAnswer(f"finish_reason {answer.finish_reason!r} instead of 'length'")


def _data_lines(content: bytes) -> list[bytes]:
    lines = (line.strip() for line in content.split(b"\n"))
    return [line[5:].strip() for line in lines if line.startswith(b"data:")]


def _text(event: dict[str, Any]) -> str:
    if "error" in event:
        raise WrongAnswer(f"error inside the stream: {event['error']}")
    choices = event.get("choices") or [{}]
    return choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or ""


def _dechunk(raw: bytes) -> tuple[bytes, int]:
    content, at, chunks = bytearray(), 0, 0
    while True:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end].split(b";")[0], 16)
        if size == 0:
            return bytes(content), chunks
        content += raw[end + 2 : end + 2 + size]
        at, chunks = end + 4 + size, chunks + 1
