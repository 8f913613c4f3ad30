"""What a running vLLM engine tells gateways and routers of itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllm import envs
from vllm.transformers_utils.repo_utils import try_get_local_file

from actors.engine.adapters import check_names
from actors.engine.vllm.connectors import is_nixl, lease, mover, parts
from actors.engine.vllm.options import OwnOptions
from actors.engine.vllm.plugin import kv_events
from actors.engine.vllm.resuming import obstacle
from actors.engine.vllm.setup import Engine
from schemas.directory import PRIVATE_SEED, ModelCard, Role

ROLES: dict[str | None, Role] = {"kv_producer": "prefill", "kv_consumer": "decode"}


def make_card(
    engine: Engine, own: OwnOptions, arguments: dict[str, Any], adapters: list[str]
) -> ModelCard:
    """`arguments` are the engine arguments as the operator gave them. See `Adapters` for CPUs."""
    names = served_names(arguments)
    check_names(adapters, names)
    config = engine.config
    model = config.model_config
    connectors = [name for name, _ in parts(config.kv_transfer_config)]
    return ModelCard(
        model=arguments["model"],
        served_names=adapters if adapters and engine.on_cpu else [*names, *adapters],
        engine="vllm",
        engine_version=engine.version,
        context_length=model.max_model_len,
        block_size=config.cache_config.block_size,
        num_blocks=engine.num_blocks,
        max_num_seqs=config.scheduler_config.max_num_seqs,
        max_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        ranks=len(engine.ranks),
        role=own.role or _role(config.kv_transfer_config),
        tokenizer=tokenizer_directory(model.tokenizer, model.tokenizer_revision),
        chat_template=own.chat_template,
        tool_parser=own.tool_call_parser,
        reasoning_parser=arguments.get("reasoning_parser") or None,
        text_mode=own.use_vllm_tokenizer,
        vocab_size=model.get_vocab_size(),
        eos_token_ids=eos_token_ids(engine),
        max_logprobs=model.max_logprobs,
        default_sampling=engine.default_sampling,
        kv_publisher=_kv_publisher(config.kv_events_config),
        resumes=obstacle(config) is None,
        connector=mover(config.kv_transfer_config),
        kv_lease=lease(config.kv_transfer_config),
        prefix_caching=bool(config.cache_config.enable_prefix_caching),
        adapters=adapters,
        revision=revision(model.model, model.revision),
        plugged=kv_events.installed(),
        kv_events=events_endpoint(config.kv_events_config),
        side_channel=side_channel(connectors, engine.ranks[0]),
        kv_role=getattr(config.kv_transfer_config, "kv_role", None) or "",
        kv_connectors=connectors,
        kv_hashes=kv_hashes(config.cache_config.prefix_caching_hash_algo),
    )


def served_names(arguments: dict[str, Any]) -> list[str]:
    """The names that requests may ask for; the model as the operator wrote it if none is given."""
    names = arguments.get("served_model_name")
    if not names:
        return [str(arguments["model"])]
    return [names] if isinstance(names, str) else list(names)


def tokenizer_directory(name: str, revision: str | None) -> str:
    """Where the tokenizer's files lie: vLLM has fetched those of a hub's name into the cache."""
    if Path(name).is_dir():
        return str(Path(name).absolute())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        cached = try_get_local_file(name, file, revision)
        if isinstance(cached, Path):
            return str(cached.parent)
    return name  # gateways say what they miss


def revision(name: str, asked: str | None) -> str:
    """The commit of the model's files, where they come from a hub: `main` moves.

    Without a network vLLM itself makes of a hub's name its place in the cache.
    """
    place = Path(name)
    if not place.is_dir():
        cached = try_get_local_file(name, "config.json", asked)
        if not isinstance(cached, Path):
            return asked or ""
        place = cached.parent
    repository, snapshots, commit = ("", "", "", *place.parts)[-3:]
    fetched = snapshots == "snapshots" and repository.startswith("models--")
    return commit if fetched else asked or ""


def kv_hashes(algorithm: str) -> str:
    """How EngineCore names blocks; it draws a seed where a known one would let others forge."""
    seed = os.environ.get("PYTHONHASHSEED")
    if seed is None and algorithm.startswith("xxhash"):
        return f"{algorithm} with {PRIVATE_SEED}"
    return algorithm if seed is None else f"{algorithm} with seed {seed}"


def side_channel(connectors: Iterable[str], first_rank: int) -> str:
    """Of the first rank; NIXL adds vLLM's number of the rank."""
    if not any(map(is_nixl, connectors)):
        return ""
    port = envs.VLLM_NIXL_SIDE_CHANNEL_PORT + first_rank
    return f"{envs.VLLM_NIXL_SIDE_CHANNEL_HOST}:{port}"


def events_endpoint(events: Any) -> str:
    published = events is not None and events.enable_kv_cache_events
    return str(events.endpoint) if published else ""


def _kv_publisher(events: Any) -> str:
    if events is None or not events.enable_kv_cache_events or events.publisher != "zmq":
        return ""
    # vLLM has called its plugins in this process, and does in EngineCore, in the same environment.
    return "callboard" if kv_events.installed() else "vllm"


def _role(transfer: Any) -> Role:
    return "aggregated" if transfer is None else ROLES.get(transfer.kv_role, "aggregated")


def eos_token_ids(engine: Engine) -> list[int]:
    """All tokens that end an answer: the tokenizer's first, then the generation_config's."""
    tokenizer = engine.llm.tokenizer
    found = [] if tokenizer is None else [tokenizer.eos_token_id]
    configured = engine.config.model_config.try_get_generation_config().get("eos_token_id")
    found += configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(token for token in found if token is not None))
