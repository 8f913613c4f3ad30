"""Bare `AsyncLLM` under the same bursts as the servers: what any topology around it can reach.

`python -m bench.bare_engine MODEL [vLLM flags]` reads a burst per line and prints a row for each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from bench.load import ROW, Burst, Sample, prompts, summarise


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


async def work(arguments: Any) -> None:
    """A burst per line of standard input, until it ends."""
    began = time.perf_counter()
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(arguments))
    say({"start": time.perf_counter() - began})
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            burst = Burst(**json.loads(line))
            asked = [
                request(engine, f"{burst.seed}-{i}", tokens, burst.output)
                for i, tokens in enumerate(prompts(burst))
            ]
            say(summarise(await asyncio.gather(*asked)))
    finally:
        engine.shutdown()


def say(row: dict[str, Any]) -> None:
    print(ROW + json.dumps(row), flush=True)


def main() -> None:
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    asyncio.run(work(parser.parse_args(["--model", *sys.argv[1:]])))


if __name__ == "__main__":
    main()
