"""What vLLM's `kv_transfer_config` says: what moves KV blocks, and how long they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LEASE = 30
"""Seconds that NixlConnector keeps blocks for a reader where nothing is configured."""
SERVED = "LMCacheMPConnector"
"""The one whose blocks are kept by LMCache's server."""

KEEPERS = (
    "LMCache",
    "Offloading",
    "SimpleCPUOffload",
    "FlexKV",
    "HF3FS",
    "DynamoConnector",
    "Example",
    "DecodeBench",
)
"""How names of connectors begin that hand no blocks to an engine which is told of them: they return
no kv_transfer_params. Of others, such as an operator's own, vLLM alone can say."""


def parts(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Connectors by name, each with its extra configuration; those inside others too.

    `config` is a KVTransferConfig, or None.
    """
    if config is None or not config.kv_connector:
        return
    yield from _parts(config.kv_connector, config.kv_connector_extra_config or {})


def simple(config: Any) -> list[str]:
    """The names of those that contain no others."""
    return [name for name, extra in parts(config) if "connectors" not in extra]


def mover(config: Any) -> str:
    """The connector that hands blocks to other engines, or reads theirs; "" without any."""
    found = [name for name in simple(config) if not name.startswith(KEEPERS)]
    return next(filter(is_nixl, found), found[0] if found else "")


def lease(config: Any) -> float:
    """Seconds that blocks are kept for a reader that says nothing; 0 where nothing bounds it."""
    for name, extra in parts(config):
        if is_nixl(name):
            return float(extra.get("kv_lease_duration", LEASE))
    return 0.0


def is_nixl(name: str) -> bool:
    return name.startswith("Nixl")


def _parts(name: str, extra: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield name, extra
    inner = extra.get("connectors")
    for part in inner if isinstance(inner, list) else ():
        yield from _parts(part["kv_connector"], part.get("kv_connector_extra_config") or {})
