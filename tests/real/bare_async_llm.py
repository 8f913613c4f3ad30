"""Answers of vLLM's own AsyncLLM, without any of Callboard: the reference of the real tests.

    python tests/real/bare_async_llm.py ENGINE_ARGUMENTS QUERIES

Both are JSON. A query has `prompt` (token ids) and `sampling` (keywords of SamplingParams). All
run at once, as one batch. Prints a JSON list: token ids, finish and stop reason, logprobs rows.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

Row = list[tuple[int, float, int]]


def rows(logprobs: Any) -> list[Row | None] | None:
    if logprobs is None:
        return None
    return [
        None if row is None else [(token, e.logprob, e.rank) for token, e in row.items()]
        for row in logprobs
    ]


async def answer(llm: Any, number: int, query: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    last = None
    params = SamplingParams(**query["sampling"])
    prompt = TokensPrompt(prompt_token_ids=query["prompt"])
    async for output in llm.generate(prompt, params, str(number)):
        last = output  # cumulative: the last one has all
    assert last is not None
    choice = last.outputs[0]
    return {
        "token_ids": list(choice.token_ids),
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "logprobs": rows(choice.logprobs),
        "prompt_logprobs": rows(last.prompt_logprobs),
    }


async def main() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**json.loads(sys.argv[1])))
    try:
        queries = json.loads(sys.argv[2])
        answers = await asyncio.gather(*(answer(llm, i, q) for i, q in enumerate(queries)))
    finally:
        llm.shutdown()
    # vLLM logs to the standard output too: the answers are its last line.
    sys.stdout.write("\n" + json.dumps(answers) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    asyncio.run(main())
