"""What Callboard gives an engine of vLLM where nobody said anything. Pure; loads no vLLM.

`launch` shows it before the start, and the engine, which may have been started alone, does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CPU_BLOCK_SIZE = 32
"""vLLM's 128 shares prefixes of whole 128 tokens only; its kernels want a multiple of 32."""

START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
USAGE = ("VLLM_NO_USAGE_STATS", "1")
LORA = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_LORA_MODULES_LOADING_TIMEOUT": "600"}
"""Adapters are loaded while the engine serves, and a large one may take minutes."""
IN_CORE = ("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
"""On a CPU: the worker runs inside EngineCore. One process less to start, 13 s instead of 39 s."""
CPU_KV_CACHE = ("VLLM_CPU_KVCACHE_SPACE", "4")
"""GiB. vLLM would take 92 % of the memory, and not start where anything else uses some."""
DIRECTORIES = {"PROMETHEUS_MULTIPROC_DIR": "vllm_prometheus_", "VLLM_RPC_BASE_PATH": "vllm_"}
"""Made for each life and removed with it: what their names begin with."""

_CACHE_SIZES = ("gpu_memory_utilization", "kv_cache_memory_bytes")


def arguments(*, on_cpu: bool) -> dict[str, Any]:
    """Engine arguments where Callboard's default is not vLLM's."""
    # Chats and agents repeat their prefixes; vLLM leaves this off for some kinds of models.
    chosen: dict[str, Any] = {"enable_prefix_caching": True}
    if on_cpu:
        chosen["block_size"] = CPU_BLOCK_SIZE
    return chosen


def bounds_kv_cache(given: Mapping[str, Any]) -> bool:
    """Whether engine arguments say how large the KV cache is."""
    return any(given.get(name) is not None for name in _CACHE_SIZES)


def may_fork(connectors: Iterable[str]) -> bool:
    """On a CPU: whether EngineCore can be forked, so that it need not import vLLM again.

    LMCache's connector imports numba, whose thread pool does not survive it.
    """
    return not any("lmcache" in name.lower() for name in connectors)
