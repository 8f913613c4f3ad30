"""LMCache's server as an actor of the topology: where it listens, and who is told so. Pure.

Engines that name a server of their own in their connector's configuration use that one, and wait
for it as for ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from launch.connectors import SERVED, Transfer, by_table, parts_of
from launch.kv_events import LOOPBACK, rank_range
from launch.topology import Engine, Topology

ACTOR = "kv-store/0"
HOST, PORT = "lmcache.mp.host", "lmcache.mp.port"
_NAMES = (HOST, PORT, "lmcache.mp.server_urls", "lmcache.mp.autostart")
"""Keys of the connector that tell of another server; with the last it starts one itself."""
POLICY = "recompute"
"""The server only saves work: what it cannot give any more the engine computes itself."""
WAITS = {"lmcache.mp.heartbeat_interval": 2.0, "lmcache.mp.mq_timeout": 120.0}
"""Seconds. LMCache's own would let a request wait 20 s for a server that has died, and an engine
that starts 300 s for one that is not there."""
CHUNK = 256
"""Tokens that LMCache keeps and finds at once, where they are whole blocks of every engine."""
MOST_WORKERS = 16
_BLOCK = 32
"""Tokens in a block where nothing else is said: 32 on a CPU, 16 elsewhere."""


def users(topology: Topology, transfers: Mapping[int, Transfer]) -> list[tuple[str, Engine]]:
    """Engines of vLLM that shall use the topology's server, by name.

    `transfers` as `launch.connectors` has them.
    """
    return [
        (name, engine)
        for name, place, engine in by_table(topology)
        if engine.backend == "vllm" and any(_open(_config(place, engine, transfers)))
    ]


def completed(topology: Topology, transfers: Mapping[int, Transfer]) -> dict[int, Transfer]:
    """`transfers`, and those that engines brought along, told where the server is and how long
    to wait for it.
    """
    ours = {HOST: f"tcp://{LOOPBACK}", PORT: topology.kv_store.port}
    found = dict(transfers)
    for place, engine in enumerate(topology.engines):
        config = _config(place, engine, transfers)
        if engine.backend != "vllm" or not any(_served(config)):
            continue
        given = transfers.get(place)
        whose = "kv_transfer_config" if given is None else given.reason
        whichever = f"is {ACTOR}" if any(_open(config)) else "is one of your own"
        found[place] = Transfer(_filled(config, ours), f"{whose}; LMCache's server {whichever}")
    return found


def options(topology: Topology, transfers: Mapping[int, Transfer]) -> dict[str, Any] | None:
    """The actor's; None where no engine needs it."""
    engines = users(topology, transfers)
    if not engines:
        return None
    settings = topology.kv_store
    block = math.lcm(*(engine.args.get("block_size") or _BLOCK for _, engine in engines))
    ranks = sum(rank_range(engine)[1] for _, engine in engines)
    return {
        "port": settings.port,
        "http_port": settings.port + 1,
        "memory_gb": settings.memory_gb,
        "chunk_tokens": -(-CHUNK // block) * block,
        "workers": min(ranks, MOST_WORKERS),
    }


def _config(place: int, engine: Engine, transfers: Mapping[int, Transfer]) -> Any:
    made = transfers.get(place)
    return engine.args.get("kv_transfer_config") if made is None else made.config


def _served(config: Any) -> Iterator[dict[str, Any]]:
    """The connectors inside that want a server."""
    return (part for part in parts_of(config) if part.get("kv_connector") == SERVED)


def _open(config: Any) -> Iterator[dict[str, Any]]:
    """Those of them that name none."""
    return (part for part in _served(config) if not any(name in _extra(part) for name in _NAMES))


def _extra(part: dict[str, Any]) -> dict[str, Any]:
    extra = part.get("kv_connector_extra_config")
    return extra if isinstance(extra, dict) else {}


def _filled(config: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The same, with what we add below what its connectors of LMCache say themselves."""
    extra = _extra(config)
    if any(part is config for part in _served(config)):
        told = {**(ours if any(_open(config)) else {}), **WAITS, **extra}
        policy = {"kv_load_failure_policy": POLICY}
        return {**policy, **config, "kv_connector_extra_config": told}
    inner = extra.get("connectors")
    if not isinstance(inner, list):
        return dict(config)
    parts = [_filled(part, ours) if isinstance(part, dict) else part for part in inner]
    return {**config, "kv_connector_extra_config": {**extra, "connectors": parts}}
