"""A connector that keeps blocks must give back what it was given, before the engine is ready.

LMCache starts without a word where it cannot work, and then every request waits for nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from actors.engine.vllm.connectors import parts

KEEPS = "LMCache"
"""How names of connectors begin that keep blocks and hide it when they do not."""
TOKENS = 1024
"""Of the prompt. LMCache keeps whole chunks of 256 tokens, unless it is told otherwise."""
LEAST = 256
TRIES = 3
PAUSE = 1.0
"""Seconds between two tries: some store behind the answer's back."""


class KeepsNothing(Exception):
    """The connector is up and does nothing; the text is for the operator."""


def keeper(transfer_config: Any) -> str | None:
    """The name of a connector that must be checked."""
    names = (name for name, _ in parts(transfer_config))
    return next((name for name in names if name.startswith(KEEPS)), None)


async def check_store(llm: Any, config: Any) -> None:
    """Let a prompt be computed, forget it in the engine, and ask again. Raises KeepsNothing.

    `llm` is the running AsyncLLM, `config` its VllmConfig; no other request runs yet.
    """
    name = keeper(config.kv_transfer_config)
    length = min(TOKENS, config.model_config.max_model_len - 2)
    if name is None or length < LEAST:
        return
    # Drawn anew: blocks that another life stored prove nothing of this one.
    highest = min(1000, config.model_config.get_vocab_size())
    prompt = [random.randrange(highest) for _ in range(length + 1)]
    await _cached(llm, prompt, 0)
    for number in range(1, TRIES + 1):
        await llm.reset_prefix_cache()
        if await _cached(llm, prompt, number):
            await llm.reset_prefix_cache()
            return
        await asyncio.sleep(PAUSE)
    raise KeepsNothing(
        f"{name} is up and keeps nothing: of {length} tokens that it was given none came back; "
        "the log says why. On a CPU LMCache works with its server alone: --connector lmcache"
    )


async def _cached(llm: Any, prompt: list[int], number: int) -> int:
    """How many tokens of the prompt did not have to be computed."""
    from vllm.inputs import tokens_input
    from vllm.sampling_params import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
    found = 0
    async for output in llm.generate(tokens_input(prompt), sampling, f"check-store-{number}"):
        found = output.num_cached_tokens or 0
    return found
