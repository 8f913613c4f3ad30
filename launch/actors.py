"""The actors of a topology, with the options of each."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from launch import nixl
from launch.connectors import Machine, Transfer, by_table, this_machine, transfers, wanted
from launch.kv_events import plan
from launch.topology import API_KEYS_ENV, Health, Topology


def actors_of(topology: Topology, *, api_keys: bool) -> dict[str, dict[str, Any]]:
    """Options by actor id, in the order of their start.

    `api_keys`: whether gateways find keys in their environment.
    """
    kv_events = plan(topology)
    machine = this_machine() if any(map(wanted, topology.engines)) else Machine()
    side = nixl.plan(topology, machine, os.environ, kv_events, nixl.this_machines_addresses)
    routers = range(topology.router.count)
    return {
        "config/0": {},
        "monitor/0": _monitor(topology.health),
        **{f"router/{number}": dict(topology.router.settings) for number in routers},
        **{
            reader.actor: reader.options(
                {
                    "index": topology.kv_events.index,
                    "replay_batches": topology.kv_events.replay_batches,
                    "replay_bytes": topology.kv_events.replay_bytes,
                }
            )
            for reader in kv_events.readers
        },
        **_engines(topology, kv_events.configs, transfers(topology, machine), side.channels),
        **_gateways(topology, api_keys=api_keys),
    }


def _monitor(health: Health) -> dict[str, Any]:
    """What was given; the rest is the monitor's own."""
    given = msgspec.to_builtins(health).items()
    own = ((key, value) for key, value in given if key != "canary_payload")
    options = {key: value for key, value in own if value not in (None, {})}
    return options if health.port is not None else {k: v for k, v in options.items() if k != "host"}


def _engines(
    topology: Topology,
    configs: dict[str, dict[str, Any]],
    transfers: dict[int, Transfer],
    channels: dict[str, nixl.SideChannel],
) -> dict[str, dict[str, Any]]:
    actors = {}
    for name, table, engine in by_table(topology):
        options = {"backend": engine.backend, "model": engine.model, **engine.args}
        if engine.role is not None:
            options["role"] = engine.role
        if name in configs:
            options["kv_events_config"] = configs[name]
        if table in transfers:
            options["kv_transfer_config"] = transfers[table].config
        if name in channels:
            options["environment"] = channels[name].environment
        actors[f"engine/{name}"] = options
    return actors


def _gateways(topology: Topology, *, api_keys: bool) -> dict[str, dict[str, Any]]:
    given = msgspec.to_builtins(topology.gateway).items()
    options = {key: value for key, value in given if key != "count" and value is not None}
    if topology.gateway.count > 1:
        options["reuse_port"] = True
    disaggregation = topology.disaggregation
    if disaggregation.local_prefill_tokens is not None:
        options["local_prefill_tokens"] = disaggregation.local_prefill_tokens
    if disaggregation.fallback is not None:
        options["prefill_fallback"] = disaggregation.fallback
    if api_keys:
        options["api_keys_env"] = API_KEYS_ENV
    return {f"gateway/{number}": options for number in range(topology.gateway.count)}
