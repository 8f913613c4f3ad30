"""Streamed answers that are kept whole: text, engine, and when each part came."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from bench.load import LoadError, Sample, Stream

GUARD = 60.0
"""Seconds after which an answer is lost and not only late."""
LATE = 0.1
"""Seconds after a kill in which what was under way may still arrive."""
ENGINE = re.compile(rb'x-callboard-placement: .*?"engine": ?"([^"]+)"', re.IGNORECASE)
EVENT = re.compile(rb"data: (\{.*?\})\r?\n")


class Followed(Stream):
    """One answer. Times are those of `time.perf_counter`, the monotonic clock of the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = b""
        self.failure = ""

    def post(self, path: str, port: int, body: bytes) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"X-Callboard-Placement: 1\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.sample = Sample(time.perf_counter())
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self.whole += data
        super().data_received(data)

    @property
    def engine(self) -> str:
        """Where it was placed first, or "" where the server does not say."""
        found = ENGINE.search(self.whole)
        return found[1].decode() if found else ""

    def text(self) -> str:
        """Raises `LoadError` if an error came instead of the rest."""
        parts = []
        for data in EVENT.findall(self.whole):
            event = json.loads(data)
            if "error" in event:
                raise LoadError(f"an error inside the stream: {event['error']}")
            parts += [choice.get("text") or "" for choice in event.get("choices", ())]
        return "".join(parts)

    def pace(self) -> float:
        """Seconds a token, silences and all."""
        times = self.sample.arrivals
        return (times[-1] - times[0]) / max(1, self.sample.tokens - 1)

    def silence(self, killed: float) -> float | None:
        """Seconds from `killed` to the end of the longest silence that began before it.

        What was on its way at that moment and came within `LATE` does not end it. None for an
        answer that was over by then.
        """
        times = self.sample.arrivals
        gaps = [
            (b - a, b - killed)
            for a, b in itertools.pairwise(times)
            if b > killed and a < killed + LATE
        ]
        return max(gaps)[1] if gaps else None


def bodies(model: str, width: int, tokens: int) -> list[bytes]:
    """The same `width` greedy requests each time, to full length."""
    fixed = {
        "model": model,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return [
        json.dumps(fixed | {"prompt": f"Story number {i}. Once upon a time"}).encode()
        for i in range(width)
    ]


class Round:
    """The answers to all requests at once, a connection each."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests
        self.answers: list[Followed] = []

    async def begin(self, parts: int) -> None:
        """Returns when every answer has `parts` parts, or failed."""
        loop = asyncio.get_running_loop()
        for _ in self._requests:
            _, stream = await loop.create_connection(Followed, "127.0.0.1", self._port)
            self.answers.append(stream)
        for stream, body in zip(self.answers, self._requests, strict=True):
            stream.post("/v1/completions", self._port, body)
        deadline = time.perf_counter() + GUARD
        while time.perf_counter() < deadline and not all(  # noqa: ASYNC110  cheaper than an event
            answer.done.done() or len(answer.sample.arrivals) >= parts for answer in self.answers
        ):
            await asyncio.sleep(0.002)

    async def end(self, tokens: int) -> None:
        """Waits for all. An answer that is not whole has its `failure` set."""
        for answer in self.answers:
            try:
                sample = await asyncio.wait_for(answer.done, GUARD)
                answer.text()
                if sample.tokens != tokens:
                    answer.failure = f"{sample.tokens} tokens instead of {tokens}"
            except (LoadError, TimeoutError) as error:
                answer.failure = str(error) or f"not over after {GUARD:.0f} s"
            answer.transport.close()


def percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    """In ms; the p99 of fewer than 100 is the greatest but few."""
    if not seconds:
        return {"count": 0, "p50": None, "p99": None, "max": None}
    ordered = sorted(1e3 * value for value in seconds)
    return {
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)],
        "max": ordered[-1],
    }
