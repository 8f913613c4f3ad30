"""A streaming client that costs little CPU: times of every token of many requests at once.

Raw HTTP/1.1 on asyncio: it looks for SSE data lines in what arrives and parses no JSON until the
answer is complete.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ORDINARY = range(1_000, 40_000)
"""Token ids that every larger vocabulary has and that are no special tokens."""
OK = b"HTTP/1.1 200"
ROW = "bench row: "
"""Begins a line on which a program hands a row to the bench; others may print there too."""
USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')


class LoadError(Exception):
    """An answer that cannot be counted; the text holds its beginning."""


@dataclass
class Sample:
    """One request: when it was sent, and when each part of its answer came, in s."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Time between parts. A token that comes in the same segment as another has a gap of 0."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True)
class Burst:
    """`width` requests at once, each of `prompt` and `output` tokens. The seed makes them new."""

    width: int
    prompt: int
    output: int
    seed: int


def prompts(burst: Burst) -> list[list[int]]:
    """Token ids; no two prompts share a block, so that no prefix cache helps anybody."""
    draw = random.Random(burst.seed)
    return [draw.choices(ORDINARY, k=burst.prompt) for _ in range(burst.width)]


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Tokens per second from the first sending to the last arrival; times in ms."""
    began = min(sample.sent for sample in samples)
    ended = max(sample.arrivals[-1] for sample in samples)
    ttft = sorted(sample.ttft for sample in samples)
    per_token = [
        (sample.arrivals[-1] - sample.arrivals[0]) / (sample.tokens - 1)
        for sample in samples
        if sample.tokens > 1
    ]
    # A server that puts a whole answer into one line leaves no gap at all.
    gaps = sorted(gap for sample in samples for gap in sample.gaps) or [0.0]
    tokens = sum(sample.tokens for sample in samples)
    return {
        "requests": len(samples),
        "tokens": tokens,
        "seconds": ended - began,
        "tokens_per_s": tokens / (ended - began),
        "ttft_p50": 1e3 * statistics.median(ttft),
        "ttft_p99": 1e3 * ttft[len(ttft) * 99 // 100],
        "itl_mean": 1e3 * statistics.fmean(per_token),
        "gap_p99": 1e3 * gaps[len(gaps) * 99 // 100],
    }


async def drive(port: int, model: str, burst: Burst) -> list[Sample]:
    """The burst as completions of token ids, greedy, to full length, from 127.0.0.1."""
    fixed = {
        "model": model,
        "max_tokens": burst.output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    bodies = [json.dumps(fixed | {"prompt": tokens}).encode() for tokens in prompts(burst)]
    return await _post(port, "/v1/completions", bodies)


async def _post(port: int, path: str, bodies: Sequence[bytes]) -> list[Sample]:
    """All at once, a connection each, connected before the clock runs."""
    loop = asyncio.get_running_loop()
    streams = []
    for _ in bodies:
        _, stream = await loop.create_connection(Stream, "127.0.0.1", port)
        streams.append(stream)
    try:
        for stream, body in zip(streams, bodies, strict=True):
            stream.post(path, port, body)
        return list(await asyncio.gather(*(stream.done for stream in streams)))
    finally:
        for stream in streams:
            stream.transport.close()


class Stream(asyncio.Protocol):
    """One request on one connection; `done` gets its sample. `tail` keeps the answer's end."""

    transport: asyncio.Transport
    sample: Sample

    def __init__(self) -> None:
        self.done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self.head = b""
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def post(self, path: str, port: int, body: bytes) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.sample = Sample(time.perf_counter())
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.head = (self.head + data)[:400]
        # A mark that is cut by the end of a segment is completed by the next one.
        seen = self.tail[-6:] + data
        self.sample.arrivals += [now] * seen.count(b"data: {")
        self.tail = (self.tail + data)[-2048:]
        if self.tail.endswith(b"0\r\n\r\n") and b"data: [DONE]" in self.tail:
            self._finish()
        elif len(self.head) >= len(OK) and not self.head.startswith(OK):
            self._fail(f"refused: {self.head!r}")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost ({error}) after {self.head!r}")

    def _finish(self) -> None:
        usage = USAGE.findall(self.tail)
        if not usage:
            self._fail(f"no usage at the end: {self.tail[-300:]!r}")
            return
        self.sample.tokens = int(usage[-1])
        # The last line holds the usage and no token.
        self.sample.arrivals.pop()
        if not self.done.done():
            self.done.set_result(self.sample)

    def _fail(self, text: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(text))
