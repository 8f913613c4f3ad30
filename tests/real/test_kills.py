"""Two real engines, killed in the middle of answers: every request gets its greedy tokens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.launch.cli.running import free_port, serving
from tests.launch.cli.test_kills import actors
from tests.real.test_orphans import core_of

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

TOKENS = 48
BEGUN = 8
"""Tokens that every answer has when an engine is killed."""
NEAR = 0.01
"""Two best logprobs that are closer than this may change places where sums have another order."""
GUARD = 240.0
GONE = 5.0
"""Seconds after a kill in which nothing is left of an engine, and its next life begins."""
PROMPTS = [
    "The capital of France is",
    "Once upon a time there was",
    "def fibonacci(n):",
    "1, 2, 3, 4, 5,",
    "A recipe for bread:",
    "Water boils when",
]
FILE = """\
[gateway]
port = {port}
[[engine]]
count = 2
model = "{model}"
served_model_name = ["small"]
dtype = "float32"
enforce_eager = true
max_model_len = 512
max_num_seqs = 16
"""
# Each engine's threads would otherwise be bound to the same cores, and spin for each other there.
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@dataclass
class Answer:
    """`gaps` are the differences of the two best logprobs at each token."""

    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    text: str = ""
    reason: str = ""
    usage: int = 0


async def ask(client: httpx.AsyncClient, prompt: str, begun: Callable[[], None]) -> Answer:
    body = {
        "model": "small",
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 2,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = Answer()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                _read(answer, json.loads(line.removeprefix("data: ")))
                if len(answer.tokens) >= BEGUN:
                    begun()
    return answer


def _read(answer: Answer, chunk: dict[str, Any]) -> None:
    assert "error" not in chunk, chunk
    if chunk.get("usage"):
        answer.usage = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        answer.text += choice["text"]
        answer.tokens += choice.get("token_ids") or []
        answer.reason = choice["finish_reason"] or answer.reason
        for best in (choice.get("logprobs") or {}).get("top_logprobs") or ():
            first, second = sorted(best.values())[-2:]
            answer.gaps.append(second - first)


async def all_answers(url: str, strike: Callable[[], None] = lambda: None) -> list[Answer]:
    """To all prompts at once; `strike` is called when each of them has begun."""
    begun = [False] * len(PROMPTS)
    struck = False

    def mark(number: int) -> None:
        nonlocal struck
        begun[number] = True
        if all(begun) and not struck:
            struck = True
            strike()

    async with httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        return await asyncio.gather(
            *(ask(client, p, partial(mark, n)) for n, p in enumerate(PROMPTS))
        )


def until_both_ready() -> dict[str, dict[str, Any]]:
    """The rows of `callboard ps`, which on a crowded machine may get no answer at first."""
    deadline = time.monotonic() + GUARD
    rows: dict[str, dict[str, Any]] = {}
    while not rows or any(rows[f"engine/{n}"]["state"] != "ready" for n in range(2)):
        states = {actor: (row["state"], row["detail"]) for actor, row in rows.items()}
        assert time.monotonic() < deadline, f"an engine did not come back: {states}"
        time.sleep(0.5)
        with suppress(ValueError):
            rows = actors()
    return rows


def is_exact(answer: Answer, calm: Answer) -> bool:
    """False where a near tie went the other way: from there on it is another text."""
    assert (answer.reason, answer.usage) == ("length", TOKENS)
    assert len(answer.tokens) == TOKENS
    for place, (ours, wanted) in enumerate(zip(answer.tokens, calm.tokens, strict=True)):
        if ours != wanted:
            assert calm.gaps[place] < NEAR, (place, answer.tokens, calm.tokens)
            return False
    assert answer.text == calm.text
    return True


def strike(url: str, calm: list[Answer], victim: str, engine: int) -> None:
    """Kill it in the middle of all answers, and see what becomes of them, and of it."""
    before = until_both_ready()[f"engine/{engine}"]
    pid = before["pid"]
    if victim == "core":
        core = core_of(pid)
        assert core is not None
        pid = core.pid
    killed = 0.0

    def kill() -> None:
        nonlocal killed
        killed = time.time()
        os.kill(pid, signal.SIGKILL)

    answers = asyncio.run(all_answers(url, kill))
    exact = [is_exact(ours, wanted) for ours, wanted in zip(answers, calm, strict=True)]
    assert sum(exact) >= len(PROMPTS) - 1, "near ties are rare"
    after = until_both_ready()[f"engine/{engine}"]
    assert after["incarnation"] > before["incarnation"]
    # A life is numbered by the milliseconds at which it begins.
    assert after["incarnation"] / 1000 - killed < GONE, "a dead engine was waited for"


def test_every_answer_is_the_undisturbed_one(small_model: Path, run_directory: Path) -> None:
    port = free_port()
    file = run_directory / "two.toml"
    file.write_text(FILE.format(port=port, model=small_model))
    with serving("up", str(file), **QUIET):
        until_both_ready()
        url = f"http://127.0.0.1:{port}"
        calm = asyncio.run(all_answers(url))
        for victim, engine in (("core", 0), ("actor", 1), ("core", 1), ("actor", 0)):
            strike(url, calm, victim, engine)
