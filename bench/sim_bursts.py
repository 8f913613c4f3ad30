"""Bursts through the simulator's scheduler, step by step, in simulated time."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.engine.sim.answers import Answers
from actors.engine.sim.options import SimOptions
from actors.engine.sim.rank import Rank
from actors.engine.sim.request import SimRequest
from actors.engine.sim.timing import Timing
from actors.engine.sim.vocabulary import load
from schemas.generate import Generate, Sampling


@dataclass(frozen=True)
class Burst:
    """`requests` at once: `new` prompt tokens after `cached` ones, and `output` tokens each."""

    requests: int
    new: int
    output: int
    cached: int = 0


@dataclass
class Played:
    """Seconds of every request: its first token, its last, and between two."""

    output: int
    firsts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.output * len(self.ends)

    @property
    def per_token(self) -> list[float]:
        gaps = max(1, self.output - 1)
        return [(end - first) / gaps for first, end in zip(self.firsts, self.ends, strict=True)]


def play(burst: Burst, timing: Timing) -> Played:
    options = SimOptions(max_num_batched_tokens=8192, num_gpu_blocks_override=27_000)
    words = load("sim")
    answers = Answers(words, seed=0, sim_seed=0, length=0)
    rank = Rank(0, options, answers, record=False)

    def add(key: int, tokens: list[int], output: int) -> None:
        sampling = Sampling(max_tokens=output, ignore_eos=True)
        request = Generate(str(key), "sim", sampling, tokens)
        answer = answers.answer(tokens, sampling, None)
        limit = len(tokens) + output
        rank.add(SimRequest(key, key, request, answer, block_size=16, limit=limit))

    def prompt(key: int, tokens: int) -> list[int]:
        return [key % 251, key // 251, *([7] * (tokens - 2))]

    now = 0.0
    firsts: dict[int, float] = {}
    ends: dict[int, float] = {}
    for key in range(burst.requests if burst.cached else 0):
        add(key, prompt(key, burst.cached + 1), 1)
    while rank.begin() is not None:
        rank.end()
    for key in range(burst.requests):
        add(key, prompt(key, burst.cached + burst.new), burst.output)
    while (work := rank.begin()) is not None:
        now += timing.seconds(work)
        for key, delta in rank.end().deltas:
            firsts.setdefault(key, now)
            if delta.finish_reason is not None:
                ends[key] = now
    return Played(burst.output, list(firsts.values()), [ends[key] for key in firsts])
