"""What engines are asked for a choice, and what the client hears of what they say."""

from __future__ import annotations

from array import array
from typing import Any

from msgspec.structs import replace

from actors.gateway.choice import Place
from actors.gateway.events import OpenStream
from schemas import placement
from schemas.generate import Delta, Generate

FOR_ANOTHER: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""vLLM's kv_transfer_params of a prompt that is computed for another engine."""


def prefill_of(generate: Generate) -> Generate:
    """The prompt alone. Its one token is thrown away: the engine that answers makes its own."""
    # A request that ends by a token that stops it would not be kept.
    sampling = replace(
        generate.sampling,
        max_tokens=1,
        min_tokens=1,
        logprobs=None,
        structured=None,
        stop=[],
    )
    return replace(generate, sampling=sampling, transfer=dict(FOR_ANOTHER))


def resuming(generate: Generate, tokens: array[int], *, alone: bool) -> Generate:
    """What comes after these output tokens. The prompt's logprobs were given with the first."""
    sampling = generate.sampling
    if tokens and sampling.prompt_logprobs is not None:
        sampling = replace(sampling, prompt_logprobs=None)
    return replace(generate, sampling=sampling, resumed=tokens.tolist(), alone=alone)


def continued(delta: Delta, cached: int | None) -> Delta:
    """What the client hears of its prompt is what the engine said that computed it.

    `cached` tokens, if that was another one than the first to answer.
    """
    if delta.prompt_tokens is None and delta.cached_tokens is None:
        return delta
    if cached is None:
        return replace(delta, prompt_tokens=None, cached_tokens=None)
    return replace(delta, cached_tokens=cached)


def place_of(
    opened: OpenStream, routed: tuple[str, placement.Placed] | None, prefill: Place | None
) -> Place:
    """Where it runs, and where its prompt was computed, if elsewhere."""
    if opened.chosen or routed is None:
        return Place(opened.engine, opened.rank, None, opened.chosen, prefill=prefill)
    router, placed = routed
    return Place(
        opened.engine,
        opened.rank,
        router,
        placed.policy,
        placed.matched,
        placed.waited,
        placed.considered,
        prefill,
    )
