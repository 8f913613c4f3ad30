"""Clients that stream answers one after another, and keep what came of each."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

GUARD = 90.0
"""Seconds without a byte after which an answer is lost and not only late."""


@dataclass(frozen=True)
class Question:
    """One of a few, so that its undisturbed answer is known."""

    number: int
    tokens: int

    def body(self) -> dict[str, Any]:
        return {
            "model": "demo",
            "messages": [{"role": "user", "content": f"Tell story {self.number}."}],
            "seed": self.number,
            "temperature": self.number % 2,
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass
class Answer:
    """`broken` is what the connection said; `error` what the server said. Times are monotonic."""

    question: Question
    id: str
    sent: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: int = 0
    retry_after: str = ""
    text: str = ""
    tokens: int = 0
    reason: str = ""
    error: str = ""
    broken: str = ""

    def whole(self) -> bool:
        return not self.error and not self.broken and self.status == 200

    def said(self) -> tuple[str, int, str]:
        return self.text, self.tokens, self.reason


def questions(count: int) -> list[Question]:
    """Short and long ones."""
    return [Question(number, 40 + number * 53 % 260) for number in range(count)]


async def ask(client: httpx.AsyncClient, question: Question, name: str) -> Answer:
    answer = Answer(question, name)
    try:
        async with client.stream(
            "POST", "/v1/chat/completions", json=question.body(), headers={"x-request-id": name}
        ) as response:
            answer.status = response.status_code
            answer.retry_after = response.headers.get("retry-after", "")
            if answer.status != 200:
                answer.error = (await response.aread()).decode()
            async for line in response.aiter_lines():
                _read(answer, line)
    except httpx.TransportError as error:
        answer.broken = repr(error)
    answer.ended = time.monotonic()
    return answer


def _read(answer: Answer, line: str) -> None:
    if not line.startswith("data: {"):
        return
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        answer.error = json.dumps(chunk["error"])
    if usage := chunk.get("usage"):
        answer.tokens = usage["completion_tokens"]
    for choice in chunk.get("choices", ()):
        answer.text += choice["delta"].get("content") or ""
        answer.reason = choice.get("finish_reason") or answer.reason


def client(url: str) -> httpx.AsyncClient:
    """A connection of its own for each request, so that every gateway gets some."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, timeout=GUARD, limits=limits)


async def undisturbed(url: str, asked: list[Question]) -> dict[Question, Answer]:
    async with client(url) as http:
        answers = await asyncio.gather(*(ask(http, q, f"calm-{q.number}") for q in asked))
    return {answer.question: answer for answer in answers}


class Load:
    """`width` clients until `over` is set; then they finish what they asked."""

    def __init__(self, url: str, asked: list[Question], width: int, seed: int) -> None:
        self.over = asyncio.Event()
        self.answers: list[Answer] = []
        self._url = url
        self._asked = asked
        self._width = width
        self._seed = seed

    async def run(self) -> None:
        async with client(self._url) as http:
            await asyncio.gather(*(self._go_on(http, number) for number in range(self._width)))

    async def _go_on(self, http: httpx.AsyncClient, number: int) -> None:
        draw = random.Random(f"{self._seed}.{number}")
        count = 0
        while not self.over.is_set():
            count += 1
            answer = await ask(http, draw.choice(self._asked), f"chaos-{number}-{count}")
            self.answers.append(answer)
            if not answer.whole():
                # As a client does that may retry: at once, but never in a tight loop.
                await asyncio.sleep(0.2)
