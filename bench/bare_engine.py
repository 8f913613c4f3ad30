"""Bare `AsyncLLM` under the same bursts as the servers: what any topology around it can reach.

`python -m bench.bare_engine BURSTS.json MODEL [vLLM flags]` prints one JSON line: a row per burst.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from bench.cpu import Tree
from bench.load import Burst, Sample, prompts, summarise


async def request(engine: Any, name: str, tokens: list[int], output: int) -> Sample:
    """Greedy, to full length, text included, as the servers are asked."""
    sampling = SamplingParams(
        temperature=0, max_tokens=output, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    sample = Sample(time.perf_counter())
    async for part in engine.generate({"prompt_token_ids": tokens}, sampling, name):
        sample.arrivals.append(time.perf_counter())
        sample.tokens += len(part.outputs[0].token_ids)
    return sample


async def measure(arguments: Any, bursts: list[Burst]) -> list[dict[str, Any]]:
    began = time.perf_counter()
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(arguments))
    started = time.perf_counter() - began
    tree = Tree([psutil.Process().pid])
    rows = []
    try:
        for number, burst in enumerate(bursts):
            work = prompts(burst)
            before = tree.seconds()
            samples = await asyncio.gather(
                *(
                    request(engine, f"{number}-{i}", tokens, burst.output)
                    for i, tokens in enumerate(work)
                )
            )
            cpu = tree.seconds() - before
            rows.append(summarise(samples) | {"cpu": cpu, "start": started})
    finally:
        engine.shutdown()
    return rows


def main() -> None:
    bursts = [Burst(**burst) for burst in json.loads(Path(sys.argv[1]).read_text())]
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = parser.parse_args(["--model", *sys.argv[2:]])
    print(json.dumps(asyncio.run(measure(arguments, bursts))))


if __name__ == "__main__":
    main()
