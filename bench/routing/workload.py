"""The workload, fixed before any routing was measured.

It is the one that llm-d published for its precise prefix-cache routing (llm-d-kv-cache-manager,
`benchmarking/73-capacity`): 150 customers share a context of 6,000 tokens among 5 users each, who
ask the same 1,200 tokens again and again and get 1,000 back. Seats for all of that are 73 % of the
KV cache of eight engines, so whoever keeps customers apart fits, and whoever mixes them does not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

GROUPS = 150
USERS = 5
CONTEXT = 6_000
QUESTION = 1_200
OUTPUT = 1_000

ENGINES = 8
BLOCK_SIZE = 16
BLOCKS = 19_208
"""Of one engine: llm-d's 307,328 tokens."""
MAX_SEQS = 256
BATCHED_TOKENS = 8_192
MODEL_LENGTH = 16_384

SEED = 20_251_122
"""Of prompts, their order and their times: the same for every policy."""

WARM_UP = (15.0, 50.0)
LADDER = (
    (3.0, 20.0),
    (10.0, 20.0),
    (15.0, 20.0),
    (20.0, 38.0),
    (22.0, 34.0),
    (25.0, 30.0),
    (30.0, 25.0),
    (35.0, 21.0),
    (40.0, 38.0),
    (43.0, 36.0),
    (46.0, 33.0),
    (49.0, 30.0),
    (52.0, 29.0),
    (55.0, 27.0),
    (57.0, 26.0),
    (60.0, 25.0),
)
"""Requests per second and seconds of each stage; a stage ends with its last answer."""

SATURATED = 10.0
"""A policy is saturated at the first rate whose TTFT p90 is this many times that of the lowest."""


@dataclass(frozen=True)
class Workload:
    """`cache` scales the KV blocks of every engine, `rates` the rates; stages keep their requests.

    A `part` of it has that part of the customers, engines and requests.
    """

    cache: float = 1.0
    rates: float = 1.0
    part: float = 1.0
    seed: int = SEED
    stages: tuple[tuple[float, float], ...] = LADDER

    @property
    def groups(self) -> int:
        return round(GROUPS * self.part)

    @property
    def engines(self) -> int:
        return round(ENGINES * self.part)

    @property
    def blocks(self) -> int:
        return round(BLOCKS * self.cache)

    @property
    def demand(self) -> float:
        """What all contexts and questions take of the cache of all engines."""
        wanted = self.groups * (CONTEXT + USERS * QUESTION)
        return wanted / (self.engines * self.blocks * BLOCK_SIZE)

    def prompts(self) -> list[list[int]]:
        """Token ids of every user's prompt, in the order in which they are asked, over and over."""
        draw = random.Random(self.seed)
        prompts = []
        for _ in range(self.groups):
            context = draw.choices(range(256), k=CONTEXT)
            prompts += [context + draw.choices(range(256), k=QUESTION) for _ in range(USERS)]
        draw.shuffle(prompts)
        return prompts

    def arrivals(self) -> list[tuple[float, list[float]]]:
        """Per stage, the warm-up first: its rate, and when its requests come, in s, as Poisson."""
        draw = random.Random(self.seed + 1)
        stages = []
        for rate, seconds in (WARM_UP, *self.stages):
            scaled, now, times = rate * self.rates, 0.0, []
            for _ in range(round(rate * seconds * self.part)):
                now += draw.expovariate(scaled * self.part)
                times.append(now)
            stages.append((scaled, times))
        return stages
