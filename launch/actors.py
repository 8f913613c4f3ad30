"""The actors of a topology, with the options of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from launch import kv_store, nixl
from launch.connectors import Machine, by_table, this_machine, transfers, wanted
from launch.injection import CONSULTED, injected
from launch.kv_events import plan
from launch.origins import Injected
from launch.topology import API_KEYS_ENV, Health, Topology
from launch.vllm_rules import cpu_build


def injections(
    topology: Topology, environ: Mapping[str, str] = os.environ
) -> dict[str, list[Injected]]:
    """What each engine gets on this machine that nobody gave it, by the engine's name."""
    machine = _machine(topology)
    events = plan(topology)
    side = nixl.plan(topology, machine, environ, events, nixl.this_machines_addresses)
    return injected(
        topology,
        environ,
        on_cpu=machine.on_cpu,
        events=events,
        transfers=kv_store.completed(topology, transfers(topology, machine)),
        side=side,
    )


def _machine(topology: Topology) -> Machine:
    """This one, no closer than the topology needs to know it."""
    on_cpu = any(engine.backend == "vllm" for engine in topology.engines) and cpu_build()
    return this_machine() if any(map(wanted, topology.engines)) else Machine(on_cpu=on_cpu)


def document_of(topology: Topology, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The topology as ConfigActor keeps it: with what engines get that nobody gave them, and the
    variables that decided it.
    """
    return {
        **topology.document(),
        "injected": msgspec.to_builtins(injections(topology, environ)),
        "environment": {name: environ[name] for name in CONSULTED if name in environ},
    }


def actors_of(
    topology: Topology, *, api_keys: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, dict[str, Any]]:
    """Options by actor id, in the order of their start.

    `api_keys`: whether gateways find keys in their environment. `environ` is that of the start.
    """
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
            for reader in plan(topology).readers
            if reader.engine not in topology.gone
        },
        **_kv_store(topology),
        **_engines(topology, injections(topology, environ)),
        **_gateways(topology, api_keys=api_keys),
    }


def _monitor(health: Health) -> dict[str, Any]:
    """What was given; the rest is the monitor's own."""
    given = msgspec.to_builtins(health).items()
    own = ((key, value) for key, value in given if key != "canary_payload")
    options = {key: value for key, value in own if value not in (None, {})}
    return options if health.port is not None else {k: v for k, v in options.items() if k != "host"}


def _kv_store(topology: Topology) -> dict[str, dict[str, Any]]:
    options = kv_store.options(topology, transfers(topology, _machine(topology)))
    return {} if options is None else {kv_store.ACTOR: options}


def _engines(
    topology: Topology, injections: dict[str, list[Injected]]
) -> dict[str, dict[str, Any]]:
    actors = {}
    for name, _, engine in by_table(topology):
        if name in topology.gone:
            continue
        options = {"backend": engine.backend, "model": engine.model, **engine.args}
        if engine.role is not None:
            options["role"] = engine.role
        environment = {}
        for one in injections[name]:
            kind, _, key = one.path.partition(".")
            if kind == "args":
                options[key] = one.value
            elif not one.by_engine:
                environment[key] = one.value
        if environment:
            options["environment"] = environment
        actors[f"engine/{name}"] = options
    return actors


def _gateways(topology: Topology, *, api_keys: bool) -> dict[str, dict[str, Any]]:
    given = msgspec.to_builtins(topology.gateway).items()
    options = {key: value for key, value in given if key != "count" and value is not None}
    options["reuse_port"] = True  # more may come, and a port is held for them
    disaggregation = topology.disaggregation
    if disaggregation.local_prefill_tokens is not None:
        options["local_prefill_tokens"] = disaggregation.local_prefill_tokens
    if disaggregation.fallback is not None:
        options["prefill_fallback"] = disaggregation.fallback
    if api_keys:
        options["api_keys_env"] = API_KEYS_ENV
    return {f"gateway/{number}": options for number in range(topology.gateway.count)}
