"""An engine is killed under streaming load: nobody's answer ends early, and each is what it was."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from typing import Any

import httpx
import pytest

from tests.launch.cli.running import GUARD, callboard, free_port, serving
from tests.launch.cli.test_kills import actors

STREAMS = 24
TOKENS = 150


def chat(seed: int) -> dict[str, Any]:
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Tell story {seed}."}],
        "seed": seed,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


class Answer:
    """One streamed answer, as it comes."""

    def __init__(self) -> None:
        self.text = ""
        self.lines = 0
        self.usage: dict[str, Any] = {}
        self.error: Any = None

    async def read(self, client: httpx.AsyncClient, seed: int) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=chat(seed)) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                self.error = self.error or chunk.get("error")
                self.usage = chunk.get("usage") or self.usage
                for choice in chunk.get("choices", ()):
                    self.lines += 1
                    self.text += choice["delta"].get("content") or ""


async def under_load(url: str, killed: list[int]) -> list[Answer]:
    """All answers at once; these processes are killed once they have begun."""
    answers = [Answer() for _ in range(STREAMS)]
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(base_url=url, timeout=GUARD, limits=limits) as client:
        reading = [asyncio.create_task(a.read(client, i)) for i, a in enumerate(answers)]
        while not any(answer.lines > 10 for answer in answers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*reading)
    return answers


def fact(name: str) -> int:
    shown = callboard("describe", "gateway/0").stdout
    found = re.search(rf"^ *{name}\b\W*(\d+)", shown, re.MULTILINE)
    assert found, shown
    return int(found[1])


@pytest.mark.parametrize("engines", ["2", "1"])
def test_answers_outlive_the_engine_that_began_them(run_directory, engines) -> None:
    port = free_port()
    sim = ("serve", "demo", "--engine", "sim", "--sim-speed", "3", "--engines", engines)
    with serving(*sim, "--port", port) as served:
        url = f"http://127.0.0.1:{port}"
        undisturbed = asyncio.run(under_load(url, []))
        disturbed = asyncio.run(under_load(url, [actors()["engine/0"]["pid"]]))
        assert [answer.error for answer in disturbed] == [None] * STREAMS
        assert [a.usage["completion_tokens"] for a in disturbed] == [TOKENS] * STREAMS
        assert [a.text for a in disturbed] == [a.text for a in undisturbed]
        assert fact("migrated_mid_stream") > 0
        assert fact("failed") == 0
        assert served.interrupt()[0] == 0
