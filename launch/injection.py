"""What Callboard sets where nobody said anything: arguments and environment of engines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launch import kv_events, nixl
from launch.connectors import Transfer, by_table, parts_of
from launch.origins import Injected
from launch.topology import Engine, Topology

CPU_BLOCK_SIZE = 32
CPU_KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
LMCACHE = {
    "LMCACHE_TRACK_USAGE": ("false", "an operator's engine reports to nobody else"),
    "LMCACHE_LOG_LEVEL": ("WARNING", "LMCache's log is no JSON, and tells much"),
    "LMCACHE_DISABLE_BANNER": ("1", "a log is read by programs"),
}
"""Variables of engines with LMCache, and why."""
CONSULTED = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_LORA_MODULES_LOADING_TIMEOUT",
    "PROMETHEUS_MULTIPROC_DIR",
    "VLLM_RPC_BASE_PATH",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    CPU_KV_CACHE,
    *LMCACHE,
    nixl.HOST,
    nixl.PORT,
)
"""Variables that decide what is injected."""
_CPU_SIZES = ("gpu_memory_utilization", "kv_cache_memory_bytes")
"""Arguments that say how large the KV cache is."""


def injected(
    topology: Topology,
    environ: Mapping[str, str],
    *,
    on_cpu: bool,
    events: kv_events.Plan,
    transfers: Mapping[int, Transfer],
    side: nixl.Plan,
) -> dict[str, list[Injected]]:
    """By the engine's name, in their order.

    `on_cpu`: vLLM's engines run there. `transfers` by the place of the engine's table.
    """
    found = {}
    for name, place, engine in by_table(topology):
        values = list(_events(name, events))
        if engine.backend == "vllm":
            values += _arguments(engine, on_cpu=on_cpu)
            values += _transfer(transfers.get(place))
            values += _environment(engine, environ)
            transfer = transfers[place].config if place in transfers else None
            lmcache = _has_lmcache(transfer or engine.args.get("kv_transfer_config"))
            values += _lmcache(environ) if lmcache else ()
            values += _start(engine, environ, lmcache=lmcache, on_cpu=on_cpu)
            values += _side_channel(name, environ, side)
        found[name] = values
    return found


def _events(name: str, events: kv_events.Plan) -> Iterator[Injected]:
    if name not in events.configs:
        return
    actors = [reader.actor for reader in events.readers if reader.engine == name]
    to = actors[0] if len(actors) == 1 else f"{actors[0]} and {len(actors) - 1} more, one per rank"
    config = events.configs[name]
    yield Injected("args.kv_events_config", config, f"its KV events go to {to}")


def _arguments(engine: Engine, *, on_cpu: bool) -> Iterator[Injected]:
    if engine.args.get("enable_prefix_caching") is None:
        reason = "chats and agents repeat their prefixes"
        yield Injected("args.enable_prefix_caching", True, reason)
    if on_cpu and engine.args.get("block_size") is None:
        reason = "on a CPU vLLM's own 128 would share whole 128 tokens only"
        yield Injected("args.block_size", CPU_BLOCK_SIZE, reason)


def _transfer(transfer: Transfer | None) -> Iterator[Injected]:
    if transfer is not None:
        yield Injected("args.kv_transfer_config", transfer.config, transfer.reason)


def _environment(engine: Engine, environ: Mapping[str, str]) -> Iterator[Injected]:
    reason = "an operator's engine reports to nobody else"
    yield _variable("VLLM_NO_USAGE_STATS", "1", reason)
    if engine.args.get("enable_lora"):
        reason = "adapters are loaded while the engine serves"
        for variable, value in (
            ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True"),
            ("VLLM_LORA_MODULES_LOADING_TIMEOUT", "600"),
        ):
            if variable not in environ:
                yield _variable(variable, value, reason)
    for variable, pattern, why in (
        ("PROMETHEUS_MULTIPROC_DIR", "vllm_prometheus_*", "vLLM leaves its own behind when killed"),
        ("VLLM_RPC_BASE_PATH", "vllm_*", "sockets of a killed vLLM go with it"),
    ):
        if variable not in environ:
            reason = f"a temporary directory of each life: {why}"
            yield _variable(variable, pattern, reason, by_engine=True)


def _has_lmcache(transfer: Any) -> bool:
    names = (str(part.get("kv_connector", "")).lower() for part in parts_of(transfer))
    return any("lmcache" in name for name in names)


def _lmcache(environ: Mapping[str, str]) -> Iterator[Injected]:
    for variable, (value, reason) in LMCACHE.items():
        if variable not in environ:
            yield _variable(variable, value, reason)


def _start(
    engine: Engine, environ: Mapping[str, str], *, lmcache: bool, on_cpu: bool
) -> Iterator[Injected]:
    """How its processes start, and on a CPU how much of the memory it takes."""
    method = "VLLM_WORKER_MULTIPROC_METHOD"
    if not on_cpu:
        yield _variable(method, "spawn", "CUDA does not survive a fork", by_engine=True)
        return
    if lmcache:
        reason = "LMCache's numba does not survive a fork"
        yield _variable(method, "spawn", reason, by_engine=True)
    else:
        reason = "a forked EngineCore need not import vLLM again"
        yield _variable(method, "fork", reason, by_engine=True)
    if "VLLM_ENABLE_V1_MULTIPROCESSING" not in environ:
        reason = "the worker runs inside EngineCore: it starts in a third of the time"
        yield _variable("VLLM_ENABLE_V1_MULTIPROCESSING", "0", reason)
    if CPU_KV_CACHE not in environ and not any(engine.args.get(name) for name in _CPU_SIZES):
        reason = "GiB; vLLM would take 92 % of the memory, and others use some"
        yield _variable(CPU_KV_CACHE, "4", reason)


def _side_channel(name: str, environ: Mapping[str, str], side: nixl.Plan) -> Iterator[Injected]:
    if name not in side.channels:
        return
    for variable, value in side.channels[name].environment.items():
        if environ.get(variable) != value:
            reason = side.reason if variable == nixl.HOST else "each rank needs a port of its own"
            yield _variable(variable, value, f"NIXL's side channel: {reason}")


def _variable(name: str, value: str, reason: str, *, by_engine: bool = False) -> Injected:
    return Injected(f"environment.{name}", value, reason, by_engine)
