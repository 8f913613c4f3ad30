"""Prefill and decode engines as processes, killed at each step of requests that run on both."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from typing import Self

import httpx

from launch.cli.target import choose
from launch.client import Client
from schemas.life import Describe, Description
from tests.launch.cli.running import GUARD, free_port, serving
from tests.launch.cli.test_kills import actors, until
from tests.launch.cli.test_migration import Answer, fact

STREAMS = 6
PREFILL, DECODE = ("p-0", "p-1"), ("d-0", "d-1")

# A prefill takes half a second, a transfer one, an answer of 30 tokens another. One prefill at a
# time: engines say how busy they are between steps, and a single step of all would not be seen.
FILE = """
[gateway]
port = {port}

[disaggregation]
local_prefill_tokens = 0

[[engine]]
name = "p"
backend = "sim"
model = "demo"
count = 2
role = "prefill"
max_num_seqs = 1
sim_speed = 60
sim_kv_lease = 3

[[engine]]
name = "d"
backend = "sim"
model = "demo"
count = 2
role = "decode"
sim_speed = 5
sim_kv_bandwidth = 5e7
sim_kv_lease = 3
"""


class Look:
    """What engines say of themselves now."""

    def __enter__(self) -> Self:
        self._client = Client(choose(None).run_dir)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    def fact(self, engine: str, name: str, pattern: str) -> int:
        said = self._client.ask(f"engine/{engine}", Describe())
        assert isinstance(said, Description), said
        found = re.search(pattern, said.facts.get(name, ""))
        return int(found[1]) if found else 0

    def waiting(self, engine: str) -> int:
        return self.fact(engine, "rank 0", r"(\d+) waiting")

    def used(self, engine: str) -> int:
        return self.fact(engine, "rank 0", r"(\d+) of \d+ blocks")

    def held(self, engine: str) -> int:
        return self.fact(engine, "transfer", r"(\d+) held")


def computing(look: Look, _: list[Answer]) -> bool:
    """A prompt is being computed, and others wait for that."""
    return any(map(look.waiting, PREFILL))


def transferring(look: Look, _: list[Answer]) -> bool:
    """What was computed is being read: there are blocks for it."""
    return any(map(look.held, PREFILL)) and any(map(look.used, DECODE))


def answering(_: Look, answers: list[Answer]) -> bool:
    return all(answer.lines > 3 for answer in answers)


When = Callable[[Look, list[Answer]], bool]


async def asked(
    url: str, engines: tuple[str, ...] = (), when: When = answering
) -> tuple[list[Answer], str]:
    """All answers at once. When it is time, that one of `engines` is killed that has most."""
    answers, victim = [Answer() for _ in range(STREAMS)], ""
    rows = actors()  # before anything is asked: a command takes as long as a prefill
    pids = {engine: rows[f"engine/{engine}"]["pid"] for engine in engines}
    async with httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        reading = [asyncio.create_task(a.read(client, i)) for i, a in enumerate(answers)]
        if engines:
            with Look() as look:
                async with asyncio.timeout(GUARD):
                    while not when(look, answers):
                        assert not all(read.done() for read in reading), f"never {when.__name__}"
                        await asyncio.sleep(0.02)
                victim = max(engines, key=look.used)
            os.kill(pids[victim], signal.SIGKILL)
        await asyncio.gather(*reading)
    return answers, victim


def at_rest() -> bool:
    """All engines are there, and hold nothing for anybody."""
    rows = actors()
    if any(rows[f"engine/{engine}"]["state"] != "ready" for engine in (*PREFILL, *DECODE)):
        return False
    with Look() as look:
        return not any(look.used(engine) for engine in (*PREFILL, *DECODE))


def test_kills_at_each_step(run_directory, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.launch.cli.test_migration.TOKENS", 30)
    port = free_port()
    file = tmp_path / "pd.toml"
    file.write_text(FILE.format(port=port))
    with serving("up", str(file)) as served:
        url = f"http://127.0.0.1:{port}"
        undisturbed, _ = asyncio.run(asked(url))
        assert fact("prefilled_remotely") == STREAMS
        for engines in (PREFILL, DECODE):
            for when in (computing, transferring, answering):
                until(at_rest, f"blocks are held before {when.__name__}")
                answers, victim = asyncio.run(asked(url, engines, when))
                case = f"{victim} while {when.__name__}"
                assert [answer.error for answer in answers] == [None] * STREAMS, case
                assert [a.text for a in answers] == [a.text for a in undisturbed], case
                assert {a.usage["completion_tokens"] for a in answers} == {30}, case
        until(at_rest, "blocks are held")
        assert fact("prefilled_remotely") >= 7 * STREAMS
        assert fact("migrated_mid_stream") > 0
        assert fact("failed") == 0
        assert served.interrupt()[0] == 0
