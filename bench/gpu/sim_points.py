"""Times of prefill and decode steps of the shape of Llama 3.1 8B: what `bench.sim_fit` fits.

On the GPU host, in the repository's root (about 5 minutes):

    python3 -m bench.gpu.sim_points --out h100-sim-points.json

`AsyncLLM` alone, with vLLM's own defaults for scheduling. Every point is a few requests of token
ids that share nothing but what the point is about. Times are those of tokens arriving, in ms:

- prefill: one request, `new` tokens to compute after `cached` ones; until its token comes
- prefill_burst: `requests` such requests at once; until the last one's token comes
- decode: `requests` requests with `context` tokens each; one step, all of them decoding
- mixed: the same, and in that step a prompt of `new` tokens is computed too
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import machine
from bench.gpu import model as shape
from bench.load import ORDINARY

for name, value in {
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(name, value)

BUDGET = 8192
"""`max_num_batched_tokens`: vLLM's default for a server on this GPU."""
ALONE = (64, 256, 512, 1024, 2048, 3072, 4096, 6000, 7200, 8000)
CACHED = ((6000, 128), (6000, 1200), (3008, 1200), (2000, 6000))
"""Pairs of tokens that are in the cache, and tokens after them."""
BURSTS = ((16, 0, 6000), (16, 6000, 1200), (64, 0, 512))
DECODES = tuple(
    (requests, context)
    for context, most in ((128, 256), (1024, 256), (4096, 64), (7200, 48))
    for requests in (1, 16, 48, 64, 128, 256)
    if requests <= most
)
MIXED = tuple((64, 1024, new) for new in (128, 512, 1200, 2048, 4096, 8000))
REPEATS = 5
STEPS = 64
"""Decode steps that a point is the median of."""

Point = dict[str, Any]


class Bench:
    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.points: list[Point] = []
        self._seeds = itertools.count()
        self._names = itertools.count()

    def prompt(self, tokens: int) -> list[int]:
        """Never the same twice."""
        return random.Random(next(self._seeds)).choices(ORDINARY, k=tokens)

    async def request(self, tokens: list[int], output: int, times: list[float]) -> None:
        """Greedy, to full length, without text. Appends when each token came, in s."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            temperature=0,
            max_tokens=output,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        asked = {"prompt_token_ids": tokens}
        async for part in self.engine.generate(asked, sampling, f"r{next(self._names)}"):
            now = time.perf_counter()
            times += [now] * len(part.outputs[0].token_ids)

    def add(self, kind: str, times_s: Iterable[float], **what: int) -> None:
        times = sorted(1e3 * seconds for seconds in times_s)
        point = {"kind": kind, **what, "ms": statistics.median(times), "times": times}
        self.points.append(point)
        print({key: value for key, value in point.items() if key != "times"}, flush=True)

    async def burst(self, requests: int, cached: int, new: int) -> float:
        """Seconds until all prompts, whose beginnings were put into the cache, are computed."""
        prompts = [self.prompt(cached + new) for _ in range(requests)]
        if cached:
            # One token more, or the last block of what shall be cached is computed again.
            await asyncio.gather(*(self.request(p[: cached + 1], 1, []) for p in prompts))
        began = time.perf_counter()
        ends: list[float] = []
        await asyncio.gather(*(self.request(prompt, 1, ends) for prompt in prompts))
        return max(ends) - began

    async def decode(self, requests: int, context: int, news: Iterable[int] = ()) -> None:
        """Requests that all decode; between, with `news`, prompts of that many tokens."""
        prefill = requests * context // BUDGET + 16
        news = list(news)
        output = prefill + STEPS + len(news) * REPEATS * 24
        times: list[list[float]] = [[] for _ in range(requests)]
        running = [
            asyncio.ensure_future(self.request(self.prompt(context), output, arrivals))
            for arrivals in times
        ]
        # Looked at now and then: an event set with every token would slow what is measured.
        while not all(times) and not any(task.done() for task in running):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        start = max(arrivals[0] for arrivals in times)
        injected: list[tuple[int, float, float]] = []
        for new in news * REPEATS:
            before = len(times[0])
            while len(times[0]) < before + 8:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            ends: list[float] = []
            mark = time.perf_counter()
            await self.request(self.prompt(new), 1, ends)
            injected.append((new, mark, ends[0]))
        await asyncio.gather(*running)
        end = min(arrivals[-1] for arrivals in times)
        if not news:
            inside = [t for t in times[0] if start < t <= end]
            gaps = [b - a for a, b in itertools.pairwise(inside)]
            self.add("decode", gaps, requests=requests, context=context)
            return
        for new in sorted(set(news)):
            # The step that computed the prompt is the longest that ended while it was asked for.
            longest = [
                max(b - a for a, b in itertools.pairwise(times[0]) if mark < b <= last + 0.001)
                for size, mark, last in injected
                if size == new
            ]
            self.add("mixed", longest, requests=requests, context=context, new=new)


async def measure(bench: Bench, room: int) -> None:
    """All points for which `room` tokens of KV cache suffice."""
    for _ in range(2):
        await bench.burst(8, 0, 1024)
        await bench.burst(1, 0, 8000)
    for cached, new in (*((0, new) for new in ALONE), *CACHED):
        times = [await bench.burst(1, cached, new) for _ in range(REPEATS)]
        bench.add("prefill", times, requests=1, cached=cached, new=new)
    for requests, cached, new in BURSTS:
        times = [await bench.burst(requests, cached, new) for _ in range(3)]
        bench.add("prefill_burst", times, requests=requests, cached=cached, new=new)
    for requests, context in DECODES:
        if requests * (context + 2 * STEPS) < room:
            await bench.decode(requests, context)
    for (requests, context), group in itertools.groupby(MIXED, lambda point: point[:2]):
        await bench.decode(requests, context, [new for *_, new in group])


def engine_arguments(folder: str) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs(
        model=folder,
        load_format="dummy",
        max_model_len=shape.CONTEXT,
        max_num_seqs=256,
        max_num_batched_tokens=BUDGET,
        gpu_memory_utilization=0.9,
        enable_prefix_caching=True,
        seed=0,
    )


async def run(document: dict[str, Any]) -> None:
    """Fills `document`; what there is of it counts, whatever happens."""
    from vllm.v1.engine.async_llm import AsyncLLM

    with tempfile.TemporaryDirectory() as folder:
        shape.write(Path(folder))
        engine = AsyncLLM.from_engine_args(engine_arguments(folder))
        bench = Bench(engine)
        try:
            cache = engine.vllm_config.cache_config
            blocks, size = int(cache.num_gpu_blocks or 0), int(cache.block_size)
            document |= {"blocks": blocks, "block_size": size, "max_num_batched_tokens": BUDGET}
            document["points"] = bench.points
            await measure(bench, blocks * size)
        finally:
            engine.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.gpu.sim_points")
    parser.add_argument("--out", type=Path, default=Path("h100-sim-points.json"))
    out = parser.parse_args().out
    document: dict[str, Any] = {"machine": machine.record(machine.OWN + machine.ENGINE)}
    try:
        asyncio.run(run(document))
    finally:
        out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
