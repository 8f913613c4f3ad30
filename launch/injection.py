"""What Callboard sets where nobody said anything: arguments and environment of engines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actors.engine.vllm import defaults
from launch import kv_events, nixl
from launch.connectors import Transfer, by_table, parts_of
from launch.origins import Injected
from launch.topology import Engine, Topology

LMCACHE = {
    "LMCACHE_TRACK_USAGE": ("false", "an operator's engine reports to nobody else"),
    "LMCACHE_LOG_LEVEL": ("WARNING", "LMCache's log is no JSON, and tells much"),
    "LMCACHE_DISABLE_BANNER": ("1", "a log is read by programs"),
}
"""Variables of engines with LMCache, and why."""
CONSULTED = (
    *defaults.LORA,
    *defaults.DIRECTORIES,
    defaults.IN_CORE[0],
    defaults.CPU_KV_CACHE[0],
    *LMCACHE,
    nixl.HOST,
    nixl.PORT,
)
"""Variables that decide what is injected."""
_WHY = {
    "enable_prefix_caching": "chats and agents repeat their prefixes",
    "block_size": "on a CPU vLLM's own 128 would share whole 128 tokens only",
    "PROMETHEUS_MULTIPROC_DIR": "vLLM leaves its own behind when killed",
    "VLLM_RPC_BASE_PATH": "sockets of a killed vLLM go with it",
}


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
            given = parts_of(transfer or engine.args.get("kv_transfer_config"))
            lmcache = not defaults.may_fork(str(part.get("kv_connector", "")) for part in given)
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
    for name, value in defaults.arguments(on_cpu=on_cpu).items():
        if engine.args.get(name) is None:
            yield Injected(f"args.{name}", value, _WHY[name])


def _transfer(transfer: Transfer | None) -> Iterator[Injected]:
    if transfer is not None:
        yield Injected("args.kv_transfer_config", transfer.config, transfer.reason)


def _environment(engine: Engine, environ: Mapping[str, str]) -> Iterator[Injected]:
    yield _variable(*defaults.USAGE, "an operator's engine reports to nobody else")
    if engine.args.get("enable_lora"):
        reason = "adapters are loaded while the engine serves"
        for variable, value in defaults.LORA.items():
            if variable not in environ:
                yield _variable(variable, value, reason)
    for variable, prefix in defaults.DIRECTORIES.items():
        if variable not in environ:
            reason = f"a temporary directory of each life: {_WHY[variable]}"
            yield _variable(variable, f"{prefix}*", reason, by_engine=True)


def _lmcache(environ: Mapping[str, str]) -> Iterator[Injected]:
    for variable, (value, reason) in LMCACHE.items():
        if variable not in environ:
            yield _variable(variable, value, reason)


def _start(
    engine: Engine, environ: Mapping[str, str], *, lmcache: bool, on_cpu: bool
) -> Iterator[Injected]:
    """How its processes start, and on a CPU how much of the memory it takes."""
    method = defaults.START_METHOD
    if not on_cpu:
        yield _variable(method, "spawn", "CUDA does not survive a fork", by_engine=True)
        return
    if lmcache:
        reason = "LMCache's numba does not survive a fork"
        yield _variable(method, "spawn", reason, by_engine=True)
    else:
        reason = "a forked EngineCore need not import vLLM again"
        yield _variable(method, "fork", reason, by_engine=True)
    if defaults.IN_CORE[0] not in environ:
        reason = "the worker runs inside EngineCore: it starts in a third of the time"
        yield _variable(*defaults.IN_CORE, reason)
    if defaults.CPU_KV_CACHE[0] not in environ and not defaults.bounds_kv_cache(engine.args):
        reason = "GiB; vLLM would take 92 % of the memory, and others use some"
        yield _variable(*defaults.CPU_KV_CACHE, reason)


def _side_channel(name: str, environ: Mapping[str, str], side: nixl.Plan) -> Iterator[Injected]:
    if name not in side.channels:
        return
    for variable, value in side.channels[name].environment.items():
        if environ.get(variable) != value:
            reason = side.reason if variable == nixl.HOST else "each rank needs a port of its own"
            yield _variable(variable, value, f"NIXL's side channel: {reason}")


def _variable(name: str, value: str, reason: str, *, by_engine: bool = False) -> Injected:
    return Injected(f"environment.{name}", value, reason, by_engine)
