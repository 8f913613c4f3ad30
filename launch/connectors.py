"""From the names of connectors to vLLM's `kv_transfer_config`. Pure, but for `this_machine`.

`nixl` moves KV blocks from prefill to decode engines, `lmcache` and `kvbm` keep them in lower
tiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import msgspec

from launch.flags.cache import installed
from launch.topology import Engine, Topology
from launch.vllm_rules import cpu_build
from schemas.directory import Role

NAMES = ("nixl", "lmcache", "kvbm")
NOTHING = ("none", "null")
"""Names that ask for no connector, from the days when there was one by default."""
LEASE = 9
"""Seconds that a prefill engine keeps blocks which nobody has read; vLLM takes whole seconds."""
SERVED = "LMCacheMPConnector"
"""The connector of engines that share LMCache's server."""
KVBM_MODULE = "kvbm.vllm_integration.connector"
_PD_KEEPERS = ("DynamoConnector", "LMCacheConnectorV1")
"""What PdConnector (kvbm 1.6) takes beside NIXL, of what we make."""

_KV_ROLES: dict[Role, str] = {"prefill": "kv_producer", "decode": "kv_consumer"}
_ROLES: dict[str, Role] = {kv_role: role for role, kv_role in _KV_ROLES.items()}


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the mapping must know of where engines run.

    `packages` are those of nixl, lmcache and kvbm that are installed. `vllm` is the installed
    version.
    """

    on_cpu: bool = False
    packages: frozenset[str] = frozenset(NAMES)
    vllm: str = "unknown"


class Transfer(msgspec.Struct, frozen=True):
    """A `kv_transfer_config`, and why it is so."""

    config: dict[str, Any]
    reason: str


def this_machine() -> Machine:
    """Found without importing any of it."""
    packages = frozenset(name for name in NAMES if find_spec(name) is not None)
    vllm = installed()
    return Machine(
        on_cpu=cpu_build(), packages=packages, vllm="unknown" if vllm is None else vllm.version
    )


def wanted(engine: Engine) -> list[str]:
    """The connectors that the engine names, without those that mean none."""
    return [name for name in engine.connector if name not in NOTHING]


def role_of(engine: Engine) -> Role:
    """As it is given, or as the engine's own transfer configuration tells it."""
    given: Role | None = engine.role or engine.args.get("role")
    if given:
        return given
    own = engine.args.get("kv_transfer_config")
    kv_role = own.get("kv_role") if isinstance(own, dict) else None
    return _ROLES.get(str(kv_role), "aggregated")


def transfer(engine: Engine, machine: Machine) -> Transfer | None:
    """What the engine's connectors come to; None where it names none."""
    names = wanted(engine)
    if not names or engine.backend != "vllm":
        return None
    role = role_of(engine)
    kv_role = _KV_ROLES.get(role, "kv_both")
    moving = "nixl" if "nixl" in names else names[0]
    # One moves blocks between engines, by the engine's role; what offloads also loads again.
    parts = [_part(name, kv_role if name == moving else "kv_both", machine) for name in names]
    config = parts[0] if len(parts) == 1 else _several(parts, kv_role, machine)
    said = f"{' and '.join(names)} on an engine of role {role}"
    if "nixl" in names:
        said += f"; blocks that nobody reads are kept for {LEASE} s"
    return Transfer(config, said)


def transfers(topology: Topology, machine: Machine) -> dict[int, Transfer]:
    """By the place of the engine's table, for those that name connectors."""
    found = ((place, transfer(engine, machine)) for place, engine in enumerate(topology.engines))
    return {place: made for place, made in found if made is not None}


def by_table(topology: Topology) -> list[tuple[str, int, Engine]]:
    """Each engine: its name, the place of its table, and what it is."""
    places = [place for place, table in enumerate(topology.engines) for _ in range(table.count)]
    named = zip(topology.named_engines(), places, strict=True)
    return [(name, place, engine) for (name, _, engine), place in named]


def parts_of(config: Any) -> Iterator[dict[str, Any]]:
    """A transfer configuration, and those inside it."""
    if not isinstance(config, dict):
        return
    yield config
    extra = config.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, dict) else None
    for part in inner if isinstance(inner, list) else ():
        yield from parts_of(part)


def uses_nixl(config: Any) -> bool:
    """Whether NIXL moves blocks by this `kv_transfer_config`."""
    return any(str(part.get("kv_connector", "")).startswith("Nixl") for part in parts_of(config))


def _part(name: str, kv_role: str, machine: Machine) -> dict[str, Any]:
    if name == "nixl":
        return _nixl(kv_role, machine)
    if name == "kvbm":
        return {
            "kv_connector": "DynamoConnector",
            "kv_connector_module_path": KVBM_MODULE,
            "kv_role": kv_role,
        }
    # In one process LMCache does nothing on a CPU, without a word; with its server it works.
    lmcache = SERVED if machine.on_cpu else "LMCacheConnectorV1"
    return {
        "kv_connector": lmcache,
        "kv_role": kv_role,
        # It only saves work: what it cannot give any more the engine computes itself.
        "kv_load_failure_policy": "recompute",
    }


def _nixl(kv_role: str, machine: Machine) -> dict[str, Any]:
    config: dict[str, Any] = {
        "kv_connector": "NixlConnector",
        "kv_role": kv_role,
        # The gateway computes the prompt again: an engine that did so silently would hide the loss.
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {"kv_lease_duration": LEASE},
    }
    return {**config, "kv_buffer_device": "cpu"} if machine.on_cpu else config


def _several(parts: list[dict[str, Any]], kv_role: str, machine: Machine) -> dict[str, Any]:
    """In their order: blocks are loaded from the first that has them, and saved to all.

    kvbm's own PdConnector takes just two, what keeps blocks and NIXL; vLLM's takes all.
    """
    config: dict[str, Any] = {
        "kv_connector": "MultiConnector",
        "kv_role": kv_role,
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {"connectors": parts},
    }
    names = [part["kv_connector"] for part in parts]
    if "kvbm" in machine.packages and names in (
        [keeper, "NixlConnector"] for keeper in _PD_KEEPERS
    ):
        config |= {"kv_connector": "PdConnector", "kv_connector_module_path": KVBM_MODULE}
    return config
